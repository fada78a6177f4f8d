"""Read a buffer as an operator: counts, rows, exports. The database is opened read-only, also while the device runs.

What is not in SQLite yet (the device moves rows there every few seconds) is read from the journal; both together are
the view `prediction_buffer`, so a condition of the operator's own sees all of them, by the columns of the documents.
"""

import contextlib
import math
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import google_crc32c
import msgspec

from actors.ports.aside import folder_bytes
from actors.ports.confirmed import read_whole
from actors.ports.journal import scan_all
from actors.ports.opening import NoBooks, journal_folder
from actors.ports.rows import rows_of
from actors.ports.schema import BY_IMAGE, OF_IMAGE, ROWS, rows_table

COLUMNS = ("id", "status", "image_id", "timestamp", "buffered_at", "sent_at", "retry_count", "last_error")
NUMBERS_MAX = 1_000
"""Rows of one image, or in quarantine, that are asked for by their numbers; where there are more, all rows are read."""
STATUSES = ("pending", "sent", "failed")
_CONFIRMED = "SELECT coalesce(sum(to_seq - from_seq + 1), 0) FROM main.buffer_confirmed"
_PAYLOAD = ("ifnull(CAST(prediction_data AS BLOB), x'') AS payload", "payload_crc32c")
_VIEW = """
CREATE TEMP TABLE journal_rows (id INTEGER PRIMARY KEY, prediction_data TEXT, image_id TEXT, timestamp REAL,
    buffered_at REAL, sent_at REAL, status TEXT DEFAULT 'pending', retry_count INTEGER DEFAULT 0, last_error TEXT);
CREATE TEMP VIEW prediction_buffer AS SELECT id, prediction_data, image_id, timestamp, buffered_at, sent_at, status,
    retry_count, last_error, {checksum} AS payload_crc32c FROM main.prediction_buffer UNION ALL SELECT id,
    prediction_data, image_id, timestamp, buffered_at, sent_at, status, retry_count, last_error, NULL
    FROM temp.journal_rows;
"""


class ConditionWrong(ValueError):
    """The condition is no SQL that can be asked of `prediction_buffer`."""


class Name(msgspec.Struct):
    """What numbers from `first_seq` on are called in the cloud."""

    stream_id: str
    device_id: str
    first_seq: int = 1


