"""A device without eyes, to be broken: logs steadily, and prints every number that it has a durable receipt for.

    python -m chaos.logger NAME [--tasks N] [--per-second R]

The settings are those of the environment. Printed, a line each: `ready`; `<stream> <seq> <image>` for each durable
receipt; `not-durable <image>` for each other one; `drained` when nothing is pending, once it has been told by SIGUSR1
to log no more (without tasks at once). SIGTERM stops it as it stops the device.
"""

import argparse
import itertools
import math
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial

import structlog
import trio

from actors.loading import load_settings
from actors.pipeline import Pipeline, Ports, open_pipeline
from cloud.wire import Detection, Prediction

DEFECT_EVERY = 10
NOT_DURABLE = "not-durable"


def tell(line: str) -> None:
    """A line that whoever reads the pipe has at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def predict(image_id: str, *, defect: bool) -> Prediction:
    """What a model might say of an image."""
    boxes = (Detection("scratch", 0.9, (10.0, 20.0, 60.0, 44.0)),) if defect else ()
    return Prediction(
        image_id=image_id,
        timestamp=time.time(),
        model_name="none",
        model_version="1",
        inference_time_ms=0.0,
        detections=boxes,
        defect_detected=defect,
        confidence_scores=tuple(box.confidence for box in boxes),
    )


async def log_for_ever(pipeline: Pipeline, name: str, pause_s: float) -> None:
    """One source: the next prediction when the receipt of the last one is there, and `pause_s` later."""
    for number in itertools.count(1):
        prediction = predict(f"{name}-{number}", defect=number % DEFECT_EVERY == 0)
        receipt = await pipeline.log(prediction)
        if receipt.durable:
            tell(f"{receipt.stream_id} {receipt.seq} {prediction.image_id}")
        else:
            tell(f"{NOT_DURABLE} {prediction.image_id}")
        await trio.sleep(pause_s)


async def heed(signals: AsyncIterator[int], pipeline: Pipeline, logging: trio.CancelScope, stop: trio.Event) -> None:
    """SIGUSR1 ends the logging; the first SIGTERM stops, the next one stops waiting for the network."""
    async for number in signals:
        logging.cancel()
        if number == signal.SIGUSR1:
            continue
        if stop.is_set():
            pipeline.skip_network()
        stop.set()


async def live(name: str, tasks: int, pause_s: float) -> None:
    """One life of the device."""
    stop = trio.Event()
    settings = load_settings(os.environ)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGUSR1) as signals:
        async with trio.open_nursery() as watchers:
            async with open_pipeline(settings, Ports(sources=())) as pipeline:
                tell("ready")
                logging = trio.CancelScope()
                watchers.start_soon(heed, signals, pipeline, logging, stop)
                async with trio.open_nursery() as talkers:
                    talkers.start_soon(log_then_drain, pipeline, logging, name, tasks, pause_s)
                    await stop.wait()
                    talkers.cancel_scope.cancel()
            watchers.cancel_scope.cancel()


async def log_then_drain(pipeline: Pipeline, logging: trio.CancelScope, name: str, tasks: int, pause_s: float) -> None:
    """All sources until they are told to end, then one word when everything is home."""
    with logging:
        async with trio.open_nursery() as sources:
            for task in range(tasks):
                sources.start_soon(log_for_ever, pipeline, f"{name}.{task}", pause_s)
    await tell_when_drained(pipeline)


async def tell_when_drained(pipeline: Pipeline) -> None:
    """Say once that nothing is pending and nothing is kept in memory alone."""
    await pipeline.cells.books.wait_value(
        lambda books: bool(books.stream_id) and books.pending == 0 and books.in_memory == 0
    )
    tell("drained")


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m chaos.logger", description=__doc__)
    parser.add_argument("name", help="the first part of every image's name; another one for each life")
    parser.add_argument("--tasks", type=int, default=0, help="how many sources log at once")
    parser.add_argument("--per-second", type=float, default=math.inf, help="how fast each of them logs at most")
    given = parser.parse_args(arguments)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    trio.run(partial(live, given.name, given.tasks, 1 / given.per_second))


if __name__ == "__main__":
    main(sys.argv[1:])
