"""The buffer: the SQLite table `buffer_predictions`, the queue of record.

The view of it, `prediction_buffer`, is the users' contract: they read it with `sqlite3`, `sqlite-utils` or Datasette.
SQLite runs in WAL mode with `synchronous=NORMAL`: a power cut may take its last commits, never its integrity, and the
journal still has the rows (`store.py` holds the rules of the two together). While the journal is out of service,
`durable=True` makes an insert an fsync instead.
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import attrs
import google_crc32c
import sqlite_utils

from actors.ports import marks
from actors.ports.confirmed import read_confirmed
from actors.ports.counts import check_counts, recount
from actors.ports.pages import read_page
from actors.ports.rows import Row, insert_rows
from actors.ports.schema import HIGHEST, MIGRATIONS, ROWS, VIEW, is_stream, is_tombstone
from actors.ports.sqlite import BufferDamaged, BufferUnwritable, Transaction, named_errors, sync_log
from actors.ports.tombstones import bury_pending, bury_range
from actors.seqs import Payloads, Seqs
from actors.tasks import Done
from cloud.wire import RECORDS_TAKEN_MAX, SEQ_MAX, Loss

_BUSY_TIMEOUT_S = 5.0
"""How long a write waits for an operator's own `sqlite3` that holds the lock."""
_CACHE_KIB = 8 * 1024
"""Enough that a page of the backlog, and what is written beside it, finds its pages there."""


@attrs.frozen
class Totals:
    """The counters of `buffer_metadata`, over the life of the stream."""

    last_seq: int
    buffered: int
    sent: int
    failed: int
    evicted: int


def ranges(seqs: Iterable[int]) -> list[tuple[int, int]]:
    """Numbers as ranges with both ends included: 3, 4, 5, 9 -> (3, 5), (9, 9)."""
    ordered = sorted(set(seqs))
    if not ordered:
        return []
    if ordered[-1] - ordered[0] + 1 == len(ordered):
        return [(ordered[0], ordered[-1])]
    starts = [ordered[0], *(later for earlier, later in pairwise(ordered) if later != earlier + 1)]
    ends = [*(earlier for earlier, later in pairwise(ordered) if later != earlier + 1), ordered[-1]]
    return list(zip(starts, ends, strict=True))


