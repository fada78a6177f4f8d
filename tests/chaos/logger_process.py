"""A device without eyes, to be killed: logs as fast as receipts come, and prints each number once it has its receipt.

    python -m tests.chaos.logger_process ENDPOINT BUFFER NAME [--tasks N] [--grace-s S] [--sabotage]

Without tasks it logs nothing, and says `drained` when nothing is pending any more.
"""

import argparse
import itertools
import signal
import sys
import time
from pathlib import Path

import structlog
import trio

from actors.commands.run import heed
from actors.pipeline import Pipeline, Ports, open_pipeline
from actors.ports.journal import Journal
from actors.settings import Settings
from cloud.wire import Prediction

DEVICE = "logger"


def settings_of(given: argparse.Namespace) -> Settings:
    """Small times, so that outages of a tenth of a second matter."""
    return Settings(
        cloud_logging_endpoint=given.endpoint,
        edge_device_id=DEVICE,
        buffer_db_path=given.buffer,
        batch_timeout_seconds=0.1,
        timeout_seconds=1.0 if given.grace_s is None else 60.0,
        max_retries=1,
        connectivity_interval_seconds=0.5,
        connectivity_timeout_seconds=0.5,
        shutdown_grace_seconds=given.grace_s or 10.0,
    )


async def log_for_ever(pipeline: Pipeline, name: str) -> None:
    for number in itertools.count(1):
        prediction = Prediction(
            image_id=f"{name}-{number}",
            timestamp=time.time(),
            model_name="none",
            model_version="1",
            inference_time_ms=0.0,
            detections=(),
            defect_detected=False,
            confidence_scores=(),
        )
        receipt = await pipeline.log(prediction)
        if receipt.durable:
            tell(f"{receipt.stream_id} {receipt.seq} {prediction.image_id}")


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def tell_when_drained(pipeline: Pipeline) -> None:
    await pipeline.cells.books.wait_value(lambda books: bool(books.stream_id) and books.pending == 0)
    tell("drained")


async def main(given: argparse.Namespace) -> None:
    stop = trio.Event()
    pipelines: list[Pipeline] = []
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heed, signals, stop, pipelines)
            async with open_pipeline(settings_of(given), Ports(sources=())) as pipeline:
                pipelines.append(pipeline)
                async with trio.open_nursery() as tasks:
                    for task in range(given.tasks):
                        tasks.start_soon(log_for_ever, pipeline, f"{given.name}-{task}")
                    if not given.tasks:
                        tasks.start_soon(tell_when_drained, pipeline)
                    await stop.wait()
                    tasks.cancel_scope.cancel()
            nursery.cancel_scope.cancel()


def write_nothing(journal: Journal, first_seq: int, payloads: list[bytes]) -> None:
    """What `--sabotage` makes of the journal's commit."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("endpoint")
    parser.add_argument("buffer", type=Path)
    parser.add_argument("name")
    parser.add_argument("--tasks", type=int, default=0)
    parser.add_argument("--grace-s", type=float)
    parser.add_argument("--sabotage", action="store_true")
    arguments = parser.parse_args()
    if arguments.sabotage:
        Journal.append = write_nothing  # type: ignore[method-assign, assignment]
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    trio.run(main, arguments)
