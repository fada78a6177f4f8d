"""Sources under way, on a virtual clock: fresh frames, stuck cameras, garbage, batches, another model."""

import random
from functools import partial
from typing import Any, cast

import attrs
import pytest
import trio
from trio_util import AsyncValue

from actors import inference
from actors.eye import BATCH_MAX, Eye, check_classes, predict_of
from actors.gathering import Gathering
from actors.messages import Accept, Unread, Vision
from actors.ports.detector import DetectorError, Sight
from actors.ports.frames import Frame, FrameUnreadable, NoFrameYet, SourceDown
from actors.ports.lane import RunSync, leaving_lane, run_inline
from actors.watching import GARBAGE_IN_A_ROW_MAX, IDLE_S, UNREADABLE_SHOWN_MAX, listed
from cloud.wire import Detection
from tests.actors.test_inference import BLANK, SCRATCH, FakeDetector, FakeSource, Rig, wall


class World(Rig):
    """A rig whose actor takes more knobs."""

    def __init__(self, *sources, frames_lane=run_inline, **given) -> None:
        self.knobs = {name: given.pop(name) for name in list(given) if name not in ("detector", "seed", "lane")}
        accepts_max = self.knobs.pop("accepts_max", 100)
        super().__init__(*sources, accepts_max=accepts_max, **given)
        self.frames_lane = frames_lane

    async def run(self) -> None:
        await inference.run(
            self._requests,
            self._accepts,
            sources=self.sources,
            detector=self.detector,
            run_detect=self.lane,
            run_frames=lambda: self.frames_lane,
            stopping=self.stopping,
            vision=self.vision,
            now=wall,
            rng=random.Random(self.seed),
            **self.knobs,
        )


async def slow_model(function, *args, **kwargs):
    """A lane in which everything takes two seconds."""
    await trio.sleep(2)
    return function(*args, **kwargs)


# --- cameras


async def test_a_slow_model_sees_the_freshest_frame_and_the_skipped_ones_are_counted(autojump_clock, nursery):
    camera = FakeSource("cam", [*range(12), None], live=True, period_s=0.7)
    world = World(camera, lane=slow_model)
    nursery.start_soon(world.run)
    await world.vision.wait_value(lambda vision: vision.finished)
    # Loaded at 2. Read at 2, 2.7, …, 9.7; the model is free at 2, 4, 6, 8 and 10, and gets what came last before that.
    assert world.taken() == ["cam/0", "cam/2", "cam/5", "cam/8", "cam/11"]
    assert world.vision.value.skipped == 7
    assert world.vision.value.frames == 5
    world.stop()


async def test_a_slow_model_never_skips_a_file(autojump_clock, nursery):
    world = World(FakeSource("belt", [*range(12), None], period_s=0.5), lane=slow_model)
    nursery.start_soon(world.run)
    await world.vision.wait_value(lambda vision: vision.finished)
    assert world.taken() == [f"belt/{number}" for number in range(12)]
    assert world.vision.value.skipped == 0
    world.stop()


@attrs.define(eq=False)
class StuckCamera(FakeSource):
    """Can be left behind."""

    left: int = 0

    def abandon(self) -> None:
        self.left += 1


def stuck_on(*numbers: int):
    """A lane in which these reads (from 0) never come back."""
    count = iter(range(10_000))

    async def lane(function, *args, **kwargs):
        if function.__name__ == "read" and next(count) in numbers:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return function(*args, **kwargs)

    return lane


async def test_a_camera_that_is_stuck_is_left_behind_after_the_limit_and_opened_again(autojump_clock, nursery):
    camera = StuckCamera("cam", [1, 2, None], live=True)
    world = World(camera, frames_lane=stuck_on(1), stall_s=15.0, seed=5)
    pause = 1.0 + random.Random(5).uniform(0, 1)
    nursery.start_soon(world.run)
    await trio.sleep(15.5)
    assert world.vision.value.cameras_down == ("cam",)
    assert camera.left == 1
    await world.vision.wait_value(lambda vision: vision.finished)
    assert camera.at("open") == pytest.approx([0.0, 15.0 + pause], abs=1e-9)
    assert world.taken() == ["cam/1", "cam/2"]
    assert world.vision.value.cameras_down == ()
    world.stop()