class Buffer:
    """One open database. Not for two threads at once; every method blocks on the disk.

    Every method may raise `BufferDamaged` or `BufferUnwritable` (`sqlite.py`); what it began is then rolled back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._none_below = 0
        """No number up to here is pending: a look for the oldest begins behind it."""
        # An empty file is an empty database, and SQLite gives its companions the mode of the first.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)
        # The worker thread changes from call to call; the lane in front of this object lets only one in at a time.
        self._connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=_BUSY_TIMEOUT_S, cached_statements=64
        )
        try:
            with named_errors():
                self._connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = NORMAL")
                # Checkpoints are the store's to time: they are what lets a segment of the journal go.
                self._connection.execute("PRAGMA wal_autocheckpoint = 0")
                # Else the file stays as large as it ever was, and its size would say for ever that a checkpoint is due.
                self._connection.execute("PRAGMA journal_size_limit = 0")
                self._connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
                self._migrate()
                self._confirmed = read_confirmed(self._connection)
        except (BufferDamaged, BufferUnwritable):
            self._connection.close()
            raise

    def _migrate(self) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if not 0 <= version <= len(MIGRATIONS):
            raise BufferDamaged(f"{self.path}: its format is {version}; this reads up to {len(MIGRATIONS)}")
        database = sqlite_utils.Database(self._connection)
        # A view of the operator's on `prediction_buffer` is about what is called so, not about what it was once.
        self._connection.execute("PRAGMA legacy_alter_table = ON")
        for number in range(version, len(MIGRATIONS)):
            database.executescript(f"BEGIN IMMEDIATE; {MIGRATIONS[number]}; PRAGMA user_version = {number + 1}; COMMIT")
        # Nothing of ours needs it, so its damage would show to the operator alone.
        made = "SELECT CAST(sql AS BLOB) FROM sqlite_master WHERE name = 'prediction_buffer'"
        if self._connection.execute(made).fetchone() != (VIEW.encode(),):
            database.executescript(f"BEGIN IMMEDIATE; DROP VIEW IF EXISTS prediction_buffer; {VIEW}; COMMIT")

    def stream(self) -> str | None:
        """The stream that this buffer is the life of; None in a new one."""
        with named_errors():
            row = self._connection.execute("SELECT stream_id, stream_crc32c FROM buffer_metadata").fetchone()
        if row is None:
            return None
        if not is_stream(*row):
            raise BufferDamaged(f"{self.path}: the stream's name is damaged: {row[0]!r}")
        return str(row[0])

    def begin_stream(self, stream_id: str, device_id: str, now: float) -> None:
        """Give a new buffer its stream."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO buffer_metadata (only, stream_id, stream_crc32c, device_id, created_at)"
                " VALUES (1, ?, ?, ?, ?)",
                (stream_id, google_crc32c.value(stream_id.encode()), device_id, now),
            )
            connection.execute(
                f"INSERT INTO sqlite_sequence SELECT '{ROWS}', 0"  # noqa: S608 - a name of our own, here and below
                f" WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = '{ROWS}')"
            )

    def totals(self) -> Totals:
        """The counters as they stand."""
        with named_errors():
            row = self._connection.execute(
                "SELECT last_seq, total_buffered, total_sent, total_failed, total_evicted FROM buffer_metadata"
            ).fetchone()
        if row is None or not all(isinstance(number, int) for number in row):
            raise BufferDamaged(f"{self.path}: buffer_metadata can't be read: {row}")
        return Totals(*row)

    def highest_seq(self, *, without: str = "") -> int:
        """The highest number that anything in here speaks of; tombstones with the reason `without` are not asked."""
        with named_errors():
            witnesses = self._connection.execute(HIGHEST.format(rows=ROWS), (without,)).fetchall()
        return max((seq for (seq,) in witnesses if isinstance(seq, int)), default=0)

    def count(self, status: str) -> int:
        """How many rows are 'pending' or 'failed' (both have an index for it)."""
        assert status in ("pending", "failed")
        with named_errors():
            row = self._connection.execute(
                f"SELECT count(*) FROM buffer_predictions WHERE status = '{status}'"  # noqa: S608
            ).fetchone()
        return int(row[0]) - (self._confirmed.count if status == "pending" else 0)

    def known(self, first: int, last: int) -> set[int]:
        """Which numbers from `first` to `last` have a row."""
        with named_errors():
            rows = self._connection.execute("SELECT id FROM buffer_predictions WHERE id BETWEEN ? AND ?", (first, last))
            return {seq for (seq,) in rows}

    def buried(self, first: int, last: int) -> set[int]:
        """Which numbers from `first` to `last` have a tombstone."""
        with named_errors():
            graves = self._connection.execute(
                "SELECT max(from_seq, ?), min(to_seq, ?) FROM buffer_losses WHERE to_seq >= ? AND from_seq <= ?",
                (first, last, first, last),
            ).fetchall()
        return {seq for start, end in graves for seq in range(start, end + 1)}

    def oldest_pending_at(self) -> float | None:
        """When the oldest pending row was accepted."""
        with named_errors():
            oldest = marks.oldest_pending(self._connection, self._confirmed, self._none_below, 1)
            self._none_below = oldest[0] - 1 if oldest else max(self._none_below, self._highest_row())
            for bounds in self._confirmed.gaps(self._none_below):
                row = self._connection.execute(
                    "SELECT buffered_at FROM buffer_predictions WHERE status = 'pending' AND id > ? AND id < ?"
                    " AND typeof(buffered_at) = 'real' ORDER BY id LIMIT 1",
                    bounds,
                ).fetchone()
                if row is not None:
                    return float(row[0])
        return None

    def insert(self, rows: Sequence[Row], *, last_seq: int, unwritten_sent: int = 0, durable: bool = False) -> int:
        """Put rows in, skipping numbers that are there already; says how many were new.

        `unwritten_sent` counts predictions that were confirmed before they got here and that nobody wants kept. With
        `durable` this commit, and all before it, are synced when the call returns.
        """
        with named_errors():
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        with self._transaction() as connection:
            added = insert_rows(connection, rows)
            sent = sum(row.status == "sent" for row in rows) + unwritten_sent
            failed = sum(row.status == "failed" for row in rows)
            connection.execute(
                "UPDATE buffer_metadata SET total_buffered = total_buffered + ?, total_sent = total_sent + ?,"
                " total_failed = total_failed + ?",
                (added + unwritten_sent, sent, failed),
            )
            _raise_last_seq(connection, last_seq)
        if rows and min(rows[0].seq, rows[-1].seq) <= self._none_below:
            self._none_below = 0
        return added

    def mark_sent(self, seqs: Seqs, now: float) -> int:
        """Pending rows are confirmed; says how many were."""
        if not seqs:
            return 0
        with self._transaction() as connection:
            marked, ranges_new = marks.mark_sent(connection, self._confirmed, seqs, now)
        for first, last in ranges_new:
            self._confirmed.add(first, last)
        return marked

    def mark_failed(self, seqs: Seqs, error: str) -> int:
        """Pending rows go to quarantine with the cloud's error; says how many."""
        if not seqs:
            return 0
        with self._transaction() as connection:
            return marks.mark_failed(connection, self._confirmed, seqs, error)

    def mark_retried(self, seqs: Seqs, error: str) -> None:
        """An attempt failed; the rows stay pending."""
        if not seqs:
            return
        with self._transaction() as connection:
            marks.mark_retried(connection, self._confirmed, seqs, error)

    def pending(self, after: int, records_max: int, bytes_max: int, *, newest: bool = False) -> Payloads:
        """A page of pending predictions (`pages.py`); empty if there is none. `PayloadsChanged`."""
        between = (self._none_below, after or SEQ_MAX) if newest else (max(after, self._none_below), SEQ_MAX)
        records_max = min(records_max, RECORDS_TAKEN_MAX)
        with named_errors():
            page = read_page(self._connection, self._confirmed, between, records_max, bytes_max, newest=newest)
        if not newest and after <= self._none_below:
            self._none_below = page.seqs[0] - 1 if page else max(self._none_below, self._highest_row())
        return page

    def _highest_row(self) -> int:
        with named_errors():
            return self._connection.execute("SELECT max(id) FROM buffer_predictions").fetchone()[0] or 0

    def evict(self, count: int, reason: str, now: float) -> int:
        """Drop the oldest pending rows and leave a tombstone for their numbers, in one transaction."""
        with self._transaction() as connection:
            seqs = marks.oldest_pending(connection, self._confirmed, self._none_below, count)
            if bury_pending(connection, ranges(seqs), reason, now) < len(seqs):
                raise BufferDamaged(f"{self.path}: what is pending by its index is not so by its rows")
            connection.execute("UPDATE buffer_metadata SET total_evicted = total_evicted + ?", (len(seqs),))
        return len(seqs)

    def bury(self, lost: Sequence[tuple[int, int]], reason: str, now: float, *, last_seq: int) -> None:
        """Leave a tombstone for numbers whose predictions are gone; their numbers are never given out again."""
        with self._transaction() as connection:
            for first, last in lost:
                bury_range(connection, first, last, reason, now)
            _raise_last_seq(connection, last_seq)

    def give_up(self, seqs: Sequence[int], reason: str, now: float) -> int:
        """Bury pending rows; says how many there were."""
        with self._transaction() as connection:
            return bury_pending(connection, ranges(seqs), reason, now)

    def lost(self, reason: str) -> int:
        """How many numbers have a tombstone with this reason."""
        with named_errors():
            row = self._connection.execute(
                "SELECT ifnull(sum(to_seq - from_seq + 1), 0) FROM buffer_losses WHERE reason = ?", (reason,)
            ).fetchone()
        return int(row[0])

    def keep_buried(self) -> int:
        """Delete pending rows whose numbers have a tombstone: a replay may have dug them up again."""
        with self._transaction() as connection:
            return sum(
                connection.execute(
                    "DELETE FROM buffer_predictions WHERE status = 'pending' AND id BETWEEN ? AND ?", part
                ).rowcount
                for grave in connection.execute("SELECT from_seq, to_seq FROM buffer_losses").fetchall()
                for part in self._confirmed.free(*grave)
            )

    def check_counts(self, last_seq: int) -> None:
        """`BufferDamaged` where what is said of the numbers up to `last_seq` contradicts itself (`counts.py`)."""
        with named_errors():
            check_counts(self._connection, last_seq)

    def recount(self, last_seq: int, *, checked: bool = False) -> None:
        """Put the count of the sent right; with `checked`, after the counts were held against each other again."""
        with self._transaction() as connection:
            if checked:
                check_counts(connection, last_seq)
            recount(connection, last_seq)

    def losses(self, count_max: int) -> list[Loss]:
        """Tombstones that the cloud has not confirmed yet."""
        with named_errors():
            rows = self._connection.execute(
                "SELECT from_seq, to_seq, reason FROM buffer_losses WHERE confirmed_at IS NULL"
                " ORDER BY from_seq LIMIT ?",
                (count_max,),
            ).fetchall()
        if not all(is_tombstone(*row) for row in rows):
            raise BufferDamaged(f"{self.path}: buffer_losses can't be read")
        return [Loss(*row) for row in rows]

    def confirm_losses(self, losses: Sequence[Loss], now: float) -> None:
        """The cloud took note. A tombstone that has grown meanwhile stays, and is told again."""
        if not losses:
            return
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE buffer_losses SET confirmed_at = ? WHERE from_seq = ? AND to_seq = ?",
                [(now, loss.from_seq, loss.to_seq) for loss in losses],
            )

    def delete_sent(self, count_max: int, *, sent_before: float) -> int:
        """One small stroke of clean-up: the oldest sent rows confirmed before the given time."""
        with self._transaction() as connection:
            gone, ranges_gone = marks.delete_sent(connection, self._confirmed, count_max, sent_before)
        for span in ranges_gone:
            self._confirmed.cut(*span)
        return gone

    def note_cleanup(self, now: float) -> None:
        """Remember when the last clean-up ran to its end."""
        with self._transaction() as connection:
            connection.execute("UPDATE buffer_metadata SET last_cleanup = ?", (now,))

    def shrink(self, pages_max: int) -> None:
        """Give free pages back to the file system, a few at a time; the file is cut at the next checkpoint."""
        with named_errors():
            # A script is stepped to its end; `execute` would step once, which is one page.
            self._connection.executescript(f"PRAGMA incremental_vacuum({int(pages_max)})")

    def checkpoint(self, *, wait: bool = False) -> bool:
        """Move the WAL into the database, sync both, and empty the WAL; True when all committed so far is then there.

        A reader in another process can keep it from ending; only with `wait` is it waited for. What was moved does not
        stay in the WAL, also after a power cut: a bit that flips there would let its older pages hide newer ones here.
        """
        with named_errors():
            if not wait:
                self._connection.execute("PRAGMA busy_timeout = 0")
            try:
                busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                self._connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_S * 1000:.0f}")
        if not busy:
            sync_log(self.path)
        return not busy

    def device(self) -> str:
        """The device's id when the buffer was made."""
        with named_errors():
            return str(self._connection.execute("SELECT device_id FROM buffer_metadata").fetchone()[0])

    def amend(self, change: Callable[[sqlite3.Connection], Done], *, durable: bool = False) -> Done:
        """Another room's change (`chores.py`, `forks.py`), in one transaction; with `durable`, synced."""
        with named_errors():
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        with self._transaction() as connection:
            done = change(connection)
            confirmed = read_confirmed(connection)
        self._confirmed, self._none_below = confirmed, 0
        return done

    def wal_bytes(self) -> int:
        """How large the write-ahead log is."""
        return _size(f"{self.path}-wal")

    def size_bytes(self) -> int:
        """Database, WAL and shared-memory file."""
        return sum([_size(f"{self.path}{end}") for end in ("", "-wal", "-shm")])

    def close(self) -> None:
        """Close the connection; committed rows stay."""
        self._connection.close()

    def _transaction(self) -> Transaction:
        return Transaction(self._connection)


def _raise_last_seq(connection: sqlite3.Connection, last_seq: int) -> None:
    """Note that numbers up to here were given out, in the books and in SQLite's own sequence, which is on another page:
    a number that was confirmed before it was written here has no row that would speak of it.
    """
    connection.execute("UPDATE buffer_metadata SET last_seq = ? WHERE last_seq < ?", (last_seq, last_seq))
    sequence = f"UPDATE sqlite_sequence SET seq = ? WHERE name = '{ROWS}' AND seq < ?"  # noqa: S608
    connection.execute(sequence, (last_seq, last_seq))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - asked for with every group, and three times as fast
    except FileNotFoundError:
        return 0
