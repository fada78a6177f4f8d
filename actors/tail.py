"""The tail: what is kept in memory while the disk takes nothing at all, bounded, and without a number."""

from collections.abc import Container, Iterable, Sequence
from itertools import islice

import attrs

from actors.messages import Entry
from actors.seqs import Stored

TAIL_MAX = 5_000
"""Predictions that memory holds for a dead disk: a few megabytes of the usual ones."""


@attrs.define
class Tail:
    """Predictions without a number, oldest first, each under a handle below zero that only this process knows."""

    size_max: int = TAIL_MAX
    entries: dict[int, Entry] = attrs.field(factory=dict, init=False)
    _last_handle: int = attrs.field(default=0, init=False)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def room(self) -> int:
        """How many more it takes."""
        return self.size_max - len(self.entries)

    def take(self, entries: Sequence[Entry]) -> list[Stored]:
        """Keep them; what comes back is for the live lane. The payload has no number: the cloud can't tell a repeat."""
        assert len(entries) <= self.room, "ask for room first"
        kept = []
        for entry in entries:
            self._last_handle -= 1
            self.entries[self._last_handle] = entry
            kept.append(Stored(self._last_handle, entry.body))
        return kept

    def drop_oldest(self, count: int) -> int:
        """Give the oldest up; says how many those were."""
        oldest = list(islice(self.entries, max(0, count)))
        for handle in oldest:
            del self.entries[handle]
        return len(oldest)

    def forget(self, handles: Iterable[int]) -> None:
        """The cloud has them, or refused them, or they are on the disk now."""
        for handle in handles:
            self.entries.pop(handle, None)

    def idle(self, in_flight: Container[int], bytes_max: int) -> dict[int, Entry]:
        """The oldest that no lane has in its hands, up to `bytes_max` of JSON; at least one, if there is any."""
        found: dict[int, Entry] = {}
        size = 0
        for handle, entry in self.entries.items():
            if handle not in in_flight:
                size += len(entry.body)
                if found and size > bytes_max:
                    break
                found[handle] = entry
        return found


def json_bytes(entries: Sequence[Entry]) -> int:
    """How much JSON these are."""
    return sum([len(entry.body) for entry in entries])
