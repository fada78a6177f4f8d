"""An asyncio program with a device in it: the device has its own thread and its own Trio loop, you await receipts.

    python examples/asyncio_program.py [BUFFER]

If the device shall outlive your program, run it beside it and use its HTTP door instead: `http_door.py`.
"""

import asyncio
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Self

import trio

from actors import Pipeline, Prediction, Receipt, Settings, open_pipeline


class Device:
    """A device in a thread. `async with Device(settings) as device:` and then `await device.log(prediction)`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._started: Future[tuple[Pipeline, trio.lowlevel.TrioToken]] = Future()
        self._thread = threading.Thread(target=self._run, name="holdfast")

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as exc:
            if not self._started.done():
                self._started.set_exception(exc)
            else:
                raise

    async def _serve(self) -> None:
        async with open_pipeline(self._settings) as pipeline:
            self._started.set_result((pipeline, trio.lowlevel.current_trio_token()))
            await pipeline.stopping.wait()

    async def __aenter__(self) -> Self:
        self._thread.start()
        self._pipeline, self._token = await asyncio.wrap_future(self._started)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._token.run_sync_soon(self._pipeline.stop)
        await asyncio.to_thread(self._thread.join)

    async def log(self, prediction: Prediction) -> Receipt:
        """As `Pipeline.log`: when this returns, it is durable. A task that is cancelled does not take it back."""
        ask = partial(trio.from_thread.run, self._pipeline.log, prediction, trio_token=self._token)
        return await asyncio.to_thread(ask)


def prediction(number: int) -> Prediction:
    """What your model would say."""
    return Prediction(
        image_id=f"frame_{number}",
        timestamp=time.time(),
        model_name="mine",
        model_version="1",
        inference_time_ms=1.0,
        detections=(),
        defect_detected=False,
        confidence_scores=(),
    )


async def main(buffer: Path) -> None:
    """Twenty at once: they share an fsync or two."""
    settings = Settings(buffer_db_path=buffer, sources=("none",), cloud_logging_enabled=False)
    async with Device(settings) as device:
        receipts = await asyncio.gather(*(device.log(prediction(number)) for number in range(20)))
    print(f"{sum(receipt.durable for receipt in receipts)} durable, numbers {sorted(r.seq or 0 for r in receipts)}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(main(Path(sys.argv[1])))
    else:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(main(Path(folder) / "buffer.db"))
