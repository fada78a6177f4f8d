"""Replay: bring what earlier sessions left in the journal into the buffer, and set aside what can't be read."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import attrs
import structlog

from actors.ports.behind import forget_log, look_behind
from actors.ports.buffer import Buffer, ranges
from actors.ports.journal import Scan
from actors.ports.opening import StoreOptions
from actors.ports.private import make_folder, sync_folder, write_private
from actors.ports.rows import Row, rows_of
from actors.tasks import Done

INSERT_RECORDS = 1_000
BAD_SECTOR = "bad_sector"
"""The reason on the tombstone of what is damaged beyond reading."""

log = structlog.get_logger()


@attrs.frozen
class Recovered:
    """What opening the store saved, and what it could not save."""

    predictions: int = 0
    sessions: int = 0
    first_at: float | None = None
    """When the oldest of their images was taken, seconds since 1970; `last_at` the newest; None if there are none."""
    last_at: float | None = None
    lost: int = 0
    """Numbers whose predictions are damaged beyond reading; they are reported as losses."""
    bytes_set_aside: int = 0
    buffer_set_aside: str = ""
    """Where an unusable database was moved to, and why; empty if there was none."""

    def __str__(self) -> str:
        """As an operator reads it."""
        told = f"recovered {self.predictions} predictions from {self.sessions} earlier session(s)"
        if self.first_at is None or self.last_at is None:
            return told
        first, last = (datetime.fromtimestamp(at, UTC) for at in (self.first_at, self.last_at))
        return f"{told}, taken from {first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} UTC"


@attrs.frozen
class Replayed:
    """What a replay ends with: the account for the operator, and the highest number given out."""

    recovered: Recovered
    last_seq: int


def replay(
    found: Sequence[Scan],
    buffer: Buffer,
    options: StoreOptions,
    *,
    stream_id: str,
    buffer_set_aside: str,
    wal: bytes = b"",
) -> Replayed:
    """Insert every record that reads (or skip it: its number may be there), bury the numbers that are nowhere, and
    delete the segments once the buffer is synced. To be killed in the middle of it and begin again does no harm.

    `wal` is SQLite's write-ahead log where anything stands behind its end (`behind.py`): that is a record as well.
    """
    now = options.now()
    quarantine = _Quarantine(options.quarantine_folder, options.set_aside_bytes_max)
    ours = [seen for seen in found if quarantine.leaves(seen, stream_id)]
    # A replay that was killed may have told of its holes, and inserted nothing yet: they are no sign of what was.
    in_buffer = buffer.highest_seq(without=BAD_SECTOR)
    behind = look_behind(wal, above=in_buffer, now=now)
    last_seq = max([buffer.highest_seq(), behind.last_seq, *(seen.last_seq for seen in ours)])
    # All up to `in_buffer` was inserted once. What lies above it can only be in the segments, or behind the end of the
    # log: what is not, is lost. Told before the first insert, since that raises `in_buffer`, and a kill in between
    # would forget the hole.
    elsewhere = buffer.buried(in_buffer + 1, last_seq) | {seq for seen in ours for seq, _ in seen.records}
    stray = [row for row in behind.rows if row.seq not in elsewhere]
    gone = holes(elsewhere | {row.seq for row in stray}, in_buffer + 1, last_seq)
    if gone:
        buffer.bury(gone, BAD_SECTOR, now, last_seq=in_buffer)
    saved = 0
    taken_at: list[float] = []
    if any(seen.records for seen in ours):
        buffer.checkpoint()  # what earlier starts that were killed left in the log would come on top
    for stroke in _strokes(ours, stray, buffer, now):
        there = buffer.known(stroke[0].seq, stroke[-1].seq)
        times = [row.timestamp for row in stroke if row.seq not in there]
        taken_at += [min(times), max(times)] if times else []
        saved += buffer.insert(stroke, last_seq=stroke[-1].seq)
        if there and (mended := buffer.amend(partial(_mend, lines=stroke)).changed):
            log.warning("payloads_mended", predictions=mended, by="their lines in the journal")
    # Not before: a start that is killed has then claimed no number that it had not got to. What stood behind the log is
    # synced with it.
    buffer.insert([], last_seq=last_seq, durable=bool(behind.last_seq))
    buffer.recount(last_seq, checked=not buffer_set_aside)
    forget_log(options.db_path)
    if buffer.checkpoint():
        for seen in ours:
            seen.path.unlink(missing_ok=True)
        if ours:
            sync_folder(options.journal_folder)
    lost = sum(last - first + 1 for first, last in gone)
    sessions = {seen.header.session_id if seen.header else seen.path.name for seen in ours if seen.records}
    recovered = Recovered(
        saved,
        max(len(sessions), 1) if saved else 0,
        min(taken_at, default=None) if saved else None,
        max(taken_at, default=None) if saved else None,
        lost,
        quarantine.taken,
        buffer_set_aside,
    )
    return Replayed(recovered, last_seq)


def _strokes(ours: Iterable[Scan], stray: Sequence[Row], buffer: Buffer, now: float) -> Iterator[list[Row]]:
    """The rows of the segments, and those behind the log in between, some at a time by their numbers.

    What was evicted may still have its line: it stays buried.
    """
    waiting = list(stray)
    for seen in ours:
        rows = rows_of(seen, now)
        for start in range(0, len(rows), INSERT_RECORDS):
            some = rows[start : start + INSERT_RECORDS]
            first, last = min(row.seq for row in some), max(row.seq for row in some)
            buried = buffer.buried(first, last)
            stroke = [row for row in some if row.seq not in buried] + [row for row in waiting if row.seq < last]
            waiting = [row for row in waiting if row.seq > last]
            if stroke:
                yield sorted(stroke, key=lambda row: row.seq)
    if waiting:
        yield waiting


def _mend(connection: sqlite3.Connection, lines: Sequence[Row]) -> Done:
    """Put right what has changed at rest in rows that are there already, by the same predictions from the journal.

    A row that differs from its line in its payload or in the checksum, not in both, is the one that was accepted, and
    the line says what it was. One that differs in both is another prediction: a group that could not be synced may
    leave its lines, and its numbers go to the next.
    """
    whole = {line.seq: line for line in lines}
    found = connection.execute(
        "SELECT id, CAST(prediction_data AS BLOB), payload_crc32c FROM buffer_predictions WHERE id BETWEEN ? AND ?",
        (min(whole), max(whole)),
    ).fetchall()
    apart = [
        (line, checksum)
        for seq, payload, checksum in found
        if (line := whole.get(seq)) and (payload == line.payload) != (checksum == line.crc32c)
    ]
    connection.executemany(
        "UPDATE buffer_predictions SET prediction_data = ?, payload_crc32c = ? WHERE id = ?",
        [(line.payload.decode(), line.crc32c, line.seq) for line, _ in apart],
    )
    return Done(changed=sum(checksum is not None for _, checksum in apart))  # one of an older version had none


def holes(seqs: Iterable[int], first_seq: int, last_seq: int) -> list[tuple[int, int]]:
    """The ranges from `first_seq` to `last_seq` that hold none of the numbers."""
    found = []
    at = first_seq
    for first, last in ranges(seq for seq in seqs if seq >= first_seq):
        if first > at:
            found.append((at, first - 1))
        at = last + 1
    if at <= last_seq:
        found.append((at, last_seq))
    return found


@attrs.define
class _Quarantine:
    """The folder for bytes that could not be read. What is taken is on the disk before the segment goes."""

    folder: Path
    bytes_max: int
    """A piece larger than this is counted, not kept."""
    taken: int = 0

    def leaves(self, seen: Scan, stream_id: str) -> bool:
        """Take what is bad in a segment, or the whole of it if it belongs to another stream; is any of it to be used?

        The numbers of another stream mean nothing here. The file is kept whole for whoever knows its buffer.
        """
        self._take_bad_bytes(seen)
        if seen.header is None or seen.header.stream_id == stream_id:
            return True
        self._take_whole(seen.path)
        return False

    def _take_bad_bytes(self, seen: Scan) -> None:
        """Keep what is bad in a segment, for whoever wants to look at it."""
        data = b"".join(damage.data for damage in seen.damage) + seen.torn
        self.taken += len(data)
        if data and len(data) <= self.bytes_max:
            make_folder(self.folder)
            write_private(self.folder / f"{seen.path.name}.bad", data)
            sync_folder(self.folder)

    def _take_whole(self, path: Path) -> None:
        """Keep a whole segment that belongs to another stream."""
        make_folder(self.folder)
        size = path.stat().st_size
        path.rename(self.folder / f"{path.name}.other-stream")
        sync_folder(self.folder)
        self.taken += size
