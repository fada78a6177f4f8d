"""The inference actor on a virtual clock: fakes for the model and the sources, lanes that run inline."""

import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from trio_util import AsyncValue

from actors import inference
from actors.backoff import backoff_s
from actors.eye import predict_of
from actors.gathering import GROUP_MAX
from actors.inference import ImageRequest, id_of, result_of
from actors.messages import Accept, Receipt, Vision
from actors.ports.detector import DetectorError, Sight
from actors.ports.frames import Frame, FrameUnreadable, SourceDown
from actors.ports.lane import run_inline
from actors.reply import Reply
from actors.watching import FAILURES_IN_A_ROW_MAX
from cloud.wire import Detection, WireError, check_payload

BLANK = np.zeros((4, 6, 3), np.uint8)
SCRATCH = Detection("scratch", 0.9, (1.0, 2.0, 3.0, 4.0))
WALL_TIME = 1_700_000_000.0


def wall() -> float:
    return WALL_TIME + trio.current_time()


@attrs.define
class FakeDetector:
    """Sees a scratch in everything; `fails` lists the calls (from 0) on which it breaks."""

    model_name: str = "fake"
    model_version: str = "f1"
    load_error: Exception | None = None
    fails: Sequence[int] = ()
    loads: int = 0
    calls: int = 0
    busy: bool = False

    def load(self) -> None:
        self.loads += 1
        if self.load_error is not None:
            raise self.load_error

    def detect(self, image):
        assert self.loads, "the model is loaded before the first frame"
        assert image.shape == BLANK.shape
        self.calls += 1
        if self.calls - 1 in self.fails:
            raise DetectorError("model fake failed on an image")
        return Sight((SCRATCH,), 2.5)


@attrs.define(eq=False)
class FakeSource:
    """Gives what `script` says: a frame for an int, None for the end, an error to raise."""

    name: str
    script: list[Any]
    live: bool = False
    period_s: float = 0.0
    open_errors: list[Any] = attrs.field(factory=list)
    events: list[tuple[str, float]] = attrs.field(factory=list)

    def open(self) -> None:
        self.events.append(("open", trio.current_time()))
        if self.open_errors and (error := self.open_errors.pop(0)):
            raise error

    def read(self):
        step = self.script.pop(0) if self.script else None
        self.events.append(("read", trio.current_time()))
        if isinstance(step, Exception):
            raise step
        return None if step is None else Frame(f"{self.name}/{step}", self.name, BLANK, wall())

    def close(self) -> None:
        self.events.append(("close", trio.current_time()))

    def at(self, event: str) -> list[float]:
        return [when for what, when in self.events if what == event]


class Rig:
    """The actor between two channels whose other ends the test holds."""

    def __init__(self, *sources, detector=None, seed=7, accepts_max=100, lane=run_inline) -> None:
        self.ask, self._requests = trio.open_memory_channel[ImageRequest](8)
        self._accepts, self.accepted = trio.open_memory_channel[Accept](accepts_max)
        self.sources, self.lane, self.seed = sources, lane, seed
        self.detector = detector or FakeDetector()
        self.stopping = trio.Event()
        self.vision = AsyncValue(Vision())

    async def run(self) -> None:
        await inference.run(
            self._requests,
            self._accepts,
            sources=self.sources,
            detector=self.detector,
            run_detect=self.lane,
            run_frames=lambda: run_inline,
            stopping=self.stopping,
            vision=self.vision,
            now=wall,
            rng=random.Random(self.seed),
        )

    def taken(self) -> list[str]:
        ids: list[str] = []
        while True:
            try:
                accept = self.accepted.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                return ids
            ids += [entry.image_id for entry in accept.entries]

    def stop(self) -> None:
        self.stopping.set()
        self.ask.close()

    async def process(self, image: Any, image_id: str | None = None) -> Any:
        reply = Reply[Any]()
        await self.ask.send(ImageRequest(image, reply, image_id))
        return await reply.wait()

    async def write(self, *, accepted: bool = True) -> None:
        """A buffer_writer that makes everything durable, one second after it came."""
        seq = 0
        async for accept in self.accepted:
            seq += 1
            if accept.reply is not None:
                await trio.sleep(1)
                accept.reply.put((Receipt("s", seq if accepted else None, durable=accepted, accepted=accepted),))


