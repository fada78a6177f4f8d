"""A store and its folder for tests: opened, killed and opened again."""

import shutil
import sqlite3
from pathlib import Path

import attrs

from actors.messages import Entry, Fate, Outcome
from actors.ports.opening import BufferFull, StoreOptions
from actors.ports.store import Store

DEVICE = "cam-1"
FORMAT_4 = """
DROP VIEW prediction_buffer; DROP TABLE buffer_confirmed; ALTER TABLE buffer_predictions RENAME TO prediction_buffer;
PRAGMA user_version = 4;
"""
"""What makes of a database of today one of format 4, where nothing was confirmed by a range."""


@attrs.define
class Disk:
    """A folder, a clock, and the stores that live on them one after another."""

    folder: Path
    options: dict[str, object]
    now: float = 1_000.0
    streams: int = 0

    def open(self) -> Store:
        def new_id(_: float) -> str:
            self.streams += 1
            return f"stream-{self.streams}"

        settings: dict[str, object] = {
            "capacity_bytes": 64 << 20,
            "cleanup_days": 7.0,
            "journal": True,
            "sync": lambda _: None,
        } | self.options
        return Store.open(
            DEVICE,
            StoreOptions(db_path=self.folder / "buffer.db", now=lambda: self.now, new_id=new_id, **settings),  # type: ignore[arg-type]
        )

    def kill(self, store: Store) -> Store:
        """What a SIGKILL leaves is what the files hold at that moment; the next process opens that."""
        moved = self.folder.with_name(self.folder.name + "k")
        shutil.copytree(self.folder, moved)
        store.close()
        self.folder = moved
        return self.open()

    def rows(self) -> dict[int, str]:
        with sqlite3.connect(self.folder / "buffer.db") as connection:
            found = dict(connection.execute("SELECT id, status FROM prediction_buffer").fetchall())
        connection.close()
        return found


def entries(count: int, size: int = 40) -> list[Entry]:
    return [
        Entry(f"frame_{n}", 5.0 + n, b'{"image_id":"frame_%d","timestamp":%d.0,"pad":"%s"}' % (n, 5 + n, b"x" * size))
        for n in range(count)
    ]


def seqs_pending(store: Store) -> list[int]:
    found: list[int] = []
    after = 0
    while page := store.pending(after, 7, 1 << 20):
        found += [record.seq for record in page]
        after = page[-1].seq
    return found


def fill(store: Store, size: int = 300, at_once: int = 100) -> int:
    """Accept until it is refused; how many went in."""
    accepted = 0
    try:
        while True:
            accepted += len(store.accept(entries(at_once, size=size)))
    except BufferFull:
        return accepted


def sent(*seqs: int) -> Outcome:
    return Outcome(Fate.SENT, seqs)
