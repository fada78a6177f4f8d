"""What durability adds to seeing: a folder of frames with the journal, the buffer and the cursor, and without."""

import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio
from trio_util import AsyncValue

from actors import inference
from actors.messages import Accept, Vision
from actors.pipeline import Ports, open_pipeline
from actors.ports.cursors import Cursor
from actors.ports.detector import Detector
from actors.ports.detectors import CallableDetector, Found, make_detector
from actors.ports.frames import FolderSource, Frame, Source
from actors.ports.lane import thread_lane
from actors.settings import DetectorKind, Settings
from bench import child, table
from bench.pictures import FRAME_SIZE, SMALL, WARM_UP, folder_of, images
from bench.table import Line

FRAMES = 1_500
ROUNDS = 5
COST_MAX = 0.02

# --- in a process of its own


def end_to_end(path: str, folder: str, frames: int, durable: bool, paced_s: float = 0.0) -> dict[str, float]:
    """A folder of frames to the last receipt: wall and CPU milliseconds a frame, with the disk or without.

    With `paced_s` a stand-in takes so long for a frame, without the processor, and says what a model might.
    """
    detector: Detector = make_detector(DetectorKind.ONNXRUNTIME, Path(path))
    if paced_s:
        detector = CallableDetector(partial(_see_slowly, paced_s), name="paced", version="1")
    detector.load()
    with tempfile.TemporaryDirectory(dir=table.OUT) as place:
        source = FolderSource("line", Path(folder), cursor=Cursor(Path(place) / "cursor.jsonl", "frames"))
        if durable:
            return trio.run(_durably, detector, source, Path(place), frames)
        return trio.run(_undurably, detector, Forgetful(source), frames)


def _see_slowly(paced_s: float, _image: object) -> Sequence[Found]:
    time.sleep(paced_s)
    return (("scratch", 0.9, (10.0, 10.0, 60.0, 40.0)), ("dent", 0.6, (100.0, 90.0, 130.0, 140.0)))


async def _durably(detector: Detector, source: FolderSource, place: Path, frames: int) -> dict[str, float]:
    settings = Settings(buffer_db_path=place / "buffer.db", cloud_logging_enabled=False)
    async with open_pipeline(settings, Ports(detector=detector, sources=(source,))) as pipeline:
        clock = _Clock(frames)  # the buffer is open, no frame is read yet
        vision = await pipeline.cells.vision.wait_value(lambda seen: seen.finished)
        assert vision.frames == frames
        clock.last_receipt()
    return clock.cost()  # with the close, which brings the last rows into SQLite


@attrs.frozen
class Forgetful:
    """The same folder as a source that asks for no receipts and keeps no cursor."""

    folder: FolderSource
    name: str = "line"
    live: bool = False
    period_s: float = 0.0

    def open(self) -> None:
        """As the folder's."""
        self.folder.open()

    def read(self) -> Frame | None:
        """As the folder's."""
        return self.folder.read()

    def close(self) -> None:
        """Nothing was noted."""


async def _undurably(detector: Detector, source: Source, frames: int) -> dict[str, float]:
    """The same actor, but its predictions are thrown away: no receipts, no journal, no buffer, no cursor."""
    accepts, accepted = trio.open_memory_channel[Accept](64)
    requests_in, requests = trio.open_memory_channel[inference.ImageRequest](1)
    vision = AsyncValue(Vision())

    async def take() -> None:
        async for _ in accepted:
            pass

    clock = _Clock(frames)
    async with trio.open_nursery() as nursery:
        knobs: dict[str, Any] = {"run_detect": thread_lane(), "run_frames": thread_lane, "vision": vision}
        knobs |= {"now": time.time, "rng": random.SystemRandom(), "stopping": trio.Event()}
        nursery.start_soon(take)
        nursery.start_soon(partial(inference.run, requests, accepts, sources=(source,), detector=detector, **knobs))
        await vision.wait_value(lambda seen: seen.finished)
        clock.last_receipt()
        requests_in.close()
    return clock.cost()