@attrs.frozen
class Reading:
    """An open view of a buffer. Every method may raise `NoBooks` (damaged) or `ConditionWrong`."""

    db_path: Path
    stream_id: str
    """The stream that the buffer began with."""
    names: tuple[Name, ...]
    """Oldest first: a device is called otherwise once its id was changed."""
    last_seq: int
    in_journal: int
    """Rows that are not in SQLite yet. They count as pending; a device that runs may know of some that they are not."""
    _connection: sqlite3.Connection
    damaged: list[int] = attrs.field(factory=list, init=False)
    """Rows that exports left out: their predictions are not what was accepted."""

    def rows(self, where: str = "", *, among: str = "", count_max: int, newest: bool = False) -> list[dict[str, Any]]:
        """Rows without their predictions, oldest first unless `newest`."""
        order = "DESC" if newest else "ASC"
        return self._ask(f"SELECT {', '.join(COLUMNS)}", where, f"ORDER BY id {order} LIMIT {int(count_max)}", among)

    def of_image(self, image_id: str) -> str:
        """The condition (`among`) for the rows of an image: their numbers by the index, where that is worth it.

        A buffer of an older version has none, and an image that was seen very often fills the statement.
        """
        in_journal = "SELECT id FROM temp.journal_rows WHERE image_id = ? LIMIT ?"
        with _named(self.db_path):
            if self._connection.execute("SELECT 1 FROM main.sqlite_master WHERE name = ?", (BY_IMAGE,)).fetchone():
                asked, in_rows = (image_id, NUMBERS_MAX + 1), OF_IMAGE.format(rows=rows_table(self._connection))
                found = [seq for by in (in_rows, in_journal) for (seq,) in self._connection.execute(by, asked)]
                if len(found) <= NUMBERS_MAX:
                    return f"id IN ({', '.join(map(str, found))})"
        name = image_id.replace("'", "''")
        return f"image_id = '{name}'"

    def of_status(self, status: str) -> str:
        """The condition (`among`) for the rows in a status: those in quarantine, unless many, by their index."""
        if status == "failed":
            with _named(self.db_path):
                table = rows_table(self._connection)
                refused = f"SELECT id FROM main.{table} WHERE status = 'failed' LIMIT {NUMBERS_MAX + 1}"  # noqa: S608
                found = self._connection.execute(refused).fetchall()
            if len(found) <= NUMBERS_MAX:
                return f"id IN ({', '.join(str(seq) for (seq,) in found)})"
        return f"status = '{status}'"

    def one(self, seq: int) -> dict[str, Any] | None:
        """A row with its prediction; None if it is not there."""
        found = self._ask(f"SELECT {', '.join(COLUMNS)}, prediction_data", f"id = {int(seq)}")
        for row in found:
            row["prediction"] = _parsed(row.pop("prediction_data"))
        return found[0] if found else None

    def fate(self, seq: int) -> str:
        """What became of a number that has no row."""
        if seq > self.last_seq or seq < 1:
            return f"this buffer has given out the numbers 1 to {self.last_seq}"
        with _named(self.db_path):
            grave = self._connection.execute(
                "SELECT reason, lost_at FROM main.buffer_losses WHERE ? BETWEEN from_seq AND to_seq", (seq,)
            ).fetchone()
        return f"given up: {grave[0]}" if grave else "confirmed by the cloud and cleaned up since"

    def spans(self, where: str, *, among: str = "") -> list[tuple[int, int]]:
        """The numbers of the rows that the condition holds for, as ranges with both ends included."""
        found = self._ask("SELECT id", where, "ORDER BY id", among)
        spans: list[tuple[int, int]] = []
        for row in found:
            if spans and row["id"] == spans[-1][1] + 1:
                spans[-1] = (spans[-1][0], row["id"])
            else:
                spans.append((row["id"], row["id"]))
        return spans

    def export(self, where: str = "", *, among: str = "") -> Iterator[bytes]:
        """A line of JSON for each row, oldest first: whose number it is, its state, and the payload byte for byte.

        A row whose payload has changed at rest is left out, and its number noted in `damaged`.
        """
        columns = ("id", "status", "buffered_at", "sent_at", "retry_count", "last_error", *_PAYLOAD)
        for row in self._iterate(f"SELECT {', '.join(columns)}", where, "ORDER BY id", among):
            payload, checksum = row.pop("payload"), row.pop("payload_crc32c")
            if checksum not in (None, google_crc32c.value(payload)):
                self.damaged.append(row["id"])
                continue
            seq = row.pop("id")
            device_id = next((name for name in reversed(self.names) if seq >= name.first_seq), self.names[0]).device_id
            head = msgspec.json.encode({"stream_id": self.stream_id, "edge_device_id": device_id, "seq": seq, **row})
            yield head[:-1] + b',"prediction":' + payload + b"}\n"

    def stats(self) -> dict[str, Any]:
        """The figures of the buffer. Sizes are bytes, times are seconds since 1970, counts are predictions."""
        with _named(self.db_path):
            table = rows_table(self._connection)
        # Counted in the table itself, whose indexes make that quick, and all in one look: a device may be at work.
        confirmed = _CONFIRMED if table == ROWS else "0"
        each = [f"(SELECT count(*) FROM main.{table} WHERE status = '{status}')" for status in STATUSES]  # noqa: S608
        *found, by_ranges = self._one(f"SELECT {', '.join(each)}, ({confirmed})")
        counts = dict(zip(STATUSES, found, strict=True))
        counts["pending"] += self.in_journal - by_ranges
        counts["sent"] += by_ranges
        oldest = self._oldest_pending_at(table)
        first, last = self._one("SELECT min(timestamp), max(timestamp) FROM prediction_buffer")
        buffered, sent, evicted, created_at, last_cleanup = self._one(
            "SELECT total_buffered, total_sent, total_evicted, created_at, last_cleanup FROM main.buffer_metadata"
        )
        pages, free, size = (self._one(f"PRAGMA {name}")[0] for name in ("page_count", "freelist_count", "page_size"))
        with _named(self.db_path):
            lost = self._connection.execute(
                "SELECT reason, sum(to_seq - from_seq + 1) FROM main.buffer_losses GROUP BY reason ORDER BY reason"
            ).fetchall()
        return {
            "buffer": str(self.db_path),
            "edge_device_id": self.names[-1].device_id,
            "stream_id": self.names[-1].stream_id,
            "created_at": created_at,
            "last_seq": self.last_seq,
            **counts,
            "in_journal": self.in_journal,
            "given_up": dict(lost),
            "oldest_pending_at": oldest,
            "first_timestamp": first,
            "last_timestamp": last,
            "total_buffered": buffered + self.in_journal,
            "total_sent": sent,
            "total_evicted": evicted,
            "last_cleanup": last_cleanup,
            "database_bytes": pages * size,
            "free_bytes": free * size,
            "wal_bytes": _size(self.db_path.with_name(self.db_path.name + "-wal")),
            "journal_bytes": folder_bytes(journal_folder(self.db_path)),
            "quarantine_bytes": folder_bytes(self.db_path.with_name(self.db_path.stem + "-quarantine")),
        }

    def _oldest_pending_at(self, table: str) -> float | None:
        with _named(self.db_path):
            confirmed, _ = read_whole(self._connection)
            waiting = f"SELECT min(buffered_at) FROM main.{table} WHERE status = 'pending' AND id > ? AND id < ?"  # noqa: S608
            found = [self._connection.execute(waiting, bounds).fetchone()[0] for bounds in confirmed.gaps(0)]
            found += self._connection.execute("SELECT min(buffered_at) FROM temp.journal_rows").fetchone()
        return min((at for at in found if isinstance(at, float)), default=None)

    def problems(self) -> list[str]:
        """What SQLite and the payloads say of damage; empty when all is well. Reads the whole file."""
        try:
            found = [str(row[0]) for row in self._connection.execute("PRAGMA integrity_check(20)")]
            broken = [
                f"row {seq}: the prediction is no JSON that carries its number"
                for seq, whole in self._connection.execute(
                    "SELECT id, CASE WHEN json_valid(prediction_data) THEN json_extract(prediction_data, '$.seq') = id"
                    " END AS whole FROM main.prediction_buffer WHERE whole IS NOT 1 LIMIT 20"
                )
                if not whole
            ]
            broken += [
                f"row {seq}: the prediction is not what was accepted (its checksum is another)"
                for seq, payload, checksum in self._connection.execute(
                    f"SELECT id, {', '.join(_PAYLOAD)} FROM prediction_buffer WHERE payload_crc32c IS NOT NULL"  # noqa: S608
                )
                if google_crc32c.value(payload) != checksum
            ][:20]
            bad = read_whole(self._connection)[1]
            broken += [f"{bad} ranges of what is confirmed are not what was written"] * (bad > 0)
        except sqlite3.DatabaseError as exc:
            return [str(exc)]
        return [line for line in found if line != "ok"] + broken

    def _one(self, query: str) -> Any:
        with _named(self.db_path):
            return self._connection.execute(query).fetchone()

    def _ask(self, select: str, where: str = "", rest: str = "", among: str = "") -> list[dict[str, Any]]:
        return list(self._iterate(select, where, rest, among))

    def _iterate(self, select: str, where: str, rest: str, among: str) -> Iterator[dict[str, Any]]:
        """Rows of `among` (a condition of ours) for which `where` (the operator's) holds: it can only leave out."""
        # A condition that ends in a comment must not swallow what comes behind it.
        condition = f"WHERE ({where}\n)" if where.strip() else ""
        rows = f"(SELECT * FROM prediction_buffer WHERE {among})" if among else "prediction_buffer"  # noqa: S608
        try:
            cursor = self._connection.execute(f"{select} FROM {rows} {condition} {rest}")
            names = [column[0] for column in cursor.description]
            for row in cursor:
                yield dict(zip(names, row, strict=True))
        except (sqlite3.OperationalError, sqlite3.ProgrammingError, sqlite3.Warning) as exc:
            if not condition:
                raise NoBooks(f"{self.db_path}: {exc}") from exc
            raise ConditionWrong(
                f"--where {where!r}: {exc}; it takes an SQL condition on {', '.join(COLUMNS)} and prediction_data,"
                " such as \"status = 'failed' AND image_id LIKE 'cam-2%'\""
            ) from exc
        except (sqlite3.DatabaseError, UnicodeDecodeError) as exc:  # a complaint may quote what is damaged
            raise NoBooks(f"{self.db_path}: {exc}; `buffer repair` mends it") from exc


