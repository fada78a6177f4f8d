"""What the cloud has confirmed of rows that were written as pending: ranges of numbers in place of a mark on each row.

A mark changes a row, so SQLite writes its page again, twice, with all the payloads on it: to mark what a drain has
sent took a third of the drain's processor time and nearly all of its writes. A range is one small row for a whole
batch. The view `prediction_buffer` shows the rows as the ranges say; who looks for what is pending passes over them.

Each number of a range has a row that says 'pending'; ranges never overlap.
"""

import contextlib
import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

import google_crc32c

from actors.ports.sqlite import BufferDamaged
from actors.seqs import Span
from cloud.wire import SEQ_MAX


class Confirmed:
    """The ranges as memory holds them: in order, with neighbours as one."""

    def __init__(self) -> None:
        """None yet."""
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self.count = 0
        """How many numbers are confirmed."""

    def add(self, first: int, last: int) -> None:
        """None of these was in here."""
        self.count += last - first + 1
        place = bisect_left(self._firsts, first)
        before = place > 0 and self._lasts[place - 1] == first - 1
        behind = place < len(self._firsts) and self._firsts[place] == last + 1
        if before:
            place -= 1
            first = self._firsts[place]
        if behind:
            last = self._lasts[place + before]
        taken = slice(place, place + before + behind)
        self._firsts[taken], self._lasts[taken] = [first], [last]

    def cut(self, first: int, last: int) -> None:
        """None of these is in here any more."""
        gone = self.within(first, last)
        if not gone:
            return
        self.count -= sum([end - start + 1 for start, end in gone])
        taken = self._touched(first, last)
        left = [
            (start, end)
            for start, end in ((self._firsts[taken.start], first - 1), (last + 1, self._lasts[taken.stop - 1]))
            if start <= end
        ]
        self._firsts[taken], self._lasts[taken] = [start for start, _ in left], [end for _, end in left]

    def within(self, first: int, last: int) -> list[Span]:
        """The parts of `first` to `last` that are confirmed."""
        taken = self._touched(first, last)
        spans = zip(self._firsts[taken], self._lasts[taken], strict=True)
        return [(max(start, first), min(end, last)) for start, end in spans]

    def free(self, first: int, last: int) -> list[Span]:
        """The parts of `first` to `last` that are not."""
        found: list[Span] = []
        at = first
        for start, end in self.within(first, last):
            if start > at:
                found.append((at, start - 1))
            at = end + 1
        if at <= last:
            found.append((at, last))
        return found

    def gaps(self, above: int) -> Iterator[Span]:
        """Between which bounds (outside of both) a number above `above` is not confirmed; from the lowest up."""
        place = bisect_right(self._firsts, above + 1)
        low = above
        if place and self._lasts[place - 1] > low:
            low = self._lasts[place - 1]
        for first, last in zip(self._firsts[place:], self._lasts[place:], strict=True):
            yield low, first
            low = last
        yield low, SEQ_MAX

    def gaps_down(self, below: int, above: int) -> Iterator[Span]:
        """The same between `above` and `below`; from the highest down."""
        high = below
        for number in reversed(range(bisect_right(self._lasts, above), bisect_left(self._firsts, below))):
            if self._lasts[number] + 1 < high:
                yield self._lasts[number], high
            high = self._firsts[number]
        yield above, high

    def _touched(self, first: int, last: int) -> slice:
        """Which ranges have a number in common with `first` to `last`."""
        start, stop = bisect_left(self._lasts, first), bisect_right(self._firsts, last)
        return slice(start, max(start, stop))


_RANGES = "SELECT from_seq, to_seq, sent_at, crc32c FROM buffer_confirmed"


def is_confirmation(first: object, last: object, sent_at: object, crc: object) -> bool:
    """Whether a range is still the one that was written: a wrong one would hide what nobody has."""
    return (
        isinstance(first, int)
        and isinstance(last, int)
        and isinstance(sent_at, float)
        and 1 <= first <= last
        and crc == _crc32c(first, last)
    )


def read_confirmed(connection: sqlite3.Connection) -> Confirmed:
    """All ranges. `BufferDamaged`; lets SQLite's errors through."""
    found = Confirmed()
    highest = 0
    for row in connection.execute(f"{_RANGES} ORDER BY from_seq"):
        first, last, _ = _checked(row)
        if first <= highest:
            raise BufferDamaged(f"buffer_confirmed: {first} to {last} overlaps what ends at {highest}")
        found.add(first, last)
        highest = last
    return found


def read_whole(connection: sqlite3.Connection) -> tuple[Confirmed, int]:
    """The ranges that still are what was written, and how many are not; none in a buffer of an older version."""
    found = Confirmed()
    bad = 0
    with contextlib.suppress(sqlite3.DatabaseError, UnicodeDecodeError):
        for row in connection.execute(_RANGES):
            if not is_confirmation(*row):
                bad += 1
                continue
            for part in found.free(row[0], row[1]):
                found.add(*part)
    return found, bad


def confirm(connection: sqlite3.Connection, first: int, last: int, sent_at: float) -> None:
    """Write a range of which no number was confirmed before."""
    connection.execute(
        "INSERT INTO buffer_confirmed (from_seq, to_seq, sent_at, crc32c) VALUES (?, ?, ?, ?)",
        (first, last, sent_at, _crc32c(first, last)),
    )


def retract(connection: sqlite3.Connection, first: int, last: int) -> int:
    """No range holds any of these numbers any more; says how many were confirmed. `BufferDamaged`."""
    count = 0
    # From the highest down: those below the first that ends too low end lower still.
    for row in connection.execute(f"{_RANGES} WHERE from_seq <= ? ORDER BY from_seq DESC", (last,)).fetchmany(-1):
        start, end, sent_at = _checked(row)
        if end < first:
            break
        connection.execute("DELETE FROM buffer_confirmed WHERE from_seq = ?", (start,))
        if start < first:
            confirm(connection, start, first - 1, sent_at)
        if end > last:
            confirm(connection, last + 1, end, sent_at)
        count += min(end, last) - max(start, first) + 1
    return count


def oldest_confirmed(connection: sqlite3.Connection, above: int, sent_before: float) -> tuple[int, int] | None:
    """The lowest range above a number that was confirmed before a time. `BufferDamaged`."""
    row = connection.execute(
        f"{_RANGES} WHERE from_seq > ? AND sent_at < ? ORDER BY from_seq LIMIT 1", (above, sent_before)
    ).fetchone()
    return _checked(row)[:2] if row else None


def _checked(row: tuple[object, ...]) -> tuple[int, int, float]:
    """A range as it stands in the table, whenever it is acted on: a bit may have flipped since it was read."""
    first, last, sent_at, crc = row
    if not is_confirmation(first, last, sent_at, crc):
        raise BufferDamaged(f"buffer_confirmed: {first!r} to {last!r} is not what was written")
    return first, last, sent_at  # type: ignore[return-value]  # so they are


def _crc32c(first: int, last: int) -> int:
    return int(google_crc32c.value(b"%d %d" % (first, last)))