async def test_every_frame_of_a_finite_source_becomes_a_prediction_that_the_cloud_takes(autojump_clock, nursery):
    rig = Rig(FakeSource("belt", [1, 2, None]))
    nursery.start_soon(rig.run)
    await rig.vision.wait_value(lambda vision: vision.finished)
    first, second = await rig.accepted.receive(), await rig.accepted.receive()
    (entry,) = first.entries
    prediction = check_payload(entry.body)
    assert (entry.image_id, entry.timestamp, first.reply) == ("belt/1", prediction.timestamp, None)
    assert prediction.detections == (SCRATCH,)
    assert (prediction.model_name, prediction.model_version, prediction.inference_time_ms) == ("fake", "f1", 2.5)
    assert prediction.defect_detected
    assert prediction.confidence_scores == (0.9,)
    assert second.entries[0].image_id == "belt/2"
    assert (rig.vision.value.frames, rig.vision.value.inference_ms) == (2, 2.5)
    rig.stop()


async def test_after_the_last_file_the_actor_lives_on_for_requests_and_closes_only_when_they_end(
    autojump_clock, nursery
):
    rig = Rig(FakeSource("belt", [None]))
    nursery.start_soon(rig.run)
    await rig.vision.wait_value(lambda vision: vision.finished)
    with pytest.raises(trio.WouldBlock):
        rig.accepted.receive_nowait()
    nursery.start_soon(rig.write)
    result = await rig.process(BLANK, "asked")
    assert result == {
        "image_id": "asked",
        "detections": [{"class": "scratch", "confidence": 0.9, "bbox": [1.0, 2.0, 3.0, 4.0]}],
        "defect_detected": True,
        "inference_time_ms": 2.5,
        "logged_to_cloud": True,
    }
    assert trio.current_time() == 1.0, "it waits for the receipt"
    rig.stop()


async def test_an_answer_does_not_claim_what_a_policy_turned_away(autojump_clock, nursery):
    rig = Rig()
    nursery.start_soon(rig.run)
    async with trio.open_nursery() as writing:
        writing.start_soon(lambda: rig.write(accepted=False))
        assert not (await rig.process(BLANK))["logged_to_cloud"]
        rig.stop()


async def test_requests_do_not_queue_behind_each_others_receipts(autojump_clock, nursery):
    rig = Rig()
    nursery.start_soon(rig.run)
    waiting: list[Any] = []

    async def write():
        async for accept in rig.accepted:
            waiting.append(accept.reply)
            if len(waiting) == 3:
                for seq, reply in enumerate(waiting, 1):
                    reply.put((Receipt("s", seq, True),))

    nursery.start_soon(write)
    with trio.fail_after(5):
        async with trio.open_nursery() as asking:
            for _ in range(3):
                asking.start_soon(rig.process, BLANK)
    rig.stop()


async def test_without_sources_and_requests_the_model_is_never_loaded(autojump_clock):
    rig = Rig(detector=FakeDetector(load_error=DetectorError("MODEL_PATH gone")))
    rig.stop()
    await rig.run()
    assert rig.detector.loads == 0
    assert not rig.vision.value.finished
    with pytest.raises(trio.EndOfChannel):
        await rig.accepted.receive()


async def test_a_model_that_cannot_be_loaded_ends_the_actor_before_a_frame_is_read(autojump_clock):
    source = FakeSource("belt", [1])
    rig = Rig(source, detector=FakeDetector(load_error=DetectorError("MODEL_PATH gone")))
    with pytest.raises(DetectorError, match="MODEL_PATH gone"):
        await rig.run()
    assert source.events == []