@attrs.define
class _Clock:
    """Wall time up to the last receipt, CPU time up to the end of it all, each a frame and in milliseconds."""

    frames: int
    _started: float = attrs.field(factory=time.perf_counter, init=False)
    _cpu: float = attrs.field(factory=time.process_time, init=False)
    _wall_s: float = attrs.field(default=0.0, init=False)

    def last_receipt(self) -> None:
        self._wall_s = time.perf_counter() - self._started

    def cost(self) -> dict[str, float]:
        cpu_s = time.process_time() - self._cpu
        return {"wall_ms": self._wall_s * 1000 / self.frames, "cpu_ms": cpu_s * 1000 / self.frames}


def cpu_of_a_look(path: str, width: int, height: int, seconds: float) -> float:
    """Milliseconds of CPU that ONNX Runtime takes for one frame, all of its steps together."""
    detector = make_detector(DetectorKind.ONNXRUNTIME, Path(path))
    detector.load()
    (image,) = images(width, height, 1)
    for _ in range(WARM_UP):
        detector.detect(image)
    count, started, end = 0, time.process_time(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        detector.detect(image)
        count += 1
    return (time.process_time() - started) * 1000 / count


# --- the table


def durability(models: dict[str, str], folder: Path) -> list[Line]:
    """What the journal, the fsyncs, the buffer and the cursor add to a frame, beside what the model takes.

    Judged by CPU time: it does not change with the neighbours of a shared machine as wall time does. The disk's own
    waiting is in the wall time alone; it runs beside the next frame. A model's own CPU varies by more than durability
    costs, so the cost is taken beside a stand-in that sleeps for as long as the built-in model works.
    """
    place = folder_of(folder / "frames", FRAMES, FRAME_SIZE[SMALL])
    ask = partial(child.call, "bench.durability:end_to_end", path=models[SMALL], folder=str(place), frames=FRAMES)
    looks = {
        model: child.call(
            "bench.durability:cpu_of_a_look",
            path=path,
            width=FRAME_SIZE[model][0],
            height=FRAME_SIZE[model][1],
            seconds=3.0,
        )
        for model, path in models.items()
    }
    lines, added_ms = [], 0.0
    for name, paced_s in ((SMALL, 0.0), ("a stand-in of its pace", looks[SMALL] / 1000)):
        on, off = [], []
        for number in range(ROUNDS):
            on.append(ask(durable=True, paced_s=paced_s))
            off.append(ask(durable=False, paced_s=paced_s))
            seen = f"{on[-1]['cpu_ms']:.3f} ms of CPU on, {off[-1]['cpu_ms']:.3f} ms off"
            table.note(f"  {name}, round {number + 1} of {ROUNDS}: {seen}")
        wall = [statistics.median(one["wall_ms"] for one in side) for side in (on, off)]
        cpu = [statistics.median(one["cpu_ms"] for one in side) for side in (on, off)]
        added_ms = statistics.median(one["cpu_ms"] - other["cpu_ms"] for one, other in zip(on, off, strict=True))
        lines.append(
            Line(
                f"folder to receipt, {name}",
                f"{wall[0]:.2f} ms a frame ({1000 / wall[0]:.0f}/s), {cpu[0]:.2f} ms of CPU, durable",
                f"{wall[1]:.2f} ms ({1000 / wall[1]:.0f}/s), {cpu[1]:.2f} ms of CPU, predictions thrown away",
                wall[0] / wall[1],
            )
        )
    for model, took in looks.items():
        share = added_ms / took
        lines.append(
            Line(
                f"durable logging of a frame, beside {model}",
                f"{added_ms:.3f} ms of CPU",
                f"{took:.2f} ms of CPU: the detector's look at it",
                share,
                f"< {COST_MAX:.0%}",
                share < COST_MAX,
            )
        )
    return lines
