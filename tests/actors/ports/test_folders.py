"""Folders on real files: complete ones only, none skipped, none twice, and gone where the next start goes on."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from actors.ports import cursors
from actors.ports.cursors import Cursor, Mark, cursor_path, recent_ids
from actors.ports.folders import LOOK_EVERY_S, FolderSource
from actors.ports.frames import FrameUnreadable, Memory, NoFrameYet, Resumable, VideoSource, parse_sources
from actors.settings import AfterAccept
from tests.actors.ports.test_frames import read_all, write_image, write_video


class Ticks:
    """A clock that goes when told."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def write_old(path: Path, mtime: float = 1_600_000_000.0) -> Path:
    write_image(path)
    os.utime(path, (mtime, mtime))
    return path


def watched(folder: Path, ticks: Ticks, **given) -> FolderSource:
    return FolderSource("belt", folder, watch=True, tick=ticks, **given)


def drain(source: FolderSource) -> list[str]:
    """What a look gives now."""
    ids: list[str] = []
    while True:
        try:
            frame = source.read()
        except NoFrameYet:
            return ids
        assert frame is not None
        assert frame.mark is not None
        ids.append(frame.image_id)
        source.accepted([frame.mark])


def looked(source: FolderSource, ticks: Ticks) -> list[str]:
    ticks.at += LOOK_EVERY_S
    return drain(source)


def test_a_watched_file_is_read_only_when_it_was_the_same_over_a_look(tmp_path):
    ticks = Ticks()
    source = watched(tmp_path, ticks)
    source.open()
    path = write_old(tmp_path / "a.png")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert looked(source, ticks) == [], "seen for the first time"
    path.write_bytes(whole)
    os.utime(path, (1_600_000_000, 1_600_000_000))
    assert looked(source, ticks) == [], "it has grown"
    ticks.at += LOOK_EVERY_S / 2
    assert drain(source) == [], "not looked at again so soon"
    assert looked(source, ticks) == ["belt/a.png@1600000000.000"]
    assert looked(source, ticks) == []


def test_a_file_that_comes_late_and_sorts_first_is_not_skipped(tmp_path):
    ticks = Ticks()
    source = watched(tmp_path, ticks)
    write_old(tmp_path / "m.png")
    source.open()
    assert looked(source, ticks) == ["belt/m.png@1600000000.000"]
    write_old(tmp_path / "a.png", 1_500_000_000.0)
    assert looked(source, ticks) == []
    assert looked(source, ticks) == ["belt/a.png@1500000000.000"]


def test_a_file_written_anew_is_a_new_frame_with_an_id_of_its_own(tmp_path):
    ticks = Ticks()
    source = watched(tmp_path, ticks)
    write_old(tmp_path / "latest.png")
    source.open()
    first = looked(source, ticks)
    write_old(tmp_path / "latest.png", 1_600_000_001.5)
    looked(source, ticks)
    assert first + looked(source, ticks) == ["belt/latest.png@1600000000.000", "belt/latest.png@1600000001.500"]


def test_a_folder_that_is_unmounted_and_back_gives_only_what_is_new(tmp_path):
    ticks = Ticks()
    belt = tmp_path / "belt"
    write_old(belt / "a.png")
    source = watched(belt, ticks)
    source.open()
    assert looked(source, ticks) == ["belt/a.png@1600000000.000"]
    belt.rename(tmp_path / "away")
    belt.mkdir()
    assert looked(source, ticks) == []
    belt.rmdir()
    (tmp_path / "away").rename(belt)
    assert looked(source, ticks) == looked(source, ticks) == []


def test_after_accept_the_file_is_moved_and_never_over_another(tmp_path):
    ticks = Ticks()
    source = watched(tmp_path, ticks, after=AfterAccept.MOVE)
    for mtime in (1_600_000_000.0, 1_600_000_001.0):
        write_old(tmp_path / "a.png", mtime)
        source.open()
        looked(source, ticks)
        looked(source, ticks)
    names = sorted(path.name for path in (tmp_path / "accepted").iterdir())
    assert names == ["a-1600000001000000000.png", "a.png"]
    assert not (tmp_path / "a.png").exists()


def test_after_accept_the_file_is_deleted_but_not_one_that_came_meanwhile_under_its_name(tmp_path):
    ticks = Ticks()
    source = watched(tmp_path, ticks, after=AfterAccept.DELETE)
    write_old(tmp_path / "a.png")
    write_old(tmp_path / "b.png")
    source.open()
    ticks.at += LOOK_EVERY_S
    marks = []
    for _ in range(2):
        frame = source.read()
        assert frame is not None
        assert frame.mark is not None
        marks.append(frame.mark)
    assert (tmp_path / "a.png").exists(), "read is not accepted"
    write_old(tmp_path / "b.png", 1_600_000_009.0)
    source.accepted(marks)
    assert [path.name for path in tmp_path.iterdir()] == ["b.png"]
    assert looked(source, ticks) == []
    assert looked(source, ticks) == ["belt/b.png@1600000009.000"]


