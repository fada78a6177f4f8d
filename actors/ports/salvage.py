"""A database that can't be used is set aside, never in the way; what still reads of it, as it was, fills a new one."""

import contextlib
import re
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import attrs
import google_crc32c
import msgspec

from actors.ports.buffer import Buffer, ranges
from actors.ports.confirmed import Confirmed, read_whole
from actors.ports.first_page import mend_first_page
from actors.ports.journal import Scan, orphans, scan
from actors.ports.loose import loose_payloads
from actors.ports.names import first_name, keep_owner
from actors.ports.opening import StoreOptions
from actors.ports.private import sync_folder, write_private
from actors.ports.replay import BAD_SECTOR, holes
from actors.ports.rows import Row, row_of, rows_of
from actors.ports.schema import ROWS, ROWS_BEFORE, is_tombstone, mended_stream
from actors.ports.sqlite import BufferDamaged, BufferUnwritable
from actors.ports.wreck import from_both_ends, rows_asked_for, salvaged_rows, table_of
from actors.seqs import Seqs, Span
from cloud.wire import SEQ_MAX

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
            if "readonly" not in str(exc) or not _only_read(options.db_path):
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
    buffer = Buffer(options.db_path)
    try:
        buffer.checkpoint(wait=True)
        for path in paths:
            mend_first_page(path, options.db_path)
        return buffer, _merge(paths, f"{aside} ({reason})")
    except (OSError, BufferDamaged, BufferUnwritable):
        buffer.close()
        raise


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
            # So does one beside which the numbers of the old one are known, if not whose they were.
            witness = first_name(options.db_path) if salvage.last_seq else None
            stream_id = salvage.stream_id or witness or "".join(headers[-1:]) or options.new_id(options.now())
            fill(buffer, salvage, options, stream_id=stream_id, device_id=device_id, segments=found)
        else:  # what a replay inserts would be taken for the damaged one's own word
            buffer.check_counts(buffer.highest_seq(without=BAD_SECTOR))
        keep_owner(buffer, stream_id, [seen.header for seen in found if seen.header])
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


def _only_read(path: Path) -> bool:
    """Whether the header names a version that SQLite does not write: byte 18, beyond 2 (sqlite.org/fileformat2)."""
    with path.open("rb") as file:
        return file.read(19)[18:] > b"\2"


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
    held: Collection[int] = (),
) -> None:
    """Give a new buffer its stream, and what was saved of the ones before it.

    What they owed, or a bad line of the journal's `segments` was to keep, is told as lost where neither they nor the
    segments nor memory (`held`) can give it any more.
    """
    buffer.begin_stream(stream_id, device_id, options.now())
    buffer.insert([], last_seq=salvage.last_seq)
    # The first database that knows a row has it nearest to the truth; later ones are skipped by its number.
    ours = [seen for seen in segments if seen.header is None or seen.header.stream_id == stream_id]
    owed, confirmed = [*salvage.owed, *(span for seen in ours for span in seen.lost)], _confirmed(salvage.paths)
    for path in salvage.paths:
        with contextlib.closing(salvaged_rows(path)) as rows:  # a disk that refuses must not leave it open
            while stroke := list(islice(rows, FILL_ROWS)):
                mine = [row for row in stroke if row.status != "sent"]
                whole = [whole for row in mine if (whole := _whole(row, options.now()))]
                # By the number in the payload, which has a checksum.
                good = [row for row in whole if row.status != "pending" or not confirmed.within(row.seq, row.seq)]
                buffer.insert(good, last_seq=max([row.seq for row in good], default=0))
                buffer.checkpoint()  # else the log of all of it lies beside the old database and the new one
                if len(whole) < len(mine):
                    owed += ranges([row.seq for row in mine if 1 <= row.seq <= salvage.last_seq])
    for first, last, reason, lost_at in salvage.losses:
        # A tombstone has no checksum: a row that reads is the better witness.
        there = buffer.known(first, last) | _sent(salvage.paths, confirmed, first, last)
        buffer.bury(holes(there, first, last), reason, lost_at, last_seq=0)
    elsewhere = {seq for seen in ours for seq, _ in seen.records}.union(held)
    missing_now = partial(_missing, buffer, salvage.paths, confirmed, owed, elsewhere)
    if any(missing_now()):
        wanted = {seq for missing in missing_now() for seq in missing}
        _find(buffer, salvage.paths, wanted, options.now())
    for missing in missing_now():
        buffer.bury(ranges(missing), BAD_SECTOR, options.now(), last_seq=0)
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
        fill(new, salvage, options, stream_id=stream_id, device_id=device_id, segments=segments, held=held)
        for seen in segments:
            rows = [row for row in rows_of(seen, options.now()) if row.seq not in held]
            new.insert(rows, last_seq=last_seq)
            new.checkpoint()
    except (OSError, BufferDamaged, BufferUnwritable):
        new.close()
        raise
    return new


