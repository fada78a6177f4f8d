"""Numbers as runs, and payloads as one piece of JSON: a page of a thousand predictions without a thousand objects."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, islice
from typing import overload

from msgspec import Struct

from cloud.wire import join_payloads

Span = tuple[int, int]
"""A run of numbers that follow on each other, both ends included."""


class Stored(Struct, frozen=True, gc=False):
    """A prediction on its way to the cloud; `payload` is byte for byte what goes on the wire.

    A `seq` below zero is the handle of one that only memory holds (`tail.py`): its payload carries no number.
    """

    seq: int
    payload: bytes


class Seqs(Sequence[int]):
    """Numbers in a given order, kept as runs; equal to any sequence of the same numbers in the same order."""

    __slots__ = ("_count", "spans")

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        """`spans` are taken as they are: give two neighbours as one, or the same numbers will have two faces."""
        self.spans = tuple(spans)
        self._count = sum([last - first + 1 for first, last in self.spans])

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(range(first, last + 1) for first, last in self.spans)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> "Seqs": ...
    def __getitem__(self, index: "int | slice") -> "int | Seqs":
        if isinstance(index, slice):
            return seqs_of(islice(self, *index.indices(len(self))))
        left = index if index >= 0 else self._count + index
        if left < 0:
            raise IndexError(index)
        for first, last in self.spans:
            if left <= last - first:
                return first + left
            left -= last - first + 1
        raise IndexError(index)

    def __add__(self, other: "Seqs") -> "Seqs":
        if self.spans and other.spans and self.spans[-1][1] + 1 == other.spans[0][0]:
            return Seqs((*self.spans[:-1], (self.spans[-1][0], other.spans[0][1]), *other.spans[1:]))
        return Seqs(self.spans + other.spans)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Seqs):
            return self.spans == other.spans
        return isinstance(other, tuple | list | range) and self == seqs_of(other)

    def __hash__(self) -> int:
        return hash(self.spans)

    def __repr__(self) -> str:
        return f"Seqs({', '.join(f'{a}-{b}' if a != b else str(a) for a, b in self.spans)})"


NO_SEQS = Seqs()


class Payloads(Sequence[Stored]):
    """What a batch carries: payloads with commas between, as they go on the wire, and their numbers in that order.

    A sequence of `Stored`, but the way from the buffer to the wire looks into none of them: only a batch that must be
    taken apart pays for that.
    """

    __slots__ = ("body", "seqs", "sizes")

    def __init__(self, seqs: Seqs = NO_SEQS, body: bytes = b"", sizes: tuple[int, ...] = ()) -> None:
        """`sizes`: how long each is. A damaged one could not be told from its neighbours without."""
        self.seqs = seqs
        self.body = body
        self.sizes = sizes

    @property
    def size(self) -> int:
        """Bytes of the payloads, without the commas between them."""
        return len(self.body) - max(0, len(self.seqs) - 1)

    def apart(self) -> tuple[Stored, ...]:
        """One by one."""
        starts = accumulate([size + 1 for size in self.sizes], initial=0)
        payloads = [self.body[start : start + size] for start, size in zip(starts, self.sizes, strict=False)]
        return tuple([Stored(*pair) for pair in zip(self.seqs, payloads, strict=True)])

    def __len__(self) -> int:
        return len(self.seqs)

    def __iter__(self) -> Iterator[Stored]:
        return iter(self.apart())

    @overload
    def __getitem__(self, index: int) -> Stored: ...
    @overload
    def __getitem__(self, index: slice) -> "Payloads": ...
    def __getitem__(self, index: "int | slice") -> "Stored | Payloads":
        return payloads_of(self.apart()[index]) if isinstance(index, slice) else self.apart()[index]

    def __add__(self, other: "Payloads") -> "Payloads":
        return joined([self, other])

    def __eq__(self, other: object) -> bool:
        if isinstance(other, tuple | list):
            return self.apart() == tuple(other)
        return isinstance(other, Payloads) and (self.seqs, self.body) == (other.seqs, other.body)

    def __hash__(self) -> int:
        return hash((self.seqs, self.body))

    def __repr__(self) -> str:
        return f"Payloads({self.seqs}, {self.size} bytes)"


def seqs_of(numbers: Iterable[int]) -> Seqs:
    """The same numbers in the same order."""
    if isinstance(numbers, Seqs):
        return numbers
    spans: list[Span] = []
    first = last = 0
    for number in numbers:
        if number != last + 1 or not spans:
            spans.append((number, number))
            first = number
        else:
            spans[-1] = (first, number)
        last = number
    return Seqs(spans)


def payloads_of(records: Iterable[Stored]) -> Payloads:
    """The same predictions."""
    if isinstance(records, Payloads):
        return records
    some = tuple(records)
    payloads = [record.payload for record in some]
    seqs = seqs_of([record.seq for record in some])
    return Payloads(seqs, join_payloads(payloads), tuple([len(payload) for payload in payloads]))


def joined(pieces: Iterable[Payloads]) -> Payloads:
    """One after the other as one, each byte copied once."""
    some = [piece for piece in pieces if piece.seqs]
    if len(some) < 2:
        return some[0] if some else Payloads()
    seqs = NO_SEQS
    for piece in some:
        seqs += piece.seqs
    sizes = tuple(chain.from_iterable([piece.sizes for piece in some]))
    return Payloads(seqs, join_payloads([piece.body for piece in some]), sizes)
