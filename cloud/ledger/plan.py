"""What becomes of the batches that share a commit: decided in memory, whatever store they go to.

A store reads the ranges around the numbers that came (`Stream`); `plan_all` says which records are new; of repeats the
store looks up what `unseen` names, and `compare` says which of them conflict; then it writes what is new, what has
changed of the ranges, and the sums.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Self, cast

import attrs
from msgspec import UNSET

from cloud import wire
from cloud.ledger import Batch, Gap, Record
from cloud.ledger.books import Book
from cloud.ledger.ranges import Span
from cloud.ledger.rollups import Key, Rollup, lateness_s, roll_up

REASON_CHARS_MAX = 256


class StreamKey(NamedTuple):
    """A stream as the tables name it; '' for what came without."""

    edge_device_id: str
    stream_id: str

    @classmethod
    def of(cls, batch: Batch) -> Self:
        """Where a batch belongs."""
        return cls(batch.device_id, batch.stream_id or "")


class Numbered(NamedTuple):
    """A number of a stream."""

    stream: StreamKey
    seq: int


class Contradiction(NamedTuple):
    """A number that came again with another payload."""

    number: Numbered
    digest: bytes
    received_at: float
    payload: str


class Seen(NamedTuple):
    """What batches tell of their device. `pending` and `lateness_s` are None where nothing is told of them.

    Without any prediction (`empty`) the lateness known before holds on.
    """

    first_at: float
    last_at: float
    late: bool
    pending: int | None
    lateness_s: float | None
    empty: bool


@attrs.define(eq=False)
class Stream:
    """A stream while batches are stored: its book, its sums, and the payloads of this commit."""

    book: Book
    _before: tuple[frozenset[Span], frozenset[Gap]] = attrs.field(init=False)
    fresh: dict[int, str] = attrs.field(factory=dict)
    unnumbered: int = 0
    duplicates: int = 0
    conflicts: int = 0
    rejected: int = 0

    def __attrs_post_init__(self) -> None:
        self._before = (frozenset(self.book.stored), frozenset(self.book.explained))

    def stored_changes(self) -> tuple[frozenset[Span], frozenset[Span]]:
        """The stored ranges that are gone, and those that are new."""
        before, after = self._before[0], frozenset(self.book.stored)
        return before - after, after - before

    def explained_changes(self) -> tuple[frozenset[Gap], frozenset[Gap]]:
        """The same of the explained ones."""
        before, after = self._before[1], frozenset(self.book.explained)
        return before - after, after - before

    def sums(self) -> tuple[int, ...]:
        """The highest number that anybody spoke of, then what is added to: stored, explained, unnumbered, duplicates,
        conflicts, rejected.
        """
        book = self.book
        return (
            book.last_seq, book.stored_more, book.explained_more, self.unnumbered, self.duplicates, self.conflicts,
            self.rejected,
        )  # fmt: skip


@attrs.define(eq=False)
class Plan:
    """What is to be done about one batch."""

    batch: Batch
    key: StreamKey
    fresh: list[Record]
    unnumbered: int
    repeats: list[Record]
    conflicting: list[int] = attrs.field(factory=list)

    def answer(self) -> wire.Answer:
        """What holds once the transaction has been committed."""
        return wire.Answer(
            accepted=len(self.fresh),
            duplicates=len(self.repeats) - len(self.conflicting),
            conflicts=len(self.conflicting),
            conflicting=self.conflicting or UNSET,
            rejected=list(self.batch.rejected),
            delivery="at-least-once" if self.unnumbered or self.batch.stream_id is None else "exactly-once",
        )


def devices_of(batches: Iterable[Batch]) -> list[tuple[str, Seen]]:
    """What is told of each device, by its id: two replicas that lock rows in one order never wait crosswise."""
    found: dict[str, Seen] = {}
    for batch in batches:
        seen = found.get(batch.device_id)
        found[batch.device_id] = Seen(
            first_at=seen.first_at if seen else batch.received_at,
            last_at=batch.received_at,
            late=batch.late,
            pending=batch.pending if batch.pending is not None else seen.pending if seen else None,
            lateness_s=lateness_s(batch) if batch.records else seen.lateness_s if seen else None,
            empty=not batch.records and (seen.empty if seen else True),
        )
    return sorted(found.items())


def by_stream(batches: Iterable[Batch]) -> dict[StreamKey, list[Batch]]:
    """The batches of each stream."""
    found: dict[StreamKey, list[Batch]] = {}
    for batch in batches:
        found.setdefault(StreamKey.of(batch), []).append(batch)
    return found


def plan_all(streams: Mapping[StreamKey, Stream], batches: Iterable[Batch]) -> list[Plan]:
    """Which records are new, which came before, and why others will not come."""
    return [_plan(streams[StreamKey.of(batch)], batch) for batch in batches]


def _plan(stream: Stream, batch: Batch) -> Plan:
    first, repeats, unnumbered = sort_out(batch.records)
    known = stream.book.note_stored(first)
    numbered = [record for seq, record in first.items() if seq not in known] if known else list(first.values())
    stream.fresh |= {seq: record.payload for seq, record in first.items() if seq not in known}
    losses, refusals, refused = explanations(batch)
    for gap in losses:
        stream.book.explain(gap)
    stream.rejected += refused + sum(stream.book.explain(gap) for gap in refusals)
    stream.unnumbered += len(unnumbered)
    repeats += [first[seq] for seq in sorted(known)]
    return Plan(batch, StreamKey.of(batch), [*numbered, *unnumbered], len(unnumbered), repeats)


def sort_out(records: Iterable[Record]) -> tuple[dict[int, Record], list[Record], list[Record]]:
    """The first of each number, later ones with a number seen before in this batch, and those without any."""
    records = list(records)
    seqs = {record.seq: record for record in records}
    if len(seqs) == len(records) and None not in seqs:
        return cast("dict[int, Record]", seqs), [], []
    first: dict[int, Record] = {}
    repeats: list[Record] = []
    unnumbered: list[Record] = []
    for record in records:
        if record.seq is None:
            unnumbered.append(record)
        elif first.setdefault(record.seq, record) is not record:
            repeats.append(record)
    return first, repeats, unnumbered


def explanations(batch: Batch) -> tuple[list[Gap], list[Gap], int]:
    """The losses and the numbered refusals of a batch as gaps, and how many refusals have no number."""
    losses = [Gap(loss.from_seq, loss.to_seq, loss.reason) for loss in batch.losses]
    numbered = [(r.seq, r.error) for r in batch.rejected if r.seq is not None and batch.stream_id is not None]
    refusals = [Gap(seq, seq, f"rejected: {error}"[:REASON_CHARS_MAX]) for seq, error in numbered]
    return losses, refusals, len(batch.rejected) - len(refusals)


def unseen(streams: Mapping[StreamKey, Stream], plans: Iterable[Plan]) -> list[Numbered]:
    """The repeats whose first payload lies in the store, each once."""
    return list(
        {
            Numbered(plan.key, record.seq): None
            for plan in plans
            for record in plan.repeats
            if record.seq is not None and record.seq not in streams[plan.key].fresh
        }
    )


def compare(
    streams: Mapping[StreamKey, Stream], plans: Sequence[Plan], stored: Mapping[Numbered, str]
) -> list[Contradiction]:
    """The repeats with another payload than the first one: these are kept aside, the others count as duplicates.

    `stored` has the payloads of what is `unseen`. A prediction that retention has dropped is not among them and can't
    be compared: its number was stored, so the repeat is a duplicate.
    """
    found: list[Contradiction] = []
    for plan in plans:
        stream = streams[plan.key]
        for record in plan.repeats:
            assert record.seq is not None, "a repeat is known by its number"
            number = Numbered(plan.key, record.seq)
            first = stream.fresh.get(record.seq) or stored.get(number)
            if first is not None and first != record.payload:
                plan.conflicting.append(record.seq)
                digest = hashlib.sha256(record.payload.encode()).digest()
                found.append(Contradiction(number, digest, plan.batch.received_at, record.payload))
        stream.duplicates += len(plan.repeats) - len(plan.conflicting)
    return found


def rollups_of(plans: Iterable[Plan]) -> dict[tuple[str, Key], Rollup]:
    """What is added to the rollups of each device."""
    found: dict[tuple[str, Key], Rollup] = {}
    for plan in plans:
        for key, rollup in roll_up(plan.fresh, plan.batch.received_at, late=plan.batch.late).items():
            known = found.setdefault((plan.batch.device_id, key), rollup)
            if known is not rollup:
                known.add(rollup)
    return found
