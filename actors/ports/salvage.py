"""A database that can't be used is set aside, never in the way; what still reads of it, as it was, fills a new one."""

import contextlib
import re
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import google_crc32c
import msgspec

from actors.ports.buffer import Buffer, ranges
from actors.ports.journal import Scan, orphans, scan
from actors.ports.opening import StoreOptions
from actors.ports.private import sync_folder, write_private
from actors.ports.replay import BAD_SECTOR
from actors.ports.rows import Row, rows_of
from actors.ports.schema import is_tombstone, stream_as_written
from actors.ports.sqlite import BufferDamaged, BufferUnwritable
from actors.seqs import Span

FILL_ROWS = 1_000
"""Rows that are saved from a damaged database in one stroke: its million need not fit into memory."""


@attrs.frozen
class Salvage:
    """What could be read of a database that was set aside."""

    aside: str = ""
    stream_id: str | None = None
    last_seq: int = 0
    paths: tuple[Path, ...] = ()
    """The databases that were set aside for the new one, oldest first; `salvaged_rows` reads them."""
    losses: tuple[tuple[int, int, str, float], ...] = ()
    """Tombstones that the cloud has not confirmed: (from, to, reason, time)."""
    owed: tuple[Span, ...] = ()
    """Numbers that were pending or in quarantine, as far as the indexes still tell."""


def damage_marker(db_path: Path) -> Path:
    """The file that says that the database must be replaced. Its lines name the ones that were set aside for it."""
    return db_path.with_name(db_path.name + ".damaged")


def open_buffer(options: StoreOptions) -> tuple[Buffer, Salvage]:
    """The buffer; if it is damaged, a new one, and what could be read of the old one, for `fill`.

    The marker stays until `fill` has ended: a start that is cut short in between is repeated, from all that was set
    aside for it. Each step is certain before the next begins, so that a power cut finds either side of it.
    """
    marker = damage_marker(options.db_path)
    reason = "found damaged while running"
    if not marker.exists():
        try:
            return Buffer(options.db_path), Salvage()
        except BufferDamaged as exc:
            reason = str(exc)
        except BufferUnwritable as exc:
            # SQLite also says 'readonly' of a file whose header claims a version that it only reads.
            if "readonly" not in str(exc) or not _takes_writes(options.db_path):
                raise
            reason = str(exc)
    names = _names_in(marker, options.db_path.name)
    if not names or options.db_path.with_name(names[-1]).exists():  # else: go on with a move that was cut short
        names.append(f"{options.db_path.name}.corrupt-{int(options.now())}-{len(names)}")
        write_private(marker, f"\n{names[-1]}\n".encode(), "ab")
        sync_folder(marker.parent)
    aside = options.db_path.with_name(names[-1])
    for end in ("-wal", "-shm", ""):
        file_before = options.db_path.with_name(options.db_path.name + end)
        if file_before.exists():
            file_before.rename(aside.with_name(aside.name + end))
            sync_folder(marker.parent)
    paths = [path for name in names if (path := options.db_path.with_name(name)).exists()]
    return Buffer(options.db_path), _merge(paths, f"{aside} ({reason})")


def open_stream(options: StoreOptions, device_id: str, found: Sequence[Scan]) -> tuple[Buffer, str, str]:
    """The buffer, the stream that it is a life of, and where a damaged one lies that it replaces (empty: none did).

    `found` is what the journal holds. `OSError`, `BufferDamaged`, `BufferUnwritable`.
    """
    buffer, salvage = open_buffer(options)
    try:
        stream_id = buffer.stream()
        if stream_id is None:
            # A new database beside an old journal goes on with the journal's stream: the numbers are its own.
            headers = [seen.header.stream_id for seen in found if seen.header]
            known = [salvage.stream_id] if salvage.stream_id else headers[-1:]
            stream_id = known[0] if known else options.new_id(options.now())
            fill(buffer, salvage, options, stream_id=stream_id, device_id=device_id, segments=found)
    except (OSError, BufferDamaged, BufferUnwritable):
        buffer.close()
        raise
    return buffer, stream_id, salvage.aside


