"""Read a device's books from its disk, also while the device runs; nothing is written."""

import contextlib
import sqlite3
from pathlib import Path

import attrs

from actors.messages import Stream
from actors.ports.buffer import ranges
from actors.ports.confirmed import read_whole
from actors.ports.journal import scan_all
from actors.ports.names import read_names
from actors.ports.opening import NoBooks, journal_folder
from actors.ports.schema import rows_table

Span = tuple[int, int]
"""A range of numbers, both ends included."""


@attrs.frozen(kw_only=True)
class Account:
    """What a device's disk says of its stream."""

    streams: tuple[Stream, ...]
    """Under which names its numbers go out, oldest first."""
    accepted: int
    """The highest number given out; all from 1 on were."""
    waiting: tuple[Span, ...]
    """Pending, in the buffer or in the journal alone."""
    quarantined: tuple[Span, ...]
    given_up: tuple[tuple[int, int, str], ...]
    """Tombstones: (from, to, reason)."""


def read_account(db_path: Path) -> Account:
    """The account of the buffer at `db_path`, with what still lies in the journal alone. `NoBooks`."""
    if not db_path.exists():
        raise NoBooks(f"{db_path}: there is no buffer; BUFFER_DB_PATH (or --buffer-db-path) names the one to compare")
    # The journal first: what leaves it meanwhile is in SQLite by the time that is read.
    segments = scan_all(journal_folder(db_path))
    try:
        with contextlib.closing(sqlite3.connect(f"file:{db_path}?mode=ro", uri=True)) as connection:
            connection.execute("BEGIN")  # all of it as it stands at one moment: a device may be at work
            stream_id, made_as, last_seq = connection.execute(
                "SELECT stream_id, device_id, last_seq FROM buffer_metadata"
            ).fetchone()
            table = rows_table(connection)
            waiting, quarantined = (_islands(connection, table, status) for status in ("pending", "failed"))
            confirmed, _ = read_whole(connection)
            waiting = [part for span in waiting for part in confirmed.free(*span)]
            given_up = connection.execute("SELECT from_seq, to_seq, reason FROM buffer_losses").fetchall()
    except (sqlite3.Error, TypeError) as exc:
        raise NoBooks(
            f"{db_path}: no buffer of a device can be read there ({exc}); `buffer repair` mends a damaged one"
        ) from exc
    in_journal = [seq for segment in segments for seq, _ in segment.records if seq > last_seq]
    return Account(
        streams=read_names(db_path, Stream(stream_id, made_as)),
        accepted=max([last_seq, *in_journal]),
        waiting=(*waiting, *ranges(in_journal)),
        quarantined=tuple(quarantined),
        given_up=tuple(given_up),
    )


def _islands(connection: sqlite3.Connection, table: str, status: str) -> list[tuple[int, int]]:
    """The numbers of all rows in a status, as ranges: numbers that run on differ from their row number by the same."""
    return connection.execute(
        "SELECT min(id), max(id) FROM (SELECT id, id - row_number() OVER (ORDER BY id) AS island"  # noqa: S608
        f" FROM {table} WHERE status = '{status}') GROUP BY island ORDER BY 1"
    ).fetchall()
