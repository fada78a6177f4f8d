"""A replay that is killed leaves a sound database, which claims no number that it has not got yet."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
from structlog.testing import capture_logs

from actors.ports import replay
from actors.ports.buffer import Buffer
from actors.ports.journal import encode_line, orphans
from actors.ports.store import Store
from chaos.sim.platter import lay_out
from cloud.wire import number_payload
from tests.storage.fixtures import reopen
from tests.storage.test_log_flips import FRAME_BYTES
from tests.storage.test_segment_flips import accepted, left_by_a_kill

RECORDS = 6


def copied_at_each_insert(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What a SIGKILL would leave before each insert of the start at `place`, and before all that follows them."""
    copies: list[Path] = []

    def copying(usual: Any) -> Any:
        def work(*given: Any, **more: Any) -> Any:
            copies.append(shutil.copytree(place, place.with_name(f"copy-{len(copies)}")))
            return usual(*given, **more)

        return work

    with monkeypatch.context() as patch:
        for name in ("insert", "recount"):
            patch.setattr(Buffer, name, copying(getattr(Buffer, name)))
        reopen(place).close()
    return copies


def checksums(store: Store) -> dict[int, int]:
    return {record.seq: google_crc32c.value(record.payload) for record in store.pending(0, 100, 1 << 20)}


def test_replay_that_is_killed_between_two_strokes_is_gone_on_with(folder, monkeypatch):
    """It was taken for a damaged database: the numbers of the strokes to come were said to be in it."""
    monkeypatch.setattr(replay, "INSERT_RECORDS", 2)
    state, told = left_by_a_kill(folder, lambda store, told, _: accepted(store, told, "t", RECORDS))
    lay_out(state, folder / "hit")
    copies = copied_at_each_insert(folder / "hit", monkeypatch)
    assert len(copies) > RECORDS // 2
    for copy in copies:
        assert not (copy / "buffer.db.damaged").exists()
        store = reopen(copy)
        assert not store.recovered.buffer_set_aside
        assert set(store.pending(0, 100, 1 << 20).seqs) == told.payloads.keys()
        store.close()


def test_line_that_goes_bad_after_a_killed_replay_is_told_as_lost(folder, monkeypatch):
    """Its number was taken for one that had been inserted once, and sent since."""
    monkeypatch.setattr(replay, "INSERT_RECORDS", 2)
    state, told = left_by_a_kill(folder, lambda store, told, _: accepted(store, told, "t", RECORDS))
    lay_out(state, folder / "hit")
    copies = copied_at_each_insert(folder / "hit", monkeypatch)
    (segment,) = orphans(copies[1] / "buffer-journal")
    data = bytearray(segment.read_bytes())
    data[data.index(b'"seq":5,"image_id"') + 12] ^= 1
    segment.write_bytes(data)
    store = reopen(copies[1])
    assert set(store.pending(0, 100, 1 << 20).seqs) == told.payloads.keys() - {5}
    assert [(loss.from_seq, loss.to_seq) for loss in store.losses()] == [(5, 5)]
    assert not store.recovered.buffer_set_aside
    store.close()


def test_replay_that_is_killed_beside_a_log_with_a_hole_is_gone_on_with(folder, monkeypatch):
    """A power cut takes one of the log's frames. What stands behind it says how many numbers there were."""

    def build(store, told, _):
        for number in range(3):
            accepted(store, told, f"t{number}", RECORDS)
            assert store.flush_if_writable()

    state, told = left_by_a_kill(folder, build)
    log = state["buffer.db-wal"]
    assert log
    tried = 0
    for at in range(32, len(log), FRAME_BYTES):
        place = folder / f"hit-{at}"
        place.mkdir()
        lay_out(state | {"buffer.db-wal": log[:at] + bytes(FRAME_BYTES) + log[at + FRAME_BYTES :]}, place / "hit")
        for copy in copied_at_each_insert(place / "hit", monkeypatch):
            tried += (copy / "buffer.db-wal.kept").exists()
            store = reopen(copy)
            assert not store.recovered.buffer_set_aside
            assert set(store.pending(0, 100, 1 << 20).seqs) == told.payloads.keys()
            store.close()
    assert tried > len(log) // FRAME_BYTES


@pytest.mark.parametrize("column", ["prediction_data", "payload_crc32c"])
def test_row_that_has_changed_is_put_right_by_its_line_in_the_journal(folder, column):
    """A kill between a stroke and the retirement of its segment leaves both; only one of them was hit."""

    def build(store, told, _):
        accepted(store, told, "t", RECORDS)
        assert store.flush_if_writable()

    state, told = left_by_a_kill(folder, build)
    lay_out(state, folder / "hit")
    with closing(sqlite3.connect(folder / "hit" / "buffer.db")) as connection:
        bit = {"prediction_data": "replace(prediction_data, 'image', 'imagf')", "payload_crc32c": "payload_crc32c + 1"}
        connection.execute(f"UPDATE buffer_predictions SET {column} = {bit[column]} WHERE id = 5")
        connection.commit()
    store = reopen(folder / "hit")
    assert checksums(store) == told.payloads
    assert not store.damaged_count
    store.close()


def test_row_of_an_older_version_gets_its_checksum_and_is_not_told_as_mended(folder):
    state, told = left_by_a_kill(folder, lambda store, told, _: accepted(store, told, "t", RECORDS))
    lay_out(state, folder / "hit")
    (segment,) = orphans(folder / "hit" / "buffer-journal")
    lines = segment.read_bytes()
    reopen(folder / "hit").close()
    with closing(sqlite3.connect(folder / "hit" / "buffer.db")) as connection:
        connection.execute("UPDATE buffer_predictions SET payload_crc32c = NULL WHERE id = 5")
        connection.commit()
        segment.write_bytes(lines)
        with capture_logs() as logs:
            store = reopen(folder / "hit")
        row = connection.execute("SELECT payload_crc32c FROM buffer_predictions WHERE id = 5").fetchone()
    assert row == (told.payloads[5],)
    assert not [event for event in logs if event["event"] == "payloads_mended"]
    store.close()


def test_line_of_a_group_that_failed_replaces_no_row(folder):
    """Its number was given to another group, which SQLite took."""
    state, told = left_by_a_kill(folder, lambda store, told, _: accepted(store, told, "t", RECORDS))
    lay_out(state, folder / "hit")
    (segment,) = orphans(folder / "hit" / "buffer-journal")
    lines = segment.read_bytes()
    store = reopen(folder / "hit")
    store.close()
    stale = number_payload(5, b'{"image_id":"stale","timestamp":1.0}')
    segment.write_bytes(lines + encode_line(5, stale, google_crc32c.value(stale)))
    store = reopen(folder / "hit")
    assert checksums(store) == told.payloads
    store.close()
