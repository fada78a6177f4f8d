"""Rows that the journal alone holds, until the next stroke to SQLite."""

from collections.abc import Sequence

import attrs

from actors.ports.rows import Row
from actors.seqs import Seqs, seqs_of

WAY_COPIES = 2
"""A row on its way lies in the write-ahead log and in the database before its line in the journal can go."""


@attrs.define
class Held:
    """The rows by number, in the order of acceptance. `since` is when the first of them was accepted.

    Guarded by the store's mutex.
    """

    rows: dict[int, Row] = attrs.field(factory=dict, init=False)
    since: float = attrs.field(default=0.0, init=False)
    asked_bytes: int = attrs.field(default=0, init=False)
    """What the last accept asked for, taken or not: so much is made room for, and the next one may be as large."""
    _payload_bytes: int = attrs.field(default=0, init=False)

    def ask(self, more: Sequence[Row]) -> int:
        """How many bytes of the disk these here and `more` will take on their way, beside the lines that are there."""
        self.asked_bytes = WAY_COPIES * self._payload_bytes + (1 + WAY_COPIES) * _bytes_of(more)
        return self.asked_bytes

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, rows: Sequence[Row]) -> None:
        """They are in the journal now."""
        if not self.rows:
            self.since = rows[0].buffered_at
        self.rows.update([(row.seq, row) for row in rows])
        self._payload_bytes += _bytes_of(rows)

    def flushed(self, rows: Sequence[Row]) -> None:
        """They are in SQLite now."""
        for row in rows:
            del self.rows[row.seq]
        self._payload_bytes -= _bytes_of(rows)
        self.since = next((row.buffered_at for row in self.rows.values()), 0.0)

    def apart(self, seqs: Seqs) -> tuple[Seqs, list[Row]]:
        """The numbers that are in SQLite, and the pending rows that are not yet."""
        if not self.rows or all(last < next(iter(self.rows)) for _, last in seqs.spans):
            return seqs, []
        written = seqs_of(seq for seq in seqs if seq not in self.rows)
        return written, [row for seq in seqs if (row := self.rows.get(seq)) and row.status == "pending"]

    def oldest_pending_at(self) -> float | None:
        """When the oldest pending row here was accepted."""
        return min((row.buffered_at for row in self.rows.values() if row.status == "pending"), default=None)

    @property
    def pending_count(self) -> int:
        """How many here the cloud has not settled."""
        return sum(row.status == "pending" for row in self.rows.values())


def _bytes_of(rows: Sequence[Row]) -> int:
    return sum([len(row.payload) for row in rows])