def test_a_file_that_was_passed_stays_where_it_is(tmp_path):
    source = watched(tmp_path, Ticks(), after=AfterAccept.DELETE)
    path = write_old(tmp_path / "a.png")
    source.open()
    source.accepted([], [Mark("a.png", (path.stat().st_size, path.stat().st_mtime_ns))])
    assert path.exists()


def test_an_unreadable_file_is_told_once_until_it_is_written_anew(tmp_path):
    ticks = Ticks()
    source = watched(tmp_path, ticks)
    (tmp_path / "a.png").write_bytes(b"half")
    source.open()
    ticks.at += LOOK_EVERY_S
    with pytest.raises(FrameUnreadable, match=r"a\.png"):
        source.read()
    assert looked(source, ticks) == []
    write_old(tmp_path / "a.png")
    looked(source, ticks)
    assert looked(source, ticks) == ["belt/a.png@1600000000.000"]


# --- the next start


def session(tmp_path: Path, ticks: Ticks, **given) -> FolderSource:
    return watched(tmp_path / "belt", ticks, cursor=Cursor(tmp_path / "cursors" / "belt.jsonl", "belt"), **given)


def test_the_next_start_goes_on_where_the_last_durable_accept_was(tmp_path):
    ticks = Ticks()
    for name in ("a", "b", "c"):
        write_old(tmp_path / "belt" / f"{name}.png")
    first = session(tmp_path, ticks)
    first.open()
    ticks.at += LOOK_EVERY_S
    a, b = first.read(), first.read()
    assert a is not None
    assert b is not None
    assert a.mark is not None
    first.accepted([a.mark])  # b was read, but not accepted; then the process dies
    second = session(tmp_path, ticks)
    second.open()
    assert looked(second, ticks) == ["belt/b.png@1600000000.000", "belt/c.png@1600000000.000"]
    third = session(tmp_path, ticks)
    third.open()
    assert looked(third, ticks) == []


def test_what_a_crash_kept_from_the_cursor_is_found_in_the_buffer(tmp_path):
    ticks = Ticks()
    for name in ("a", "b"):
        write_old(tmp_path / "belt" / f"{name}.png")
    session(tmp_path, ticks).open()  # dies before it could note anything
    recent = {"belt/a.png@1600000000.000": 1_700_000_000.0, "belt/b.png@1600000000.000": 1_500_000_000.0}
    second = session(tmp_path, ticks, recent=lambda: recent)
    second.open()
    assert looked(second, ticks) == ["belt/b.png@1600000000.000"], "b was changed after the buffer took one of its name"
    third = session(tmp_path, ticks)
    third.open()
    assert looked(third, ticks) == [], "and it is noted then"


def test_without_a_cursor_everything_is_read_whatever_the_buffer_has(tmp_path):
    """Who removes the cursor wants it all again."""
    ticks = Ticks()
    write_old(tmp_path / "belt" / "a.png")
    source = session(tmp_path, ticks, recent=lambda: {"belt/a.png@1600000000.000": 1_700_000_000.0})
    source.open()
    assert looked(source, ticks) == ["belt/a.png@1600000000.000"]


def test_a_crash_between_receipt_and_deletion_leaves_no_file_behind(tmp_path):
    ticks = Ticks()
    write_old(tmp_path / "belt" / "a.png")
    first = session(tmp_path, ticks, after=AfterAccept.DELETE)
    first.open()
    recent = {"belt/a.png@1600000000.000": 1_700_000_000.0}
    second = session(tmp_path, ticks, after=AfterAccept.DELETE, recent=lambda: recent)
    second.open()
    assert list((tmp_path / "belt").iterdir()) == []


def test_a_glob_goes_on_too_and_keeps_its_plain_ids(tmp_path):
    for name in ("a", "b"):
        write_old(tmp_path / "belt" / f"{name}.png")
    memory = Memory(folder=tmp_path / "cursors")
    (first,) = parse_sources(f"{tmp_path}/belt/*.png", memory=memory)
    first.open()
    frame = first.read()
    assert frame is not None
    assert frame.mark is not None
    assert isinstance(first, Resumable)
    first.accepted([frame.mark])
    (second,) = parse_sources(f"{tmp_path}/belt/*.png", memory=memory)
    assert read_all(second) == (["belt/b.png"], [])


def test_a_name_that_now_means_another_folder_starts_afresh(tmp_path):
    memory = Memory(folder=tmp_path / "cursors")
    for folder in ("one", "two"):
        write_old(tmp_path / folder / "a.png")
        (source,) = parse_sources(f"line={tmp_path}/{folder}/*", memory=memory)
        source.open()
        frame = source.read()
        assert frame is not None
        assert frame.mark is not None
        assert isinstance(source, Resumable)
        source.accepted([frame.mark])
        source.close()