async def test_a_stuck_camera_does_not_hold_up_the_end(autojump_clock):
    camera = StuckCamera("cam", [1], live=True)
    world = World(camera, frames_lane=stuck_on(0), stall_s=15.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.run)
        await trio.sleep(3)
        world.stop()
    assert trio.current_time() == 3.0
    assert camera.left == 1, "its thread may still be inside: nothing is released under it"


async def test_a_camera_that_is_being_opened_does_not_hold_up_the_end(autojump_clock):
    """An address that swallows every packet: OpenCV tries for half a minute, and a stop has ten seconds."""

    async def opens_for_ever(function, *args, **kwargs):
        if function.__name__ == "open":
            await trio.sleep_forever()
        return function(*args, **kwargs)

    camera = StuckCamera("cam", [1], live=True)
    world = World(camera, frames_lane=opens_for_ever, stall_s=15.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.run)
        await trio.sleep(3)
        world.stop()
    assert trio.current_time() == 3.0
    assert camera.left == 1


async def test_a_file_on_a_slow_disk_is_not_taken_for_a_stuck_camera(autojump_clock, nursery):
    async def slow(function, *args, **kwargs):
        await trio.sleep(60)
        return function(*args, **kwargs)

    world = World(FakeSource("belt", [1, None]), frames_lane=slow, stall_s=15.0)
    nursery.start_soon(world.run)
    await world.vision.wait_value(lambda vision: vision.finished)
    assert world.taken() == ["belt/1"]
    world.stop()


async def test_garbage_for_long_is_a_camera_that_is_down_and_a_little_is_not(autojump_clock, nursery):
    bad = FrameUnreadable("array", "must hold pixels")
    script = [*[bad] * (GARBAGE_IN_A_ROW_MAX - 1), 1, *[bad] * GARBAGE_IN_A_ROW_MAX, 2, None]
    camera = FakeSource("cam", script, live=True, period_s=0.1)
    world = World(camera)
    nursery.start_soon(world.run)
    await world.vision.wait_value(lambda vision: bool(vision.cameras_down))
    assert len(camera.at("open")) == 1
    assert world.vision.value.unreadable == 2 * GARBAGE_IN_A_ROW_MAX - 1
    await world.vision.wait_value(lambda vision: vision.finished)
    assert len(camera.at("open")) == 2
    assert world.taken() == ["cam/1", "cam/2"]
    world.stop()


async def test_the_frame_before_a_camera_dies_is_still_seen(autojump_clock, nursery):
    camera = FakeSource("cam", [1, SourceDown("unplugged"), 2, None], live=True)
    world = World(camera, lane=slow_model)
    nursery.start_soon(world.run)
    await world.vision.wait_value(lambda vision: vision.finished)
    assert world.taken() == ["cam/1", "cam/2"]
    world.stop()


async def test_a_hung_call_in_a_real_thread_is_left_and_the_next_one_goes_on():
    import threading

    release = threading.Event()
    lane = leaving_lane(hung_max=1)
    with trio.fail_after(10):
        with trio.move_on_after(0.05) as scope:
            await lane(release.wait)
        assert scope.cancelled_caught
        assert await lane(lambda: 7) == 7
        with trio.move_on_after(0.05):
            await lane(release.wait)
        with trio.move_on_after(0.05) as scope:
            await lane(lambda: 7)
        assert scope.cancelled_caught, "no more threads than allowed are left behind"
        release.set()
        assert await lane(lambda: 7) == 7


# --- unreadable images


def test_the_list_of_unreadable_images_has_each_name_once_and_never_grows_beyond_its_bound():
    shown: tuple[Unread, ...] = ()
    for number in range(50):
        shown = listed(shown, Unread(f"{number}.jpg", "empty"))
    shown = listed(shown, Unread("40.jpg", "cut short"))
    assert len(shown) == UNREADABLE_SHOWN_MAX
    assert shown[-1] == Unread("40.jpg", "cut short")
    assert [one.name for one in shown].count("40.jpg") == 1


