"""Where the simulation's flipped bits fall: every byte of a database has a kind, and each kind is what it says."""

import contextlib
import sqlite3

import pytest

from actors.ports.schema import MIGRATIONS
from chaos.sim.places import places

KINDS = {
    *("file header", "page header", "row number", "record header", "index or schema entry", "elsewhere"),
    *(
        "payload",
        "status",
        "buffer_predictions columns",
        "buffer_confirmed columns",
        "buffer_losses columns",
        "buffer_metadata columns",
    ),
}
ROWS = 300
"""More than one page holds, of the table and of each index."""


def database(path):
    with contextlib.closing(sqlite3.connect(path)) as db:
        for migration in MIGRATIONS:
            db.executescript(migration)
        db.execute(
            "INSERT INTO buffer_metadata (only, stream_id, stream_crc32c, device_id, created_at)"
            " VALUES (1, 'STREAM', 7, 'cam', 1.5)"
        )
        db.execute("INSERT INTO buffer_confirmed VALUES (10, 20, 1.5, 77)")
        db.execute("INSERT INTO buffer_losses VALUES (1, 2, 'evicted', 1.5, NULL)")
        db.executemany(
            "INSERT INTO buffer_predictions (prediction_data, image_id, timestamp, buffered_at, status)"
            " VALUES (?, ?, 1.5, 2.5, ?)",
            [("P" * (5_000 if n == 7 else 100), f"image-{n}", ("pending", "sent")[n % 2]) for n in range(ROWS)],
        )
        db.commit()
        roots = dict(db.execute("SELECT name, rootpage FROM sqlite_master WHERE rootpage > 0"))
    return path.read_bytes(), roots


def offsets(data, roots):
    found = places(data, roots)
    return {kind: found.of(kind) for kind in found.kinds}


def test_bytes_are_counted_kind_by_kind(tmp_path):
    data, roots = database(tmp_path / "a.db")
    found = places(data, roots)
    each = [(kind, at) for kind, there in offsets(data, roots).items() for at in there]
    assert [found.nth(number) for number in range(0, len(data), 1_999)] == each[::1_999]
    with pytest.raises(IndexError):
        found.nth(len(data))


def test_every_byte_has_one_kind_and_the_kinds_are_right(tmp_path):
    data, roots = database(tmp_path / "a.db")
    found = offsets(data, roots)
    assert set(found) == KINDS
    assert sorted(at for offsets in found.values() for at in offsets) == list(range(len(data)))
    assert bytes(data[at] for at in found["status"]).replace(b"pending", b"").replace(b"sent", b"") == b""
    assert len(found["status"]) == ROWS // 2 * len("pendingsent") - len("sent"), "that of the long row lies elsewhere"
    assert set(bytes(data[at] for at in found["payload"])) == {ord("P")}
    assert 100 * (ROWS - 1) < len(found["payload"]) <= 100 * (ROWS - 1) + 5_000, "so does most of its payload"
    assert bytes(data[at] for at in found["file header"]).startswith(b"SQLite format 3\0")
    assert b"evicted" in bytes(data[at] for at in found["buffer_losses columns"])
    assert b"STREAM" in bytes(data[at] for at in found["buffer_metadata columns"])
    assert b'CREATE TABLE "buffer_predictions"' in bytes(data[at] for at in found["index or schema entry"])


def test_what_can_not_be_followed_is_elsewhere(tmp_path):
    data, roots = database(tmp_path / "a.db")
    broken = bytearray(data)
    broken[4096 * (roots["buffer_predictions"] - 1)] = 77  # no kind of page
    found = offsets(bytes(broken), roots)
    assert "status" not in found
    assert sorted(at for offsets in found.values() for at in offsets) == list(range(len(data)))
    assert set(offsets(b"\xff" * 5_000, {})) <= KINDS
