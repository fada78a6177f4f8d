"""The release before this one, where its code is not there any more: what it said, and the ledger that it left."""

import contextlib
import functools
import shutil
import sqlite3
from pathlib import Path

import httpx
import msgspec

from cloud import wire

PAST = Path(__file__).parents[1] / "past" / "ledger-1.sql"
"""A ledger that the first release wrote: its tables are taken, its rows are not."""
UNSAID_BY_DEVICES = ("session_id", "sent_at", "pending", "late")
"""What an envelope may lack: `session_id` came later, and no guarantee hangs on the others."""
UNSAID_BY_CLOUDS = ("conflicting", "shared")
"""What answers did not hold."""


def older_request(request: httpx.Request, body_bytes_max: int) -> httpx.Request:
    """A POST as an older device sends it, uncompressed; other requests are as they were."""
    if request.method != "POST":
        return request
    body = wire.decompress(request.content, request.headers.get("content-encoding", ""), body_bytes_max)
    headers = {
        key: value for key, value in request.headers.items() if key not in ("content-encoding", "content-length")
    }
    content = _without(body, UNSAID_BY_DEVICES)
    return httpx.Request(request.method, request.url, headers=headers, content=content)


def older_answer(request: httpx.Request, body: bytes) -> bytes:
    """The body of an answer as an older cloud gives it, or as an older device reads it."""
    return _without(body, UNSAID_BY_CLOUDS) if request.method == "POST" else body


def _without(body: bytes, names: tuple[str, ...]) -> bytes:
    """An object without some of its keys; what is no object is as it was."""
    with contextlib.suppress(msgspec.MsgspecError):
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])  # the payloads stay as they are, to the byte
        return msgspec.json.encode({name: value for name, value in fields.items() if name not in names})
    return body


@functools.cache
def _tables() -> tuple[str, dict[str, str]]:
    """The empty ledger of the first release as SQL, and of each table what its columns are, but for the tallies."""
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.executescript(PAST.read_text(encoding="utf-8"))
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        told = [name for name in names if name not in ("_sqlite_migrations", "tallies")]
        columns = {name: ", ".join(row[1] for row in db.execute(f"PRAGMA table_info({name})")) for name in told}
        for name in (*told, "tallies"):
            db.execute(f"DELETE FROM {name}")  # noqa: S608 - names from a file of our own
        db.commit()
        return "\n".join(db.iterdump()), columns


def set_back(ledger: Path, *, killed: bool) -> int | None:
    """Put a ledger that nobody has open into the shape in which the first release would have left the same content.

    `killed`: its last commits lie in the write-ahead log, as after a SIGKILL. Returns how many predictions it holds;
    None where there is no ledger yet, or nobody has brought it to this release's shape so far.
    """
    tables, columns = _tables()
    past = ledger.parents[1] / "past.db"
    for end in ("", "-wal", "-shm"):
        past.with_name(past.name + end).unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(past, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(tables)
        db.execute("ATTACH ? AS now", (str(ledger),))
        if not db.execute("SELECT 1 FROM now.sqlite_master WHERE name = 'rollups'").fetchone():
            return None
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("BEGIN")
        for name, its in columns.items():
            db.execute(f"INSERT INTO main.{name} ({its}) SELECT {its} FROM now.{name}")  # noqa: S608
        db.execute(
            "INSERT INTO tallies SELECT device_no, model_no, predictions, defects FROM now.rollups WHERE grain_s = 0"
        )
        db.execute("COMMIT")
        db.execute("DETACH now")
        if not killed:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for end in ("", "-wal"):
            shutil.copyfile(past.with_name(past.name + end), ledger.with_name(ledger.name + end))
        (count,) = db.execute("SELECT count(*) FROM predictions").fetchone()
    return int(count)