def _names_in(marker: Path, db_name: str) -> list[str]:
    """The databases that the marker names; a line that a power cut tore names none."""
    if not marker.exists():
        return []
    lines = marker.read_bytes().decode(errors="replace").splitlines()
    return [line for line in lines if re.fullmatch(re.escape(db_name) + r"\.corrupt-\d+-\d+", line)]


def _takes_writes(path: Path) -> bool:
    try:
        with path.open("r+b"):
            return True
    except OSError:
        return False


def mark_damaged(db_path: Path) -> None:
    """Let the next opening set the database aside from the start: its damage showed only when it was read."""
    damage_marker(db_path).touch(mode=0o600)


def _merge(paths: Sequence[Path], aside: str) -> Salvage:
    """One salvage of several attempts: what their small tables say; the rows follow one by one."""
    found = [_read_books(path) for path in paths]
    return Salvage(
        aside,
        stream_id=next((one.stream_id for one in found if one.stream_id), None),
        last_seq=max((one.last_seq for one in found), default=0),
        paths=tuple(paths),
        losses=tuple(loss for one in found for loss in one.losses),
        owed=tuple(span for one in found for span in one.owed),
    )


def fill(
    buffer: Buffer,
    salvage: Salvage,
    options: StoreOptions,
    *,
    stream_id: str,
    device_id: str,
    segments: Sequence[Scan],
) -> None:
    """Give a new buffer its stream, and what was saved of the ones before it.

    What they owed, and neither they nor the journal's `segments` can give any more, is told as lost.
    """
    buffer.begin_stream(stream_id, device_id, options.now())
    buffer.insert([], last_seq=salvage.last_seq)
    # The first database that knows a row has it nearest to the truth; later ones are skipped by its number.
    owed = list(salvage.owed)
    for path in salvage.paths:
        rows = _salvaged_rows(path)
        while stroke := list(islice(rows, FILL_ROWS)):
            mine = [row for row in stroke if row.status != "sent"]
            good = [row for row in mine if _whole(row)]
            buffer.insert(good, last_seq=max(row.seq for row in stroke))
            if len(good) < len(mine):
                owed += ranges([row.seq for row in mine if 1 <= row.seq <= salvage.last_seq])
    for first, last, reason, lost_at in salvage.losses:
        buffer.bury([(first, last)], reason, lost_at, last_seq=last)
    buffer.keep_buried()
    in_journal = {seq for seen in segments for seq, _ in seen.records}
    for missing in _missing(buffer, owed, in_journal):
        buffer.bury(missing, BAD_SECTOR, options.now(), last_seq=0)
    buffer.checkpoint()
    damage_marker(options.db_path).unlink(missing_ok=True)
    sync_folder(options.db_path.parent)


def replace(
    buffer: Buffer, options: StoreOptions, *, stream_id: str, device_id: str, last_seq: int, held: Collection[int]
) -> Buffer:
    """A new buffer for one that turned out to be damaged while running, with what the journal holds and memory (`held`)
    does not. `OSError`, `BufferDamaged`, `BufferUnwritable`: then call it again, or start anew; both go on from there.
    """
    buffer.close()
    mark_damaged(options.db_path)
    segments = [scan(path) for path in orphans(options.journal_folder)]
    new, salvage = open_buffer(options)
    try:
        fill(new, salvage, options, stream_id=stream_id, device_id=device_id, segments=segments)
        for seen in segments:
            rows = [row for row in rows_of(seen, options.now()) if row.seq not in held]
            new.insert(rows, last_seq=last_seq)
    except (OSError, BufferDamaged, BufferUnwritable):
        new.close()
        raise
    return new


def _missing(buffer: Buffer, owed: Sequence[Span], in_journal: Collection[int]) -> Iterator[list[Span]]:
    """The numbers that were owed and are nowhere, and have no tombstone, a stroke at a time."""
    for first, last in owed:
        for start in range(first, last + 1, FILL_ROWS):
            stroke = range(start, min(start + FILL_ROWS, last + 1))
            known = buffer.known(stroke[0], stroke[-1]) | buffer.buried(stroke[0], stroke[-1])
            if missing := [seq for seq in stroke if seq not in known and seq not in in_journal]:
                yield ranges(missing)