def _missing(
    buffer: Buffer, paths: Sequence[Path], confirmed: Confirmed, owed: Sequence[Span], elsewhere: Collection[int]
) -> Iterator[list[int]]:
    """The numbers that were owed and are nowhere, and have no tombstone, a stroke at a time."""
    for first, last in owed:
        for start in range(first, last + 1, FILL_ROWS):
            end = min(start + FILL_ROWS - 1, last)
            known = buffer.known(start, end) | buffer.buried(start, end) | _sent(paths, confirmed, start, end)
            if missing := [seq for seq in range(start, end + 1) if seq not in known and seq not in elsewhere]:
                yield missing


def _find(buffer: Buffer, paths: Sequence[Path], wanted: Collection[int], now: float) -> None:
    """Save of the missing what reads between rows that do not, or stands somewhere in the files though nothing leads
    there any more.
    """
    for path in paths:
        with (
            contextlib.closing(rows_asked_for(path, sorted(wanted))) as between,
            contextlib.closing(loose_payloads(path)) as payloads,
        ):
            rows = chain((_whole(row, now) for row in between), (_parsed(payload, now) for payload in payloads))
            found = (row for row in rows if row and row.seq in wanted)
            while stroke := list(islice(found, FILL_ROWS)):
                buffer.insert(stroke, last_seq=max(row.seq for row in stroke))
                buffer.checkpoint()


def _sent(paths: Iterable[Path], confirmed: Confirmed, first: int, last: int) -> set[int]:
    """The numbers from `first` to `last` that were sent, as their rows or a range say: an index that still lists one is
    wrong.
    """
    found = set(Seqs(confirmed.within(first, last)))
    for path in paths:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            query = f"SELECT id FROM {table_of(connection)} NOT INDEXED WHERE id BETWEEN ? AND ? AND status = 'sent'"  # noqa: S608
            found.update(seq for (seq,) in _ask(connection, query, first, last))
    return found


def _confirmed(paths: Iterable[Path]) -> Confirmed:
    """What the ranges that still are what was written say, all together."""
    found = Confirmed()
    for path in paths:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            for span in read_whole(connection)[0].within(1, SEQ_MAX):
                for part in found.free(*span):
                    found.add(*part)
    return found


def last_number(books: int, sequence: int, accounted: int) -> int:
    """The highest number that a damaged database gave out, by two witnesses: its books, and SQLite's own sequence.

    Where they differ (the books also count what was never written here), one may be damaged: then it is the higher one
    that the numbers which are accounted for reach up to. None may be given out twice, so in doubt it is the higher one.
    0 is one that can't be read.
    """
    told = [witness for witness in (books, sequence) if witness]
    within = [witness for witness in told if witness <= accounted] if len(told) > 1 and books != sequence else told
    return max(within or told, default=0)