def test_a_video_goes_on_behind_its_last_durable_frame(tmp_path):
    write_video(tmp_path / "clip.avi", 6)

    def clip(**given) -> VideoSource:
        return VideoSource("clip", tmp_path / "clip.avi", cursor=Cursor(tmp_path / "c" / "clip.jsonl", "clip"), **given)

    first = clip()
    first.open()
    marks = []
    for _ in range(4):
        frame = first.read()
        assert frame is not None
        assert frame.mark is not None
        marks.append(frame.mark)
    first.accepted([marks[0]])
    first.accepted([marks[2]])  # the second one is not durable, so the cursor stays before it
    first.accepted([], [marks[3]])
    second = clip()
    ids, _ = read_all(second)
    assert ids == [f"clip/frame-00000{number}" for number in range(2, 7)]
    third = clip(recent=lambda: {"clip/frame-000002": time.time() + 9, "clip/frame-000003": time.time() + 9})
    third.open()
    frame = third.read()
    assert frame is not None
    assert frame.image_id == "clip/frame-000004"
    assert np.round(frame.image.mean(), -1) == 120, "and it is that frame's picture"


def test_a_video_frame_that_the_model_failed_on_does_not_hold_the_cursor(tmp_path):
    write_video(tmp_path / "clip.avi", 3)
    cursor = Cursor(tmp_path / "clip.jsonl", "clip")
    source = VideoSource("clip", tmp_path / "clip.avi", cursor=cursor)
    source.open()
    marks = []
    for _ in range(3):
        frame = source.read()
        assert frame is not None
        assert frame.mark is not None
        marks.append(frame.mark)
    source.accepted([marks[0], marks[2]], [marks[1]])
    assert (cursor.get("clip.avi") or ())[-1] == 3


# --- the cursor itself


def test_a_cursor_survives_a_torn_tail_and_keeps_the_latest(tmp_path):
    path = tmp_path / "c.jsonl"
    cursor = Cursor(path, "x")
    cursor.open()
    cursor.note([Mark("a", (1, 2)), Mark("b", (3, 4))])
    cursor.note([Mark("a", (5, 6))])
    path.write_bytes(path.read_bytes() + b'["c", 7')
    again = Cursor(path, "x")
    again.open()
    assert dict(again.items()) == {"a": (5, 6), "b": (3, 4)}
    assert again.resumed
    assert len(path.read_text().splitlines()) == 3, "written anew without what is out of date"


@pytest.mark.parametrize("name", ['a "quoted" one', "back\\slash", "naïve 猫", "line\nbreak", "no utf-8 \udcff", ""])
def test_a_cursor_remembers_any_name_that_a_file_can_have_a_line_each(tmp_path, name):
    path = tmp_path / "c.jsonl"
    cursor = Cursor(path, "x")
    cursor.open()
    cursor.note([Mark(name, (1, -2)), Mark("bare", ())])
    assert [json.loads(line) for line in path.read_bytes().splitlines()[1:]] == [[name, 1, -2], ["bare"]]
    again = Cursor(path, "x")
    again.open()
    assert dict(again.items()) == {name: (1, -2), "bare": ()}


@pytest.mark.parametrize("text", ["", "no json\n", '{"of": "other"}\n["a", 1]\n', "[1]\n"])
def test_a_cursor_that_is_not_this_sources_is_not_believed(tmp_path, text):
    path = tmp_path / "c.jsonl"
    path.write_text(text)
    cursor = Cursor(path, "x")
    cursor.open()
    assert (dict(cursor.items()), cursor.resumed) == ({}, False)


def test_a_disk_that_refuses_the_cursor_costs_a_warning_and_not_the_source(tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    cursor = Cursor(tmp_path / "file" / "c.jsonl", "x")
    cursor.open()
    for number in range(3):
        cursor.note([Mark(f"{number}", (1,))])
    cursor.close()
    assert len(dict(cursor.items())) == 3
    assert capsys.readouterr().out.count("cursor_unwritable") == 1


def test_a_cursor_file_does_not_grow_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(cursors, "SPARE_LINES", 10)
    path = tmp_path / "c.jsonl"
    synced: list[int] = []
    cursor = Cursor(path, "x", sync=synced.append)
    cursor.open()
    for number in range(200):
        cursor.note([Mark("a", (number,))])
    assert len(path.read_text().splitlines()) < 15
    assert len(synced) < 30, "not a sync for every frame"
    again = Cursor(path, "x")
    again.open()
    assert again.get("a") == (199,)


def test_every_source_has_a_file_of_its_own_whatever_it_is_called(tmp_path):
    assert cursor_path(tmp_path, "../a/b").parent == tmp_path
    assert cursor_path(tmp_path, "a b").name == "a%20b.jsonl"


def test_a_buffer_that_is_not_there_tells_nothing(tmp_path):
    assert recent_ids(tmp_path / "none.db") == {}
    assert not (tmp_path / "none.db").exists()
