"""Drawn frames: the boxes are where they belong, and the folder keeps its bounds."""

import cv2
import numpy as np

from actors.ports.annotate import Annotator, drawn
from actors.ports.frames import Frame
from cloud.wire import Detection

PIT = Detection("pit", 0.9, (20.0, 30.0, 60.0, 70.0))
IMAGE = np.full((100, 120, 3), 128, np.uint8)


def frame(number: int, ident: str = "belt/a b.jpg") -> Frame:
    return Frame(ident, "belt", IMAGE, 1_700_000_000.0 + number)


def test_a_box_is_drawn_where_the_detection_is_and_the_frame_itself_stays_clean():
    image = drawn(frame(1).image, [PIT])
    assert (IMAGE == 128).all()
    assert (image[30:70, 20] != 128).any(axis=-1).all()
    assert (image[45:55, 30:50] == 128).all()


def test_only_the_latest_frames_are_kept(tmp_path):
    annotator = Annotator(tmp_path / "drawn", frames_max=3)
    for number in range(6):
        annotator.draw(frame(number), [PIT])
    names = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert names == [f"boxes-{1_700_000_000 + number:013d}.000-belt_a_b.jpg.jpg" for number in (3, 4, 5)]
    image = cv2.imread(str(tmp_path / "drawn" / names[0]))
    assert image is not None
    assert image.shape == (100, 120, 3)


def test_the_folder_never_grows_beyond_its_bytes_and_others_files_stay(tmp_path):
    (tmp_path / "mine.jpg").write_bytes(b"x" * 9_000)
    annotator = Annotator(tmp_path, bytes_max=5_000)
    for number in range(20):
        annotator.draw(frame(number), [PIT])
        ours = sum(path.stat().st_size for path in tmp_path.glob("boxes-*"))
        assert 0 < ours <= 5_000
    assert (tmp_path / "mine.jpg").exists()


def test_what_a_camera_saw_is_nobody_elses_to_look_at(tmp_path):
    folder = tmp_path / "state" / "drawn"
    Annotator(folder).draw(frame(1), [PIT])
    (picture,) = folder.iterdir()
    assert [path.stat().st_mode & 0o777 for path in (folder.parent, folder, picture)] == [0o700, 0o700, 0o600]


def test_a_folder_that_refuses_is_told_once_and_stops_nothing(tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    annotator = Annotator(tmp_path / "file")
    for number in range(3):
        annotator.draw(frame(number), [PIT])
    assert capsys.readouterr().out.count("annotate_dir_unwritable") == 1