def _read_books(path: Path) -> Salvage:
    """What a damaged database still says of its stream and of its tombstones."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        about = "CAST(stream_id AS BLOB), stream_crc32c, last_seq, total_sent"  # a text may be no UTF-8 any more
        books = _ask(connection, f"SELECT {about} FROM buffer_metadata")  # noqa: S608
        stream_id, crc32c, last_seq, sent = books[0] if books else (None, None, 0, 0)
        table, (confirmed, _) = table_of(connection), read_whole(connection)
        names = f"('{ROWS}', '{ROWS_BEFORE}')"
        sequence = _ask(connection, f"SELECT seq FROM sqlite_sequence WHERE name IN {names}")  # noqa: S608
        sequence = sequence or _ask(connection, f"SELECT max(id) FROM {table} NOT INDEXED")  # noqa: S608
        columns = "from_seq, to_seq, reason, lost_at, confirmed_at"
        tombstones = from_both_ends(connection, f"SELECT {columns} FROM buffer_losses WHERE")  # noqa: S608
        graves = [grave for grave in tombstones if is_tombstone(*grave[:3])]
        listed = [span for status in ("pending", "failed") for span in _numbers(connection, table, status)]
        owed = [span for first, last in listed for span in confirmed.free(first, last)]
        given_up = [(first, last) for first, last, *_ in graves]
        accounted = _number(sent) + sum(last - first + 1 for first, last in [*owed, *given_up])
        last_seq = last_number(_number(last_seq), _number(sequence[0][0]) if sequence else 0, accounted)
        # A start that was killed has told of holes at the end, and nothing else speaks of those. One that reaches over
        # a row is damaged, and no witness.
        under = f"SELECT 1 FROM {table} NOT INDEXED WHERE id BETWEEN ? AND ? LIMIT 1"  # noqa: S608
        ends = [last for first, last in given_up if last > last_seq and not _ask(connection, under, first, last)]
        last_seq = max([last_seq, *ends])
    return Salvage(
        stream_id=mended_stream(stream_id, crc32c),
        last_seq=last_seq,
        losses=tuple(grave[:4] for grave in graves if grave[4] is None and grave[1] <= last_seq),
        owed=tuple((first, last) for first, last in owed if last <= last_seq),
    )


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _ask(connection: sqlite3.Connection, query: str, *values: int) -> list[tuple[Any, ...]]:
    """The rows up to the first that does not read."""
    rows: list[tuple[Any, ...]] = []
    with contextlib.suppress(sqlite3.DatabaseError, UnicodeDecodeError):
        rows += connection.execute(query, values)
    return rows


def _numbers(connection: sqlite3.Connection, rows: str, status: str) -> list[Span]:
    """What the index of a status names: it lies on pages of its own, and often reads where the rows do not."""
    listed = f"SELECT id FROM {rows} INDEXED BY prediction_buffer_{status} WHERE status = '{status}' AND"  # noqa: S608
    numbers = (seq for seq, *_ in from_both_ends(connection, listed) if seq >= 1)
    found = Confirmed()
    while some := list(islice(numbers, FILL_ROWS)):
        for span in ranges(some):
            for part in found.free(*span):
                found.add(*part)
    return found.within(1, SEQ_MAX)


def _whole(row: Any, now: float) -> Row | None:
    """The prediction that a salvaged row holds, if it is what was accepted; where the row was changed, as it was.

    The payload says its own number, image and time, and has a checksum (one of an older version has not: its row must
    agree with it). What is not in quarantine is pending.
    """
    if not isinstance(row.payload, bytes) or row.crc32c not in (None, google_crc32c.value(row.payload)):
        return None
    whole = _parsed(row.payload, row.buffered_at if isinstance(row.buffered_at, float) else now)
    if whole is None or whole.seq < 1 or (row.crc32c is None and row.seq != whole.seq):
        return None
    if row.status == "failed" and isinstance(row.last_error, str | None):
        whole.status, whole.last_error = "failed", row.last_error
    if isinstance(row.retry_count, int):
        whole.retry_count = row.retry_count
    return whole


def _parsed(payload: bytes, buffered_at: float) -> Row | None:
    try:
        return row_of(payload, buffered_at)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
