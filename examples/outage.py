"""Network failure and recovery: a hundred predictions while there is no cloud, then it comes, then all are there.

python examples/outage.py
"""

import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

from actors import Pipeline, Prediction, Settings, open_pipeline

COUNT = 100
PATIENCE_S = 60.0


def free_port() -> int:
    """A port on which nobody listens now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def prediction(number: int) -> Prediction:
    """What your model would say."""
    return Prediction(
        image_id=f"frame_{number:03d}",
        timestamp=time.time(),
        model_name="mine",
        model_version="1",
        inference_time_ms=12.5,
        detections=(),
        defect_detected=False,
        confidence_scores=(),
    )


async def until(pipeline: Pipeline, word: str, *, pending: int) -> None:
    """Wait until so many are pending."""
    with trio.fail_after(PATIENCE_S):
        await pipeline.cells.books.wait_value(lambda books: books.pending == pending)
    now = pipeline.status()
    print(f"{word}: link {now['link']['state']}, {now['pending']} pending, {now['sent']} sent", flush=True)


async def main(folder: Path) -> None:
    """The outage first, the cloud later."""
    port = free_port()
    settings = Settings(
        edge_device_id="line-3",
        cloud_logging_endpoint=f"http://127.0.0.1:{port}/log",
        buffer_db_path=folder / "buffer.db",
        sources=("none",),
    )
    async with open_pipeline(settings) as pipeline:
        for number in range(COUNT):
            receipt = await pipeline.log(prediction(number))
            assert receipt.durable, "it is on the disk, network or not"
        await until(pipeline, "the cloud is away", pending=COUNT)
        cloud = [sys.executable, "-m", "cloud", "--bind", f"127.0.0.1:{port}", "--database", str(folder / "cloud.db")]
        async with trio.open_nursery() as nursery:
            process = await nursery.start(trio.run_process, cloud)
            # Nothing to do: connectivity notices, recovery drains.
            await until(pipeline, "the cloud is back", pending=0)
            process.terminate()
    print(f"all {COUNT} are in the cloud, each once")


if __name__ == "__main__":
    try:
        with tempfile.TemporaryDirectory() as name:
            trio.run(main, Path(name))
    except* subprocess.CalledProcessError:
        sys.exit("the cloud did not stop as it should")