@contextlib.contextmanager
def open_reading(db_path: Path) -> Iterator[Reading]:
    """A view of the buffer at `db_path` for as long as the block; nothing is written. `NoBooks`."""
    with _named(db_path):
        there = db_path.is_file()
    if not there:
        raise NoBooks(f"{db_path}: there is no buffer; BUFFER_DB_PATH (or --buffer-db-path) names the one to read")
    with _named(db_path):
        reading = _read(db_path)
    with contextlib.closing(reading._connection):  # noqa: SLF001 - made here
        yield reading


def _read(db_path: Path) -> Reading:
    # The journal first: what leaves it meanwhile is in SQLite by the time that is read.
    segments = scan_all(journal_folder(db_path))
    with contextlib.ExitStack() as stack:
        connection = _connect(db_path)
        stack.callback(connection.close)
        stream_id, device_id, last_seq = connection.execute(
            "SELECT stream_id, device_id, last_seq FROM buffer_metadata"
        ).fetchone() or ("", "", 0)
        ours = [seen for seen in segments if seen.header is None or seen.header.stream_id == stream_id]
        fresh = [row for seen in ours for row in rows_of(seen, math.inf) if row.seq > last_seq]
        columns = [name for (name,) in connection.execute("SELECT name FROM pragma_table_info('prediction_buffer')")]
        connection.executescript(_VIEW.format(checksum="payload_crc32c" if "payload_crc32c" in columns else "NULL"))
        connection.executemany(
            "INSERT OR IGNORE INTO temp.journal_rows (id, prediction_data, image_id, timestamp, buffered_at)"
            " VALUES (?, ?, ?, ?, ?)",
            [(row.seq, row.payload.decode(), row.image_id, row.timestamp, row.buffered_at) for row in fresh],
        )
        connection.commit()
        connection.set_authorizer(_only_reading)
        stack.pop_all()
    last_seq = max([last_seq, *(row.seq for row in fresh)])
    return Reading(db_path, stream_id, _names(db_path, Name(stream_id, device_id)), last_seq, len(fresh), connection)