async def test_who_asks_learns_why_the_model_cannot_be_loaded_and_may_ask_again(autojump_clock, nursery):
    rig = Rig(detector=FakeDetector(load_error=DetectorError("MODEL_PATH gone")))
    nursery.start_soon(rig.run)
    assert str(await rig.process(BLANK)) == "MODEL_PATH gone"
    rig.detector.load_error = None
    nursery.start_soon(rig.write)
    assert (await rig.process(BLANK))["logged_to_cloud"]
    assert (await rig.process(BLANK))["logged_to_cloud"]
    assert rig.detector.loads == 2, "once it has loaded, it stays"
    rig.stop()


async def test_unreadable_images_are_answered_with_their_name_and_the_model_stays_unloaded(
    autojump_clock, nursery, tmp_path
):
    (tmp_path / "text.jpg").write_text("no picture")
    rig = Rig()
    nursery.start_soon(rig.run)
    for image, message in (
        (tmp_path / "none.jpg", "No such file"),
        (str(tmp_path / "text.jpg"), "text.jpg: not an image"),
        (b"", "0 bytes: empty"),
        (np.zeros((2, 2, 3)), "must hold pixels as uint8"),
    ):
        refusal = await rig.process(image)
        assert isinstance(refusal, FrameUnreadable)
        assert message in str(refusal)
    assert rig.detector.loads == 0
    rig.stop()


@pytest.mark.parametrize(
    ("ident", "reason"),
    [
        ("x" * 257, "image_id: "),
        (5, "image_id: "),
        ("\udcff.jpg", "surrogates not allowed"),
        (object(), "object is un"),
    ],
    ids=["long", "number", "half a character", "object"],
)
async def test_an_image_id_that_the_cloud_would_refuse_is_refused_at_once(autojump_clock, nursery, ident, reason):
    """A name out of `os.listdir` may hold half a character: it costs its own image, not the device."""
    rig = Rig()
    nursery.start_soon(rig.run)
    nursery.start_soon(rig.write)
    refusal = await rig.process(BLANK, ident)
    assert isinstance(refusal, WireError)
    assert reason in str(refusal)
    assert not isinstance(await rig.process(BLANK, "good"), Exception)
    rig.stop()


async def test_an_unreadable_frame_is_counted_and_its_neighbours_are_seen(autojump_clock, nursery):
    rig = Rig(FakeSource("belt", [1, FrameUnreadable("belt/2.jpg", "empty"), 3, None]))
    nursery.start_soon(rig.run)
    await rig.vision.wait_value(lambda vision: vision.finished)
    assert rig.taken() == ["belt/1", "belt/3"]
    assert (rig.vision.value.frames, rig.vision.value.unreadable) == (2, 1)
    rig.stop()


async def test_a_bad_name_is_logged_once_however_often_it_comes(autojump_clock, nursery, capsys):
    bad = FrameUnreadable("belt/2.jpg", "empty")
    rig = Rig(FakeSource("belt", [bad, bad, bad, None]))
    nursery.start_soon(rig.run)
    await rig.vision.wait_value(lambda vision: vision.finished)
    assert rig.vision.value.unreadable == 3
    assert capsys.readouterr().out.count("frame_unreadable") == 1
    rig.stop()


