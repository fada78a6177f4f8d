"""A device that sees a folder, to be killed: says `ready` when it runs, and `seen N` whenever its buffer has N.

python -m tests.chaos.folder_process FOLDER BUFFER
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog
import trio

from actors.pipeline import Pipeline, Ports, open_pipeline
from actors.ports.detectors import CallableDetector, Found
from actors.settings import Settings

SLOW_S = 0.004


def bright(image: Any) -> Iterator[Found]:
    """One box a frame, slowly enough to be killed in the middle."""
    time.sleep(SLOW_S)
    yield "bright", float(image.mean()) / 255, (0, 0, 4, 4)


async def main(folder: str, buffer: str) -> None:
    settings = Settings(sources=(f"belt={folder}",), buffer_db_path=Path(buffer), cloud_logging_enabled=False)
    detector = CallableDetector(bright, name="bright", version="1")
    async with open_pipeline(settings, Ports(detector=detector)) as pipeline:
        say("ready")
        await tell(pipeline)


async def tell(pipeline: Pipeline) -> None:
    last = -1
    while True:
        count = await pipeline.cells.books.wait_value(lambda books: books.last_seq > last)  # noqa: B023 - read at once
        last = count.last_seq
        say(f"seen {last}")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    trio.run(main, sys.argv[1], sys.argv[2])