def _read_books(path: Path) -> Salvage:
    """What a damaged database still says of its stream and of its tombstones."""
    stream_id, last_seq = None, 0
    losses: list[tuple[int, int, str, float]] = []
    owed: list[Span] = []
    with contextlib.closing(sqlite3.connect(path)) as connection:
        with contextlib.suppress(sqlite3.DatabaseError, UnicodeDecodeError):
            row = connection.execute(
                "SELECT CAST(stream_id AS BLOB), stream_crc32c, last_seq FROM buffer_metadata"
            ).fetchone()
            if row and (written := stream_as_written(*row[:2])) and isinstance(row[2], int):
                stream_id, last_seq = written, row[2]
        with contextlib.suppress(sqlite3.DatabaseError, UnicodeDecodeError):
            losses = connection.execute(
                "SELECT from_seq, to_seq, reason, lost_at FROM buffer_losses WHERE confirmed_at IS NULL"
            ).fetchall()
        for status in ("pending", "failed"):
            owed += _numbers(connection, status, last_seq)
    sound = tuple(loss for loss in losses if is_tombstone(*loss[:3]))
    return Salvage(stream_id=stream_id, last_seq=last_seq, losses=sound, owed=tuple(owed))


def _numbers(connection: sqlite3.Connection, status: str, last_seq: int) -> Iterator[Span]:
    """What the index of a status names: it lies on pages of its own, and often reads where the rows do not."""
    table = f"prediction_buffer INDEXED BY prediction_buffer_{status}"
    seen = 0
    with contextlib.suppress(sqlite3.DatabaseError, UnicodeDecodeError):
        cursor = connection.execute(f"SELECT id FROM {table} WHERE status = '{status}' ORDER BY id")  # noqa: S608
        while some := cursor.fetchmany(FILL_ROWS):
            numbers = [seq for (seq,) in some if isinstance(seq, int) and seen < seq <= last_seq]
            seen = max(numbers, default=seen)
            yield from ranges(numbers)


def _salvaged_rows(path: Path) -> Iterator[Row]:
    """The rows of a damaged database from both ends of the table, up to the first page that does not read.

    The checksum is None in one of an older version.
    """
    highest = 0
    with contextlib.closing(sqlite3.connect(path)) as connection:
        checksum = "NULL"
        with contextlib.suppress(sqlite3.DatabaseError, UnicodeDecodeError):
            connection.execute("SELECT payload_crc32c FROM prediction_buffer LIMIT 0")
            checksum = "payload_crc32c"
        for order in ("ASC", "DESC"):
            with contextlib.suppress(sqlite3.DatabaseError, UnicodeDecodeError):
                for seq, payload, *rest in connection.execute(
                    f"SELECT id, CAST(prediction_data AS BLOB), image_id, timestamp, buffered_at, {checksum},"  # noqa: S608
                    f" status, sent_at, retry_count, last_error FROM prediction_buffer NOT INDEXED ORDER BY id {order}"
                ):
                    if order == "DESC" and seq <= highest:
                        return
                    highest = seq if order == "ASC" else highest
                    yield Row(seq, payload, *rest)


def _whole(row: Any) -> bool:
    """Whether a salvaged row is still the prediction that it was: JSON that carries its own number, and no holes.

    One without a checksum gets it here; one whose status is damaged is pending.
    """
    sound = (
        isinstance(row.payload, bytes)
        and row.crc32c in (None, google_crc32c.value(row.payload))
        and isinstance(row.image_id, str)
        and all(isinstance(time, int | float) for time in (row.timestamp, row.buffered_at))
        and isinstance(row.retry_count, int)
        and isinstance(row.last_error, str | None)
    )
    if sound:
        row.crc32c = google_crc32c.value(row.payload)
        if row.status != "failed":
            row.status, row.sent_at = "pending", None
    try:
        return sound and bool(msgspec.json.decode(row.payload).get("seq") == row.seq)
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError):
        return False
