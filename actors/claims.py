"""Which numbers a lane has in its hands, as runs: a number is on its way once at a time, or not at all."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

import attrs

from actors.seqs import Seqs, Span, seqs_of


@attrs.define
class Claims:
    """A set of numbers that costs by its runs: pages of thousands come and go as one."""

    _spans: list[Span] = attrs.field(factory=list, init=False)
    """In order, none touching the next."""
    _count: int = attrs.field(default=0, init=False)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, number: object) -> bool:
        assert isinstance(number, int)
        at = bisect_right(self._spans, number, key=_first) - 1
        return at >= 0 and number <= self._spans[at][1]

    def __iter__(self) -> Iterator[int]:
        return iter(Seqs(self._spans))

    def take(self, seqs: Seqs) -> None:
        """Claim numbers that nobody has claimed."""
        for first, last in seqs.spans:
            at = bisect_left(self._spans, first, key=_first)
            low, high, begin, end = first, last, at, at
            if at and self._spans[at - 1][1] == first - 1:
                low, begin = self._spans[at - 1][0], at - 1
            if at < len(self._spans) and self._spans[at][0] == last + 1:
                high, end = self._spans[at][1], at + 1
            self._spans[begin:end] = [(low, high)]
            self._count += last - first + 1

    def give_back(self, seqs: Seqs) -> None:
        """Free numbers; those that nobody has claimed are passed over."""
        for first, last in seqs.spans:
            begin, end = self._touching(first, last)
            left: list[Span] = []
            for low, high in self._spans[begin:end]:
                self._count -= min(high, last) - max(low, first) + 1
                left += [(low, first - 1)] if low < first else []
                left += [(last + 1, high)] if high > last else []
            self._spans[begin:end] = left

    def free(self, seqs: Seqs) -> Seqs:
        """Those of the numbers that nobody has claimed; the very same object if that is all of them."""
        if all(begin == end for begin, end in (self._touching(*span) for span in seqs.spans)):
            return seqs
        return seqs_of(number for number in seqs if number not in self)

    def _touching(self, first: int, last: int) -> tuple[int, int]:
        """Where in the list those are that share a number with the run."""
        begin = bisect_right(self._spans, first, key=_first)
        begin -= bool(begin and self._spans[begin - 1][1] >= first)
        return begin, bisect_right(self._spans, last, key=_first)


def _first(span: Span) -> int:
    return span[0]
