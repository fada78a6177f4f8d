"""Sources on real files and real videos; cameras only as far as they can fail without one."""

import os
import struct
import subprocess
import sys
import zlib
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from actors.ports import cameras, images
from actors.ports.frames import (
    SAMPLE_FOLDER,
    CameraSource,
    FolderSource,
    Frame,
    FrameUnreadable,
    LibraryMissing,
    SampleSource,
    Source,
    SourceDown,
    SourcesWrong,
    VideoSource,
    decode_image,
    image_id,
    parse_sources,
)

RED = np.full((8, 12, 3), (0, 0, 255), np.uint8)


def write_image(path: Path, image=RED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def write_video(path: Path, count: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    assert writer.isOpened()
    for number in range(count):
        writer.write(np.full((48, 64, 3), number * 40, np.uint8))
    writer.release()
    return path


def one(source: Source) -> Frame:
    frame = source.read()
    assert frame is not None
    return frame


def read_all(source: Source) -> tuple[list[str], list[FrameUnreadable]]:
    """The ids that a source gives, and the images that it could not read."""
    ids: list[str] = []
    bad: list[FrameUnreadable] = []
    source.open()
    while True:
        try:
            frame = source.read()
        except FrameUnreadable as exc:
            bad.append(exc)
            continue
        if frame is None:
            source.close()
            return ids, bad
        ids.append(frame.image_id)


# --- pixels


def test_a_path_its_bytes_and_its_array_give_the_same_pixels(tmp_path):
    path = write_image(tmp_path / "red.png")
    for given in (path, str(path), path.read_bytes(), RED):
        assert (decode_image(given) == RED).all()


@pytest.mark.parametrize("shape", [(8, 12), (8, 12, 1), (8, 12, 4)])
def test_grey_and_transparent_images_become_three_channels(shape):
    assert decode_image(np.full(shape, 77, np.uint8)).tolist() == np.full((8, 12, 3), 77).tolist()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((8, 12, 3)), "not float64 of shape (8, 12, 3)"),
        (np.zeros((0, 12, 3), np.uint8), "uint8 of shape (0, 12, 3)"),
        (np.zeros((8, 12, 2), np.uint8), "not of shape (8, 12, 2)"),
        (np.zeros(5, np.uint8), "not of shape (5,)"),
        (None, "not NoneType"),
        (b"", "0 bytes: empty"),
        (b"no picture", "10 bytes: not an image"),
    ],
)
def test_what_holds_no_pixels_is_refused_with_what_was_seen(given, message):
    with pytest.raises(FrameUnreadable) as caught:
        decode_image(given)
    assert message in str(caught.value)