async def test_a_camera_that_fails_twice_comes_back_at_exact_times_while_the_other_goes_on(autojump_clock, nursery):
    camera = FakeSource("cam", [1, 2, None], live=True, open_errors=[SourceDown("no answer"), SourceDown("no answer")])
    steady = FakeSource("steady", list(range(6)), period_s=1.0)
    rig = Rig(camera, steady, seed=11)
    rng = random.Random(11)
    pauses = [1.0 + backoff_s(attempt, multiplier=2.0, rng=rng, max_s=60.0) for attempt in range(2)]
    nursery.start_soon(rig.run)
    await trio.sleep(0.5)
    assert rig.vision.value.cameras_down == ("cam",)
    await rig.vision.wait_value(lambda vision: vision.finished)
    assert camera.at("open") == pytest.approx([0.0, pauses[0], sum(pauses)], abs=1e-9)
    assert steady.at("read") == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert rig.vision.value.cameras_down == ()
    assert sorted(rig.taken()) == ["cam/1", "cam/2", *(f"steady/{number}" for number in range(6))]
    rig.stop()


async def test_a_camera_lost_in_the_middle_is_closed_and_opened_and_its_backoff_starts_anew(autojump_clock, nursery):
    lost = SourceDown("gives no frames")
    camera = FakeSource("cam", [1, lost, 2, lost, 3, None], live=True)
    rig = Rig(camera, seed=3)
    rng = random.Random(3)
    pauses = [1.0 + backoff_s(0, multiplier=2.0, rng=rng, max_s=60.0) for _ in range(2)]
    nursery.start_soon(rig.run)
    await rig.vision.wait_value(lambda vision: vision.finished)
    assert rig.taken() == ["cam/1", "cam/2", "cam/3"]
    assert camera.at("open") == pytest.approx([0.0, pauses[0], sum(pauses)], abs=1e-9)
    assert [what for what, _ in camera.events].count("close") == 3
    rig.stop()


async def test_stopping_ends_the_wait_for_a_camera_at_once(autojump_clock):
    camera = FakeSource("cam", [], live=True, open_errors=[SourceDown("no answer")] * 100)
    rig = Rig(camera)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.run)
        await trio.sleep(30)
        rig.stop()
    assert trio.current_time() == 30.0
    assert not rig.vision.value.finished


async def test_the_frame_in_flight_is_delivered_when_stopping_and_then_the_channel_ends(autojump_clock):
    async def slow(function, *args, **kwargs):
        await trio.sleep(2)
        return function(*args, **kwargs)

    source = FakeSource("cam", list(range(1000)))
    rig = Rig(source, lane=slow)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.run)
        await trio.sleep(7)  # loaded at 2, frames done at 4 and 6, the third is in the model
        rig.stop()
    assert trio.current_time() == 8.0
    assert rig.taken() == ["cam/0", "cam/1", "cam/2"]
    assert len(source.at("read")) == 3
    assert len(source.at("close")) == 1
    with pytest.raises(trio.EndOfChannel):
        rig.accepted.receive_nowait()


async def test_a_full_channel_holds_the_source_back_instead_of_losing_frames(autojump_clock, nursery):
    count = 3 * GROUP_MAX
    source = FakeSource("belt", [*range(count), None])
    rig = Rig(source, accepts_max=2)
    nursery.start_soon(rig.run)
    await trio.sleep(5)
    assert len(source.at("read")) == 1 + GROUP_MAX, "one went alone, the group behind it waits to be sent"
    taken = [(await rig.accepted.receive()).entries[0].image_id for _ in range(count)]
    assert taken == [f"belt/{number}" for number in range(count)]
    rig.stop()


async def test_two_sources_never_meet_in_the_model(autojump_clock):
    inside = 0

    async def lane(function, *args, **kwargs):
        async with lock:
            nonlocal inside
            inside += 1
            assert inside == 1
            await trio.sleep(1)
            inside -= 1
            return function(*args, **kwargs)

    lock = trio.Lock()
    rig = Rig(FakeSource("a", [1, None]), FakeSource("b", [1, None]), lane=lane)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.run)
        await rig.vision.wait_value(lambda vision: vision.finished)
        assert trio.current_time() == 2.0, "one load, and the two frames that wait go through together"
        rig.stop()
    assert rig.detector.loads == 1