async def test_the_list_says_why_each_image_could_not_be_read_or_judged(autojump_clock, nursery):
    source = FakeSource("belt", [FrameUnreadable("belt/a.jpg", "empty"), 2, None])
    world = World(source, detector=FakeDetector(fails=[0]))
    nursery.start_soon(world.run)
    await world.vision.wait_value(lambda vision: vision.finished)
    assert world.vision.value.unreadable_last == (
        Unread("belt/a.jpg", "empty"),
        Unread("belt/2", "model fake failed on an image"),
    )
    world.stop()


# --- folders


async def test_a_watched_source_with_nothing_new_is_asked_again_after_a_pause(autojump_clock, nursery):
    belt = FakeSource("belt", [NoFrameYet(), 1, NoFrameYet(), NoFrameYet(), 2, None])
    world = World(belt)
    nursery.start_soon(world.run)
    await world.vision.wait_value(lambda vision: vision.finished)
    assert belt.at("read") == [0.0, IDLE_S, IDLE_S, 2 * IDLE_S, 3 * IDLE_S, 3 * IDLE_S]
    assert world.taken() == ["belt/1", "belt/2"]
    world.stop()


# --- batches


@attrs.define
class BatchingDetector(FakeDetector):
    """Looks at several images at once, and remembers how many."""

    sizes: list[int] = attrs.field(factory=list)

    def detect_many(self, images):
        self.sizes.append(len(images))
        return [self.detect(image) for image in images]


async def test_frames_of_several_sources_that_wait_go_through_the_model_together(autojump_clock, nursery):
    detector = BatchingDetector()
    sources = [FakeSource(f"s{number}", [1, 2, None]) for number in range(BATCH_MAX + 2)]
    world = World(*sources, detector=detector, lane=slow_model)
    nursery.start_soon(world.run)
    await world.vision.wait_value(lambda vision: vision.finished)
    assert sorted(world.taken()) == sorted(f"s{number}/{frame}" for number in range(BATCH_MAX + 2) for frame in (1, 2))
    assert max(detector.sizes) == BATCH_MAX
    assert trio.current_time() == 8.0, "loaded at 2; 8, 8 and 4 frames, two seconds each"
    world.stop()


async def test_one_bad_image_in_a_batch_costs_only_itself(autojump_clock, nursery):
    detector = BatchingDetector(fails=[1, 4])  # in the batch, and when looked at alone
    sources = [FakeSource(f"s{number}", [1, None]) for number in range(3)]
    world = World(*sources, detector=detector, lane=slow_model)
    nursery.start_soon(world.run)
    await world.vision.wait_value(lambda vision: vision.finished)
    assert len(world.taken()) == 2
    assert world.vision.value.unreadable == 1
    world.stop()


async def test_who_is_cancelled_at_the_model_leaves_the_others_their_turn(autojump_clock, nursery):
    """A camera that is stopped while it looks for all must not take the others' frames with it."""
    accepts, accepted = trio.open_memory_channel[Accept](9)
    entered = trio.Event()

    async def lane(function: Any, *args: Any, **kwargs: Any) -> Any:
        entered.set()
        await trio.sleep(2)
        return function(*args, **kwargs)

    eye = Eye(FakeDetector(loads=1), cast("RunSync", lane), Gathering(accepts), AsyncValue(Vision()), None)
    scope = trio.CancelScope()

    async def first():
        with scope:
            await eye.see(Frame("a/1", "a", BLANK, 1.0), None)

    nursery.start_soon(first)
    await entered.wait()
    nursery.start_soon(eye.see, Frame("b/1", "b", BLANK, 1.0), None)
    await trio.sleep(1)
    scope.cancel()
    with trio.fail_after(10):
        assert (await accepted.receive()).entries[0].image_id == "b/1"


# --- which class is a defect


