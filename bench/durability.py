"""What durability adds to seeing: one device on the same frames in turn, with its disk and without."""

import gc
import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from unittest import mock

import attrs
import trio
from trio_util import AsyncValue

from actors import buffer_writer
from actors.groups import gather
from actors.messages import Accept, Books, Page, PageRequest, Stream
from actors.pipeline import Ports, open_pipeline
from actors.ports.client import CloudClient
from actors.ports.cursors import Cursor
from actors.ports.detector import Detector, Sight, default_model_path
from actors.ports.detectors import make_detector
from actors.ports.disk import Disk
from actors.ports.folders import FolderSource
from actors.ports.images import Frame, Image
from actors.seqs import Stored
from actors.settings import DetectorKind, Settings
from bench import child, ours, table
from bench.pictures import FRAME_SIZE, SMALL, STOCK, WARM_UP, folder_of, images
from bench.table import Line
from cloud.wire import number_payload

FRAMES, FEW = 220, 20
"""What every opened device pays once falls out of the difference between a long run and a short one."""
ROUNDS = 28
"""Many short rounds rather than few long ones: the processor's own speed drifts within seconds."""
COST_MAX = 0.02
SURE = 0.95

# --- in a process of its own


def rounds(folder: str, count: int) -> list[dict[str, float]]:
    """So many rounds of the folder's frames: with the disk, without, without, with; each figure of a round by its name.

    All in milliseconds a frame: `on_rest` and `off_rest` are the CPU of everything but the model and the reading of
    the files, `on_look` and `off_look` that of the model, `on_wall` and `off_wall` the time that passed. A round's
    short runs say with those of all others what is paid once.
    """
    detector = Weighed(make_detector(DetectorKind.ONNXRUNTIME, default_model_path()))
    detector.inner.load()
    run(detector, Path(folder), FRAMES, durable=True)
    gc.collect()
    gc.freeze()  # what was made so far is no reason for the collector to look at it again and again
    many: dict[str, list[dict[str, float]]] = {"on": [], "off": []}
    few: dict[str, list[dict[str, float]]] = {"on": [], "off": []}
    for number in range(count):
        for side in ("on", "off", "off", "on"):
            many[side].append(run(detector, Path(folder), FRAMES, durable=side == "on"))
        for side in ("on", "off"):
            few[side].append(run(detector, Path(folder), FEW, durable=side == "on"))
        table.note(f"  round {number + 1} of {count}")
    once = {side: {name: statistics.median(part[name] for part in few[side]) for name in few[side][0]} for side in few}
    return [
        {
            f"{side}_{name}": (statistics.fmean(part[name] for part in parts[2 * number : 2 * number + 2]) - paid)
            / (FRAMES - FEW)
            for side, parts in many.items()
            for name, paid in once[side].items()
        }
        for number in range(count)
    ]


def run(detector: "Weighed", folder: Path, frames: int, *, durable: bool) -> dict[str, float]:
    """The folder's first frames through a device, from its opening until all rows are in SQLite and that is closed.

    Both sides are the device that `open_pipeline` makes, with its seven actors, real frames and the built-in model, and
    both deliver: batches of 32 to a cloud in the process that takes everything at once. With the disk every prediction
    is journalled and fsynced before it goes on, its receipt noted in the source's cursor, its row brought into SQLite
    and marked as sent. Without, `forget` is in the place of `buffer_writer`, and the source wants no receipts.
    """
    with tempfile.TemporaryDirectory(dir=table.OUT) as place:
        cursor = Cursor(Path(place) / "cursor.jsonl", "frames")
        source = WeighedFolder("line", folder, "*" if frames == FRAMES else _first(FEW), cursor=cursor)
        world = Ports(
            detector=detector,
            sources=(source if durable else Forgetful(source),),
            client=cast("CloudClient", ours.InstantCloud()),
        )
        gc.collect()
        with mock.patch.object(buffer_writer, "run", buffer_writer.run if durable else forget):
            cpu_s, wall_s = trio.run(_through, ours.settings(Path(place), delivery=True), world, frames)
    look_s, read_s = detector.take(), source.take()
    return {"rest": (cpu_s - look_s - read_s) * 1000, "look": look_s * 1000, "wall": wall_s * 1000}


def _first(count: int) -> str:
    """What the names of so many files match, a multiple of ten below a hundred, as `folder_of` gives them."""
    return f"0000[0-{count // 10 - 1}]?.jpg"


async def _through(settings: Settings, world: Ports, frames: int) -> tuple[float, float]:
    """CPU seconds of the process from the opened device to the closed one, and seconds to the last frame."""
    async with open_pipeline(settings, world) as pipeline:
        began, began_cpu = time.perf_counter(), time.process_time()
        vision = await pipeline.cells.vision.wait_value(lambda seen: seen.finished)
        wall_s = time.perf_counter() - began
    assert (vision.frames, pipeline.cells.traffic.value.sent) == (frames, frames)
    return time.process_time() - began_cpu, wall_s


@attrs.define(eq=False)
class Weighed:
    """A model that is ready, and the CPU seconds that its looks took in their thread."""

    inner: Detector
    _took_s: float = attrs.field(default=0.0, init=False)

    @property
    def model_name(self) -> str:
        """The model's."""
        return self.inner.model_name

    @property
    def model_version(self) -> str:
        """The model's."""
        return self.inner.model_version

    def load(self) -> None:
        """It was loaded before the clock began."""

    def detect(self, image: Image) -> Sight:
        """The model's; it has one thread, which is the one that calls."""
        before = time.thread_time()
        sight = self.inner.detect(image)
        self._took_s += time.thread_time() - before
        return sight

    def take(self) -> float:
        """The seconds since the last asking."""
        took_s, self._took_s = self._took_s, 0.0
        return took_s


