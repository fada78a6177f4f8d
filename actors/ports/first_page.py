"""The first page of a database says where all else is. It is the same in every buffer, so a damaged one is replaced.

What stands there is the schema, with the root page of each table and index. A database with `auto_vacuum` has the roots
at its beginning, in the order in which they were made, whatever else is in the file. So a new buffer's first page
describes an old one, but for the length of the file, at byte 28 (sqlite.org/fileformat2).
"""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any, BinaryIO

from actors.ports.private import write_private
from actors.ports.schema import MIGRATIONS, is_stream

PAGE_BYTES = 4096
_COUNT_AT = 28
_FREE_AT = 32
"""Where the list of free pages begins, and how many it has: eight bytes. Who only reads needs none."""


def mend_first_page(path: Path, sound: Path) -> None:
    """Give the damaged database at `path` the first page of the new, checkpointed one at `sound`. `OSError`.

    What stood there is kept beside it. Where the two are not alike after all, or where the page was not what is
    damaged, it stays.
    """
    newer = _ask(path, "PRAGMA user_version") > [(len(MIGRATIONS),)]
    if _says_stream(path) and (newer or _schema(path) == _schema(sound)):
        return
    with path.open("r+b") as file, sound.open("rb") as new:
        damaged, page = file.read(PAGE_BYTES), bytearray(new.read(PAGE_BYTES))
        if len(damaged) < PAGE_BYTES or len(page) < PAGE_BYTES:
            return
        page[_COUNT_AT : _COUNT_AT + 4] = (path.stat().st_size // PAGE_BYTES).to_bytes(4, "big")
        page[_FREE_AT : _FREE_AT + 8] = bytes(8)
        _put(file, page)
        if _says_stream(path):
            write_private(path.with_name(path.name + ".page-1"), damaged)
        else:
            _put(file, damaged)


def _put(file: BinaryIO, page: bytes | bytearray) -> None:
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