async def test_a_model_that_fails_on_one_image_loses_only_that_one(autojump_clock, nursery):
    rig = Rig(FakeSource("belt", [1, 2, 3, None]), detector=FakeDetector(fails=[1]))
    nursery.start_soon(rig.run)
    await rig.vision.wait_value(lambda vision: vision.finished)
    assert rig.taken() == ["belt/1", "belt/3"]
    assert rig.vision.value.unreadable == 1
    rig.stop()


async def test_a_model_that_fails_on_every_other_image_is_no_reason_to_end(autojump_clock, nursery):
    count = 4 * FAILURES_IN_A_ROW_MAX
    rig = Rig(FakeSource("belt", [*range(count), None]), detector=FakeDetector(fails=range(0, count, 2)))
    nursery.start_soon(rig.run)
    await rig.vision.wait_value(lambda vision: vision.finished)
    assert rig.taken() == [f"belt/{number}" for number in range(1, count, 2)]
    rig.stop()


async def test_a_model_that_fails_on_everything_ends_the_actor_loudly(autojump_clock):
    rig = Rig(FakeSource("belt", list(range(1000))), detector=FakeDetector(fails=range(1000)))
    with pytest.raises(ExceptionGroup) as caught:
        await rig.run()
    assert caught.group_contains(DetectorError)
    assert rig.detector.calls == FAILURES_IN_A_ROW_MAX


async def test_cancelled_in_the_middle_it_still_lets_go_of_the_camera(autojump_clock):
    camera = FakeSource("cam", list(range(1000)), live=True, period_s=1.0)
    rig = Rig(camera)
    with trio.move_on_after(3.5):
        await rig.run()
    assert camera.at("close") == [3.5]
    assert rig.taken() == ["cam/0", "cam/1", "cam/2", "cam/3"]
    with pytest.raises(trio.EndOfChannel):
        await rig.accepted.receive()


async def test_a_request_before_stopping_is_answered_although_the_sources_have_stopped(autojump_clock):
    rig = Rig(FakeSource("cam", list(range(1000)), live=True, period_s=1.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.run)
        nursery.start_soon(rig.write)
        await trio.sleep(2.5)
        rig.stopping.set()
        await wait_all_tasks_blocked()
        assert (await rig.process(BLANK))["logged_to_cloud"]
        rig.ask.close()


def test_no_detection_is_no_defect():
    frame = Frame("belt/1", "belt", BLANK, 5.0)
    prediction = predict_of(frame, Sight((), 1.0), "m", "v")
    assert (prediction.defect_detected, prediction.confidence_scores) == (False, ())
    assert result_of(prediction, [Receipt("s", None, durable=False, accepted=False)])["logged_to_cloud"] is False
    assert result_of(prediction, [Receipt("s", None, durable=False)])["logged_to_cloud"] is True, "memory delivers it"


@pytest.mark.parametrize(
    ("image", "given", "expected"),
    [
        (BLANK, "mine", "mine"),
        (BLANK, "", ""),
        (Path("/a/b/part.png"), None, "image/part.png"),
        ("part.png", None, "image/part.png"),
        (b"...", None, "image/12.500-000003"),
    ],
)
def test_an_image_gets_the_id_that_was_asked_for_or_one_that_tells_where_it_came_from(image, given, expected):
    assert id_of(ImageRequest(image, Reply(), given), 3, 12.5) == expected


def test_the_actor_can_be_imported_where_no_vision_library_is_installed():
    script = """
import sys
for name in ("numpy", "cv2", "torch", "ultralytics", "onnxruntime"):
    sys.modules[name] = None
import actors.inference, actors.ports.frames as frames, actors.ports.detector as detector
try:
    frames.decode_image(b"x")
except frames.LibraryMissing as exc:
    print(exc)
try:
    detector.UltralyticsDetector(detector.default_model_path()).load()
except detector.DetectorError as exc:
    print(exc)
"""
    root = Path(inference.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, check=False, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pip install 'holdfast[yolo]'") == 2
