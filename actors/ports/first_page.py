"""The first page of a database says where all else is. It is the same in every buffer, so a damaged one is replaced.

What stands there is the schema, with the root page of each table and index. A database with `auto_vacuum` has the roots
at its beginning, in the order in which they were made, whatever else is in the file. So a new buffer's first page
describes an old one, but for the length of the file, at byte 28 (sqlite.org/fileformat2).
"""

import contextlib
import sqlite3
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from actors.ports.private import write_private
from actors.ports.schema import MIGRATIONS, is_stream

PAGE_BYTES = 4096
_WRITTEN_AT = 18
"""Whether there is a write-ahead log: two bytes."""
_COUNT_AT = 28
_FREE_AT = 32
"""Where the list of free pages begins, and how many it has: eight bytes. Who only reads needs none."""


def mend_first_page(path: Path, sound: Path) -> None:
    """Give the damaged database at `path` the first page of the new, checkpointed one at `sound`. `OSError`.

    One of an older version may end before the pages that are named there: then it gets the page that it was made with.
    What stood there is kept beside it. Where none fits after all, or where the page was not what is damaged, it stays.
    """
    newer = _ask(path, "PRAGMA user_version") > [(len(MIGRATIONS),)]
    if _says_stream(path) and (newer or _schema(path) == _schema(sound)):
        return
    with path.open("r+b") as file, sound.open("rb") as new:
        damaged, page = file.read(PAGE_BYTES), new.read(PAGE_BYTES)
        if len(damaged) < PAGE_BYTES or len(page) < PAGE_BYTES:
            return
        older = (_first_page_of(version, page) for version in range(len(MIGRATIONS) - 1, 0, -1))
        for fitting in chain([page], older):
            _put(file, fitting, pages=path.stat().st_size // PAGE_BYTES)
            if _says_stream(path):
                write_private(path.with_name(path.name + ".page-1"), damaged)
                return
        _put(file, damaged)


def _first_page_of(version: int, today: bytes) -> bytes:
    """The page of a new database of an older version; how it is written to is said as `today`."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        for step in MIGRATIONS[:version]:
            connection.executescript(step)
        connection.execute(f"PRAGMA user_version = {version}")
        page = connection.serialize()[:PAGE_BYTES]
    return page[:_WRITTEN_AT] + today[_WRITTEN_AT : _WRITTEN_AT + 2] + page[_WRITTEN_AT + 2 :]


def _put(file: BinaryIO, page: bytes, *, pages: int = 0) -> None:
    """Write a first page: as it is, or in a file of so many pages, of which none is free."""
    if pages:
        page = page[:_COUNT_AT] + pages.to_bytes(4) + bytes(8) + page[_FREE_AT + 8 :]
    file.seek(0)
    file.write(page)
    file.flush()


def _says_stream(path: Path) -> bool:
    """Whether the stream is found: it has a checksum."""
    row = _ask(path, "SELECT stream_id, stream_crc32c FROM buffer_metadata")
    return bool(row) and is_stream(*row[0])


def _schema(path: Path) -> list[tuple[Any, ...]]:
    return _ask(path, "SELECT name, rootpage, sql FROM sqlite_master ORDER BY name")


def _ask(path: Path, query: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        try:
            return connection.execute(query).fetchall()
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            return []