@pytest.mark.parametrize(("classes", "expected"), [(None, True), ({"scratch"}, True), ({"dent"}, False)])
def test_only_the_classes_of_defects_make_a_defect_and_all_detections_are_told(classes, expected):
    prediction = predict_of(
        Frame("a/1", "a", BLANK, 1.0), Sight((SCRATCH,), 1.0), "m", "v", classes and frozenset(classes)
    )
    assert prediction.defect_detected is expected
    assert prediction.detections == (SCRATCH,)


def test_a_class_that_the_model_cannot_see_is_refused_with_those_it_can():
    with pytest.raises(DetectorError, match="DEFECT_CLASSES: rust: no such class in model m; it has scratch, dent"):
        check_classes(frozenset({"rust", "dent"}), ["scratch", "dent"], "m")
    check_classes(frozenset({"rust"}), [], "own")


# --- another model


def make_second(**given):
    return FakeDetector(model_name="second", model_version="f2", **given)


async def test_another_model_takes_over_between_two_frames_and_none_is_lost(autojump_clock, nursery):
    exchanges = AsyncValue(0)
    source = FakeSource("belt", [*range(10), None], period_s=1.0)
    world = World(source, exchanges=exchanges, make_detector=make_second)
    nursery.start_soon(world.run)
    await trio.sleep(4.5)
    exchanges.value += 1
    await world.vision.wait_value(lambda vision: vision.finished)
    versions = []
    while True:
        try:
            versions.append(world.accepted.receive_nowait().entries[0].body)
        except trio.WouldBlock:
            break
    told = [b'"f2"' in body for body in versions]
    assert told == [False] * 5 + [True] * 5
    assert world.vision.value.model_version == "f2"
    assert world.detector.loads == 1
    world.stop()


async def test_frames_go_on_with_the_old_model_while_the_new_one_loads(autojump_clock, nursery):
    exchanges = AsyncValue(0)

    async def slow_load(function, *args, **kwargs):
        if getattr(function, "__name__", "") == "load":
            await trio.sleep(5)
        await trio.lowlevel.checkpoint()
        return function(*args, **kwargs)

    source = FakeSource("belt", [*range(10), None], period_s=1.0)
    world = World(source, exchanges=exchanges, make_detector=make_second, frames_lane=slow_load)
    nursery.start_soon(world.run)
    await trio.sleep(0.5)
    exchanges.value += 1
    await world.vision.wait_value(lambda vision: vision.finished)
    assert source.at("read") == [float(number) for number in range(11)]
    assert world.detector.calls == 6, "until 5.5"
    world.stop()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (partial(make_second, load_error=DetectorError("MODEL_PATH is cut short")), "MODEL_PATH is cut short"),
        (None, "the detector was given in code"),
    ],
)
async def test_a_model_that_cannot_take_over_is_told_and_the_old_one_goes_on(autojump_clock, nursery, make, why):
    exchanges = AsyncValue(0)
    world = World(FakeSource("belt", [1, 2, None], period_s=1.0), exchanges=exchanges, make_detector=make)
    nursery.start_soon(world.run)
    await trio.sleep(0.5)
    exchanges.value += 1
    await world.vision.wait_value(lambda vision: vision.finished)
    assert why in world.vision.value.model_trouble
    assert world.detector.calls == 2
    assert world.vision.value.model_version == "f1"
    world.stop()


# --- drawings


async def test_defective_frames_are_drawn_one_at_a_time_and_never_hold_up_the_model(autojump_clock, nursery):
    drawings: list[tuple[str, tuple[Detection, ...]]] = []

    async def slow(function, *args, **kwargs):
        if function == draw:
            await trio.sleep(2.5)
        await trio.lowlevel.checkpoint()
        return function(*args, **kwargs)

    def draw(frame, detections):
        drawings.append((frame.image_id, detections))

    source = FakeSource("belt", [*range(6), None], period_s=1.0)
    world = World(source, draw=draw, frames_lane=slow)
    nursery.start_soon(world.run)
    await world.vision.wait_value(lambda vision: vision.finished)
    assert trio.current_time() == 6.0
    assert drawings == [("belt/0", (SCRATCH,)), ("belt/3", (SCRATCH,))]
    world.stop()
