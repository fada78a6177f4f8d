"""The half of the store that accepts: numbers, the journal, and the rows that it alone holds. No SQLite."""

import os
import threading
from collections.abc import Callable, Sequence

import attrs

from actors.messages import Entry
from actors.ports.held import Held
from actors.ports.journal import Journal, JournalError, encode_line
from actors.ports.opening import BufferFull, StoreLocked, StoreOptions
from actors.ports.rows import Row, fresh_row
from actors.seqs import Seqs, Stored
from cloud.wire import number_payload

HELD_MAX = 20_000
"""Rows that may wait in memory for a SQLite that takes none (another process holds its lock, say)."""


@attrs.define
class Front:
    """One thread may `accept` here while another one does the rest of the store's work; `mutex` is between them."""

    options: StoreOptions
    journal: Journal
    size_bytes: Callable[[], int]
    """Every byte that the store owns, the journal among them."""
    process_id: int = attrs.field(factory=os.getpid, init=False)
    """Who may write: a fork shares the files, and would write between the lines."""
    mutex: threading.RLock = attrs.field(factory=threading.RLock, init=False)
    """Around all that stands below, and the journal. Nobody waits for SQLite under it but who replaces the journal."""
    held: Held = attrs.field(factory=Held, init=False)
    next_seq: int = attrs.field(default=1, init=False)
    pending_count: int = attrs.field(default=0, init=False)
    """Predictions that the cloud has not confirmed."""
    trouble: str = attrs.field(default="", init=False)
    """Why groups are committed in SQLite instead of the journal, until `try_again`; empty while it takes them."""

    def accept(self, entries: Sequence[Entry]) -> list[Stored] | None:
        """Number and commit in the journal; None where that can't be written now. `BufferFull`."""
        with self.mutex:
            rows = self.number(entries)
            if self.options.journal and not self.trouble:
                self.trouble = self._append(rows)
            if self.trouble or not self.options.journal:
                return None
            self.held.add(rows)
            return self.give_out(rows)

    def number(self, entries: Sequence[Entry]) -> list[Row]:
        """The rows that the entries will be, if there is room for them. `BufferFull`; `StoreLocked` in a fork."""
        if os.getpid() != self.process_id:
            raise StoreLocked(
                f"{self.options.db_path}: this process was forked from {self.process_id}, which has the buffer open"
            )
        now = self.options.now()
        rows = [
            fresh_row(seq, number_payload(seq, entry.body), entry.image_id, entry.timestamp, now)
            for seq, entry in enumerate(entries, self.next_seq)
        ]
        size = self.size_bytes()
        if size + self.held.ask(rows) > self.options.accept_bytes_max:
            raise BufferFull(f"{self.options.db_path.parent}: {size} bytes")
        return rows

    def give_out(self, rows: Sequence[Row]) -> list[Stored]:
        """They are durable: their numbers are never given to others."""
        self.next_seq += len(rows)
        self.pending_count += len(rows)
        return [Stored(row.seq, row.payload) for row in rows]

    def try_again(self) -> None:
        """See whether the journal takes groups again, with none: its trouble ends although nobody accepts anything."""
        with self.mutex:
            if self.trouble:
                self.trouble = self._append([])

    def _append(self, rows: Sequence[Row]) -> str:
        """Commit in the journal; why it can't be written, if so."""
        if len(self.held) >= HELD_MAX:
            return "SQLite takes no rows, and the journal alone must not grow without bound"
        try:
            self.journal.append(self.next_seq, [encode_line(row.seq, row.payload, row.crc32c) for row in rows])
        except JournalError as exc:
            return str(exc)
        return ""

    def waiting(self) -> tuple[list[Row], int]:
        """The rows that SQLite lacks, and the number up to which all is there once it has them."""
        with self.mutex:
            return list(self.held.rows.values()), self.next_seq - 1

    def flushed(self, rows: Sequence[Row]) -> None:
        """SQLite has these now."""
        with self.mutex:
            self.held.flushed(rows)

    def apart(self, seqs: Seqs) -> tuple[Seqs, list[Row]]:
        """The numbers that are in SQLite, and the pending rows that are not yet."""
        with self.mutex:
            return self.held.apart(seqs)

    def oldest_pending_at(self) -> float | None:
        """When the oldest pending row that SQLite lacks was accepted."""
        with self.mutex:
            return self.held.oldest_pending_at()

    @property
    def written_pending_count(self) -> int:
        """How many of the pending are in SQLite."""
        with self.mutex:
            return self.pending_count - self.held.pending_count

    def settled(self, count: int) -> None:
        """So many are pending no longer."""
        with self.mutex:
            self.pending_count -= count

    def end_segment(self) -> None:
        """The next group begins a new one."""
        with self.mutex:
            self.journal.rotate()

    def retire(self, up_to_seq: int) -> None:
        """Delete the full segments that end at or below this number."""
        with self.mutex:
            self.journal.retire(up_to_seq)
