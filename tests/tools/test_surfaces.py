"""The generator is a pure function of its seed, its boxes are sound, and the shipped frames are what they should be."""

from collections import Counter
from itertools import pairwise

import cv2
import numpy as np
import pytest

from tools.dataset import CLEAN, SIZE_PX, TEST, TRAIN, VAL, label_line
from tools.frames import CONTENTS, FRAMES_DIR, JPEG_BYTES_MAX, SEED_FIRST
from tools.surfaces import CLASSES, THIN_SIDE_MIN_PX, Box, add_defect, sample, widened

SEEDS = range(7_000_000, 7_000_040)


def test_same_seed_same_pixels_and_boxes():
    image, boxes = sample(4711)
    again, boxes_again = sample(4711)
    assert np.array_equal(image, again)
    assert boxes == boxes_again
    assert not np.array_equal(image, sample(4712)[0])


def test_boxes_lie_inside_the_frame_and_none_is_too_thin_to_hit():
    found: Counter[str] = Counter()
    for seed in SEEDS:
        image, boxes = sample(seed, 128)
        assert image.shape == (128, 128, 3)
        assert image.dtype == np.uint8
        for box in boxes:
            assert 0 <= box.left < box.right <= 128
            assert 0 <= box.top < box.bottom <= 128
            if CLASSES[box.class_id] in {"scratch", "crack"}:
                assert min(box.width, box.height) >= THIN_SIDE_MIN_PX
        found.update(CLASSES[box.class_id] for box in boxes)
        found["clean"] += not boxes
    assert set(found) == {*CLASSES, "clean"}
    assert all(found.values())


@pytest.mark.parametrize("class_id", range(len(CLASSES)))
def test_the_box_holds_what_the_defect_changed(class_id):
    boxes: list[Box] = []
    flat = np.full((SIZE_PX, SIZE_PX), 128, np.float32)
    change = np.abs(add_defect(np.random.default_rng(99), flat, 0.0, class_id, boxes) - flat)
    (box,) = boxes
    inside = change[box.top : box.bottom, box.left : box.right].copy()
    change[box.top : box.bottom, box.left : box.right] = 0
    assert inside.max() > 20
    assert inside.max() > change.max()
    assert inside.sum() > 0.8 * (inside.sum() + change.sum())


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(50, 52, (45, 57)), (0, 3, (0, 12)), (97, 100, (88, 100)), (20, 60, (20, 60))],
)
def test_a_thin_span_is_widened_about_its_middle_and_kept_in_the_frame(low, high, wanted):
    assert widened(low, high, 12, 100) == wanted


def test_no_seed_is_shared_between_training_measuring_and_samples():
    runs = [split.seeds(split.seed_room) for split in (TRAIN, VAL, TEST, CLEAN)]
    runs.append(range(SEED_FIRST, SEED_FIRST + len(CONTENTS)))
    runs.sort(key=lambda seeds: seeds.start)
    assert all(before.stop <= after.start for before, after in pairwise(runs))
    with pytest.raises(ValueError, match="room"):
        TEST.seeds(TEST.seed_room + 1)


def test_a_label_names_class_centre_and_size_as_parts_of_the_frame():
    assert label_line(Box(3, 64, 0, 192, 64), SIZE_PX) == "3 0.500000 0.125000 0.500000 0.250000\n"


def test_the_shipped_frames_are_all_there_and_decode():
    paths = sorted(FRAMES_DIR.glob("*.jpg"))
    assert [path.name for path in paths] == [f"surface-{index:02d}.jpg" for index in range(1, len(CONTENTS) + 1)]
    for path in paths:
        assert path.stat().st_size <= JPEG_BYTES_MAX
        assert np.asarray(cv2.imread(str(path))).shape == (SIZE_PX, SIZE_PX, 3)