def _names(db_path: Path, first: Name) -> tuple[Name, ...]:
    # As `names.read_names`, without what that room brings along: an operator's look shall not wait for Trio.
    try:
        names = msgspec.json.decode(db_path.with_name(f"{db_path.name}.streams").read_bytes(), type=list[Name])
    except (OSError, ValueError):
        return (first,)
    return tuple(names) if names and names[0].stream_id == first.stream_id else (first,)


def _connect(db_path: Path) -> sqlite3.Connection:
    address = f"file:{quote(str(db_path.absolute()))}?mode=ro"
    with contextlib.ExitStack() as stack:
        connection = sqlite3.connect(address, uri=True, timeout=5.0)
        stack.callback(connection.close)
        try:
            connection.execute("SELECT 1 FROM buffer_metadata").fetchone()
        except sqlite3.OperationalError:
            if db_path.with_name(db_path.name + "-wal").exists():
                raise
        else:
            stack.pop_all()
            return connection
    # Somebody who may only read can't make the files that WAL mode wants; nobody has it open, so none is needed.
    return sqlite3.connect(f"{address}&immutable=1", uri=True)


def _only_reading(action: int, *_: object) -> int:
    reading = (
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_FUNCTION,
        sqlite3.SQLITE_PRAGMA,
        sqlite3.SQLITE_RECURSIVE,
    )
    return sqlite3.SQLITE_OK if action in reading else sqlite3.SQLITE_DENY


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError, OSError) as exc:
        raise NoBooks(f"{path}: no buffer of a device can be read there ({exc})") from exc


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _parsed(payload: str) -> Any:
    try:
        return msgspec.json.decode(payload)
    except msgspec.DecodeError:
        return payload