def test_a_photo_cut_short_is_refused_rather_than_half_seen():
    whole = (SAMPLE_FOLDER / "surface-01.jpg").read_bytes()
    with pytest.raises(FrameUnreadable, match="cut short"):
        decode_image(whole[: len(whole) // 2])


def test_a_file_too_large_for_memory_is_refused(tmp_path, monkeypatch):
    path = write_image(tmp_path / "red.png")
    monkeypatch.setattr(images, "IMAGE_BYTES_MAX", 10)
    with pytest.raises(FrameUnreadable, match=r"red\.png: larger than 10 bytes"):
        decode_image(path)


@pytest.mark.parametrize(
    "before", ["", "from actors.ports.detector import _import_yolo; _import_yolo(None)"], ids=["alone", "ultralytics"]
)
def test_a_small_file_that_unpacks_to_gigabytes_is_refused_before_it_is_unpacked(tmp_path, before):
    """Else it would end the process on a device without them, at every start again. OpenCV reads its bound once."""
    side = 13_000
    packer = zlib.compressobj()
    rows = b"".join(packer.compress(bytes(1 + side // 8)) for _ in range(side)) + packer.flush()
    parts = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    png = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    path = tmp_path / "huge.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + png)
    program = f"""
{before}
from actors.ports.frames import FrameUnreadable, decode_image
try:
    print(decode_image({str(path)!r}).shape)
except FrameUnreadable as exc:
    print(exc.reason)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert told.stdout.strip() == "more than 160,000,000 pixels, or than OPENCV_IO_MAX_IMAGE_PIXELS where that is set"


def test_without_opencv_the_error_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    for attempt in (lambda: decode_image(b"x"), SampleSource().open, CameraSource("cam", 0).open):
        with pytest.raises(LibraryMissing, match=r"pip install 'holdfast\[yolo\]'"):
            attempt()


def test_an_image_id_is_valid_text_that_the_cloud_takes_whatever_the_file_is_called():
    assert image_id("belt", "a.jpg") == "belt/a.jpg"
    assert image_id("belt", os.fsdecode(b"\xff\xfe.jpg")) == r"belt/\xff\xfe.jpg"
    long = image_id("belt", "x" * 300 + "-17.jpg")
    assert len(long) == 256
    assert long.endswith("-17.jpg")


# --- files


def test_a_folder_is_read_once_in_order_and_a_bad_file_does_not_stop_it(tmp_path):
    for name in ("b.png", "a.jpg", "e.PNG"):
        write_image(tmp_path / name)
    (tmp_path / "c.jpg").write_bytes(b"")
    (tmp_path / "d.jpg").write_text("no picture")
    (tmp_path / "notes.txt").write_text("not even asked")
    (tmp_path / "folder.jpg").mkdir()
    source = FolderSource("belt", tmp_path)
    ids, bad = read_all(source)
    assert ids == ["belt/a.jpg", "belt/b.png", "belt/e.PNG"]
    assert [(Path(exc.path).name, exc.reason.split(",")[0]) for exc in bad] == [
        ("c.jpg", "empty"),
        ("d.jpg", "not an image that OpenCV can decode"),
    ]
    assert read_all(source) == ([], []), "opened again, it goes on where it stood"


def test_a_file_that_vanishes_is_unreadable_and_the_next_one_is_seen(tmp_path):
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name)
    source = FolderSource("belt", tmp_path)
    source.open()
    (tmp_path / "a.png").unlink()
    with pytest.raises(FrameUnreadable, match=r"a\.png: No such file"):
        source.read()
    assert one(source).image_id == "belt/b.png"


def test_the_same_folder_gives_the_same_ids_again(tmp_path):
    write_image(tmp_path / "a.png")
    assert read_all(FolderSource("belt", tmp_path)) == read_all(FolderSource("belt", tmp_path)) == (["belt/a.png"], [])


def test_a_frame_is_dated_by_the_clock_that_was_given(tmp_path):
    write_image(tmp_path / "a.png")
    source = FolderSource("belt", tmp_path, now=lambda: 12.5)
    source.open()
    frame = one(source)
    assert (frame.captured_at, frame.source, frame.image.shape) == (12.5, "belt", (8, 12, 3))


def test_a_missing_folder_is_down_not_gone_and_read_once_it_is_mounted(tmp_path):
    source = FolderSource("usb", tmp_path / "usb")
    with pytest.raises(SourceDown, match="usb does not exist; create or mount it"):
        source.open()
    write_image(tmp_path / "usb" / "a.png")
    assert read_all(source) == (["usb/a.png"], [])


def test_the_samples_loop_for_ever_and_no_session_repeats_an_id():
    ids = []
    for started_at in (100.0, 100.001):
        source = SampleSource(now=partial(float, started_at))
        source.open()
        ids += [source.read().image_id for _ in range(15)]
        source.close()
        source.open()
        ids.append(source.read().image_id)
    assert len(set(ids)) == 32
    assert ids[0] == "samples/100.000-000001-surface-01.jpg"
    assert ids[12] == "samples/100.000-000013-surface-01.jpg"
    assert source.live
    assert source.period_s == 0.2


# --- video and cameras


def test_a_video_is_read_to_its_last_frame_and_goes_on_where_it_was_closed(tmp_path):
    source = VideoSource("clip", write_video(tmp_path / "clip.avi", 5))
    source.open()
    first = [one(source) for _ in range(2)]
    source.close()
    ids, bad = read_all(source)
    assert [frame.image_id for frame in first] + ids == [f"clip/frame-00000{number}" for number in range(1, 6)]
    assert bad == []
    assert not source.live
    assert [round(frame.image.mean(), -1) for frame in first] == [0, 40]


def test_what_is_no_video_is_named_once_and_over(tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("no film")
    ids, bad = read_all(VideoSource("clip", path))
    assert ids == []
    assert [exc.path for exc in bad] == [str(path)]


def test_a_missing_video_is_down_with_its_path(tmp_path):
    with pytest.raises(SourceDown, match=r"none\.mp4 does not exist"):
        VideoSource("clip", tmp_path / "none.mp4").open()


@pytest.mark.parametrize("address", [63, "/dev/video63", "rtsp://user:secret@127.0.0.1:9/stream"])
def test_a_camera_that_does_not_answer_is_down_and_its_password_stays_secret(address):
    with pytest.raises(SourceDown, match="can't be opened; is it connected") as caught:
        CameraSource("cam", address).open()
    assert "secret" not in str(caught.value)


def test_a_camera_that_falls_silent_is_down_and_its_numbers_go_on_after_it_is_back(tmp_path):
    """A video file stands in for the camera: it opens, gives frames and falls silent."""
    path = write_video(tmp_path / "cam.avi", 2)
    ticks = iter(range(50, 100))
    source = CameraSource("cam", str(path), now=lambda: next(ticks))
    source.open()
    ids = [source.read().image_id for _ in range(2)]
    with pytest.raises(SourceDown, match=r"cam\.avi gives no frames"):
        source.read()
    source.close()
    with pytest.raises(SourceDown):
        source.read()
    source.open()
    ids.append(source.read().image_id)
    source.close()
    assert ids == [f"cam/50.000-00000{number}" for number in (1, 2, 3)]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("rtsp://me:pw@cam.local/1", "rtsp://cam.local/1"),
        ("rtsp://me:p@w@cam.local/1", "rtsp://cam.local/1"),
        (0, "0"),
        ("/dev/v@0", "/dev/v@0"),
    ],
)
def test_an_address_is_shown_without_its_password(address, expected):
    assert cameras.shown(address) == expected


# --- the setting


@pytest.mark.parametrize("text", ["", "  ", ",", "none"])
def test_no_source_is_a_choice(text):
    assert parse_sources(text) == ()


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("samples", SampleSource, "samples"),
        ("demo=samples", SampleSource, "demo"),
        ("0", CameraSource, "camera-0"),
        ("/dev/video2", CameraSource, "video2"),
        ("/dev/shm/belt", FolderSource, "belt"),
        ("rtsp://me:pw@cam.local:554/1?a=b", CameraSource, "cam.local"),
        ("door=rtsp://cam.local/1?a=b", CameraSource, "door"),
        ("/data/clip.MP4", VideoSource, "clip"),
        ("/data/part.jpg", FolderSource, "part"),
        ("/data/belt", FolderSource, "belt"),
        ("/data/belt/*.jpg", FolderSource, "belt"),
        ("line=/data/*/x.jpg", FolderSource, "line"),
    ],
)
def test_each_kind_of_source_is_known_by_its_looks(text, kind, name):
    (source,) = parse_sources(text)
    assert (type(source), source.name) == (kind, name)


def test_several_sources_keep_their_order_and_their_clock():
    names = [source.name for source in parse_sources("samples, 1 ,door=/data/door/", sample_period_s=0.1)]
    assert names == ["samples", "camera-1", "door"]
    (samples,) = parse_sources("samples", sample_period_s=0.1)
    assert samples.period_s == 0.1


def test_a_glob_takes_what_it_matches_and_names_it_from_the_fixed_part_on(tmp_path):
    for name in ("x/1.png", "y/1.png", "y/2.jpg", "y/z/3.png"):
        write_image(tmp_path / name)
    assert read_all(parse_sources(f"all={tmp_path}/*/1.png")[0])[0] == ["all/x/1.png", "all/y/1.png"]
    assert read_all(parse_sources(f"all={tmp_path}/**/*.png")[0])[0] == ["all/x/1.png", "all/y/1.png", "all/y/z/3.png"]


def test_a_single_image_is_read_although_its_name_looks_like_a_glob(tmp_path):
    write_image(tmp_path / "part[1].png")
    write_image(tmp_path / "part1.png")
    (source,) = parse_sources(str(tmp_path / "part[1].png"))
    assert read_all(source) == (["part[1]/part[1].png"], [])


def test_a_relative_folder_is_taken_from_where_the_device_was_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "belt" / "a.png")
    assert read_all(parse_sources("belt/*")[0]) == (["belt/a.png"], [])


def test_an_image_that_is_not_there_is_told_by_name(tmp_path):
    (source,) = parse_sources(str(tmp_path / "none.jpg"))
    with pytest.raises(SourceDown, match=r"none\.jpg does not exist; put it there"):
        source.open()
    write_image(tmp_path / "none.jpg")
    assert read_all(source) == (["none/none.jpg"], [])


def test_a_folder_without_images_ends_at_once(tmp_path):
    assert read_all(FolderSource("belt", tmp_path)) == ([], [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("camera", "'camera' is no source on this device; it takes 'samples', a folder"),
        ("/data/notes.txt", "'/data/notes.txt' is no source"),
        ("ftp://me:pw@host/x", "'ftp://host/x' is no stream's address; it takes SCHEME://HOST"),
        ("rtsp://", "'rtsp://' is no stream's address"),
        ("samples,samples", "2 sources are called 'samples'; name them apart"),
        ("a=0,b=1,a=2", "2 sources are called 'a'"),
    ],
)
def test_a_setting_that_cannot_be_understood_is_refused_with_the_remedy(text, message):
    with pytest.raises(SourcesWrong) as caught:
        parse_sources(text)
    assert message in str(caught.value)
    assert "SOURCES" in str(caught.value)
    assert "pw" not in str(caught.value)