@attrs.define(eq=False)
class WeighedFolder(FolderSource):
    """A folder, and the CPU seconds that reading its files took in their thread."""

    _took_s: float = attrs.field(default=0.0, init=False)

    def read(self) -> Frame | None:
        """The folder's."""
        before = time.thread_time()
        frame = super().read()
        self._took_s += time.thread_time() - before
        return frame

    def take(self) -> float:
        """The seconds since the last asking."""
        took_s, self._took_s = self._took_s, 0.0
        return took_s


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


async def forget(
    accepts: trio.MemoryReceiveChannel[Accept],
    control: trio.MemoryReceiveChannel[Any],
    stored: trio.MemorySendChannel[Stored],
    nudges: trio.MemorySendChannel[None],
    *,
    disk: Disk,
    books: AsyncValue[Books],
    **_knobs: object,
) -> None:
    """`buffer_writer.run` without durability: predictions get their numbers, go to the batcher, and are forgotten.

    No journal, no rows, no receipts, no outcomes, no account; the backlog is always empty.
    """
    books.value = Books(stream_id="forgotten", streams=(Stream("forgotten", "bench"),))

    async def serve_control() -> None:
        async for message in control:
            if isinstance(message, PageRequest):
                message.reply.put(Page((), message.after, exhausted=True))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_control)
        with accepts, stored, nudges:
            seq = 0
            async for first in accepts:
                _group, entries = await gather(first, accepts, 1, 0.0)  # as the other: not a turn for each of them
                for entry in entries:
                    seq += 1
                    record = Stored(seq, number_payload(seq, entry.body))
                    try:
                        stored.send_nowait(record)
                    except trio.WouldBlock:
                        await stored.send(record)
    control.close()
    await disk.close()


def cpu_of_a_look(path: str, width: int, height: int, seconds: float = 3.0) -> float:
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


def added_ms(one: Mapping[str, float]) -> float:
    """What the disk adds to a frame of this round, in milliseconds of CPU at the speed of the looks without it.

    Each side is held against its own looks, which are the same work on both: a processor that was slower for one side,
    since a neighbour shared it, was so for both parts of that side.
    """
    return (one["on_rest"] / one["on_look"] - one["off_rest"] / one["off_look"]) * one["off_look"]


def interval(values: Sequence[float], sure: float = SURE) -> tuple[float, float]:
    """Between which two of the values the median lies, as sure as that; without end where there are too few of them.

    The number of values below the median is binomial with 1/2, however they are spread.
    """
    ordered, count = sorted(values), len(values)
    outside, left_out = 0.0, 0
    while left_out < count and outside + 2 * math.comb(count, left_out) / 2**count <= 1 - sure:
        outside += 2 * math.comb(count, left_out) / 2**count
        left_out += 1
    if not left_out:
        return -math.inf, math.inf
    return ordered[left_out - 1], ordered[-left_out]


def durability(models: dict[str, str], folder: Path, count: int = ROUNDS) -> list[Line]:
    """What the journal, the fsyncs, the buffer, the marks and the cursor add to a frame, beside what the model takes.

    Judged by CPU time: it changes less with the neighbours of a shared machine than wall time does. The disk's own
    waiting is in the wall time alone; it runs beside the next frame. Met is what the whole interval is below.
    """
    place = folder_of(folder / "frames", FRAMES, FRAME_SIZE[SMALL])
    table.note(f"durable logging: {count} rounds")
    told = child.call("bench.durability:rounds", folder=str(place), count=count)
    middle = {name: statistics.median(one[name] for one in told) for name in told[0]}
    added = [added_ms(one) for one in told]
    lines = [
        Line(
            f"folder to the last frame, {SMALL}",
            f"{middle['on_wall']:.2f} ms a frame ({1000 / middle['on_wall']:.0f}/s), durable",
            f"{middle['off_wall']:.2f} ms ({1000 / middle['off_wall']:.0f}/s), predictions forgotten once delivered",
            middle["on_wall"] / middle["off_wall"],
        ),
        Line(
            "CPU of a frame without the model and its file's reading",
            f"{middle['on_rest']:.3f} ms, durable",
            f"{middle['off_rest']:.3f} ms; the model beside it {middle['on_look']:.2f} and {middle['off_look']:.2f} ms",
            middle["on_rest"] / middle["off_rest"],
        ),
    ]
    stock_ms = child.call(
        "bench.durability:cpu_of_a_look", path=models[STOCK], width=FRAME_SIZE[STOCK][0], height=FRAME_SIZE[STOCK][1]
    )
    for model, looks_ms in ((SMALL, [one["off_look"] for one in told]), (STOCK, [stock_ms] * count)):
        shares = [part / look for part, look in zip(added, looks_ms, strict=True)]
        (low, high), (lower, share, upper) = interval(shares), statistics.quantiles(shares, method="inclusive")
        lines.append(
            Line(
                f"durable logging of a frame, beside {model}",
                f"{statistics.median(added):.3f} ms of CPU: {share:.2%} of a look, at {SURE:.0%} {low:.2%} to "
                f"{high:.2%} ({count} rounds, half of them {lower:.2%} to {upper:.2%})",
                f"{statistics.median(looks_ms):.2f} ms of CPU: the model's look at it",
                share,
                f"< {COST_MAX:.0%}",
                high < COST_MAX,
            )
        )
    return lines
