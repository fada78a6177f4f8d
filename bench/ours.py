"""Our own device under the benchmarks: the real pipeline, with the parts that a figure is not about left out."""

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import trio

from actors.pipeline import Pipeline, open_pipeline
from actors.ports.client import CloudAnswer
from actors.ports.opening import StoreOptions, new_stream_id
from actors.settings import Settings
from bench.load import groups
from cloud.wire import Answer, Prediction, encode_answer

CAPACITY_MB = 4_000


class InstantCloud:
    """A cloud inside the process that takes everything at once: for figures that are about the disk."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    async def post(self, body: bytes) -> CloudAnswer:
        """All accepted."""
        await trio.lowlevel.checkpoint()
        answer = encode_answer(Answer(accepted=body.count(b'{"seq":')))
        return CloudAnswer(200, {"holdfast-wire": "1", "content-type": "application/json"}, answer)

    async def probe(self, *, timeout_s: float) -> CloudAnswer:  # noqa: ARG002 - the client's own signature
        """Alive."""
        await trio.lowlevel.checkpoint()
        return CloudAnswer(200, {"holdfast-wire": "1"}, b"")


def settings(folder: Path, *, delivery: bool = False, **more: object) -> Settings:
    """A device with no camera, its buffer in `folder`."""
    known = {"buffer_max_size_mb": CAPACITY_MB, "sources": ("none",), "edge_device_id": "bench"}
    return Settings(buffer_db_path=folder / "buffer.db", cloud_logging_enabled=delivery, **(known | more))  # type: ignore[arg-type]


def store_options(
    folder: Path,
    *,
    now: Callable[[], float] = time.time,
    capacity_mb: int = CAPACITY_MB,
    sync: Callable[[int], None] = os.fdatasync,
) -> StoreOptions:
    """The disk of a device with its default settings, but for the capacity."""
    return StoreOptions(
        db_path=folder / "buffer.db",
        capacity_bytes=capacity_mb * 2**20,
        cleanup_days=7.0,
        journal=True,
        now=now,
        new_id=new_stream_id,
        sync=sync,
    )


def latencies(folder: Path, load: Sequence[Prediction]) -> list[float]:
    """Seconds from log() to its receipt, one prediction at a time."""
    seen: list[float] = []

    async def one_by_one(pipeline: Pipeline) -> None:
        for one in load:
            began = time.perf_counter()
            await pipeline.log(one)
            seen.append(time.perf_counter() - began)

    _run(folder, one_by_one)
    return seen


def rate_of_tasks(folder: Path, load: Sequence[Prediction], tasks: int) -> float:
    """Predictions a second when so many tasks call log() at once."""

    async def all_at_once(pipeline: Pipeline) -> None:
        async def client(share: Sequence[Prediction]) -> None:
            for one in share:
                await pipeline.log(one)

        async with trio.open_nursery() as nursery:
            for number in range(tasks):
                nursery.start_soon(client, load[number::tasks])

    return len(load) / _run(folder, all_at_once)[0]


def rate_of_calls(folder: Path, load: Sequence[Prediction], size: int, *, callers: int = 1) -> float:
    """Predictions a second in calls of log_many(); until the last one is in SQLite, the files closed."""

    async def call_after_call(pipeline: Pipeline) -> None:
        left = iter(groups(load, size))

        async def caller() -> None:
            for group in left:
                await pipeline.log_many(group)

        async with trio.open_nursery() as nursery:
            for _ in range(callers):
                nursery.start_soon(caller)

    return len(load) / _run(folder, call_after_call)[1]


def _run(folder: Path, work: Callable[[Pipeline], Awaitable[None]]) -> tuple[float, float]:
    """Seconds that `work` took, and seconds until the pipeline behind it was closed, everything in SQLite."""
    took = []

    async def device() -> float:
        async with open_pipeline(settings(folder)) as pipeline:
            await trio.sleep(0.05)
            began = time.perf_counter()
            await work(pipeline)
            took.append(time.perf_counter() - began)
        return time.perf_counter() - began

    folder.mkdir(parents=True)
    until_closed = trio.run(device)
    return took[0], until_closed
