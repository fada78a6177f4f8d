"""Two hundred devices return at once, each with a backlog."""

import statistics
from functools import partial
from pathlib import Path

import attrs
import trio

from actors.pipeline import Ports, open_pipeline
from actors.settings import Settings
from chaos.logger import predict
from chaos.stage import CONVERGE_S_MAX, Failed, Stage

BACKLOG = 50
DRAIN_FACTOR_MAX = 2.0
"""The slowest device may take so many times the mean, beside its own random start."""
PROBE_S = 2.0
START_SPREAD_S = PROBE_S + 1.0
"""A device sees the cloud with its next probe, and begins after a random pause of up to a second."""


@attrs.define
class Herd:
    """Who is ready, and when each was done."""

    endpoint: str
    folder: Path
    ready: int = 0
    all_ready: trio.Event = attrs.Factory(trio.Event)
    done_at: list[float] = attrs.Factory(list)
    all_home: trio.Event = attrs.Factory(trio.Event)


async def play(stage: Stage) -> None:
    """They log into an outage; then the cloud starts, and all of them see it at about the same time."""
    count = stage.rounds(200, 20)
    async with stage.cloud():
        pass  # its port is known now, and nobody listens there
    herd = Herd(f"{stage.cloud_url}/log", stage.folder)
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(one_device, stage, herd, number, count)
        await herd.all_ready.wait()
        stage.tell(f"{count} devices have {BACKLOG} predictions each, and no cloud")
        async with stage.cloud():
            began = trio.current_time()
            with trio.move_on_after(CONVERGE_S_MAX) as patience:
                await herd.all_home.wait()
            if patience.cancelled_caught:
                raise Failed(f"{count - len(herd.done_at)} of {count} devices are not home")
            took = [at - began for at in herd.done_at]
            slowest, mean = max(took), statistics.fmean(took)
            stage.tell(f"all are home: the mean device after {mean:.1f} s, the slowest after {slowest:.1f} s")
            if slowest > DRAIN_FACTOR_MAX * mean + START_SPREAD_S:
                raise Failed(f"a device starves: {slowest:.1f} s where the mean is {mean:.1f} s")
            await stage.check({f"herd-{n}": stage.folder / f"device-{n}" / "buffer.db" for n in range(count)})


async def one_device(stage: Stage, herd: Herd, number: int, count: int) -> None:
    """A whole device without eyes, until it has everything home."""
    settings = Settings(
        cloud_logging_endpoint=herd.endpoint,
        edge_device_id=f"herd-{number}",
        buffer_db_path=herd.folder / f"device-{number}" / "buffer.db",
        connectivity_interval_seconds=PROBE_S,
        batch_timeout_seconds=0.2,
        max_retries=0,
    )
    settings.buffer_db_path.parent.mkdir(mode=0o700)
    async with open_pipeline(settings, Ports(sources=())) as pipeline:
        receipts = await pipeline.log_many([predict(f"{number}-{n}", defect=False) for n in range(BACKLOG)])
        for receipt in receipts:
            assert receipt.seq is not None
            stage.books[receipt.stream_id, receipt.seq] = f"{number}-{receipt.seq - 1}"
        herd.ready += 1
        if herd.ready == count:
            herd.all_ready.set()
        await pipeline.cells.books.wait_value(partial(home, len(receipts)))
        herd.done_at.append(trio.current_time())
        if len(herd.done_at) == count:
            herd.all_home.set()


def home(count: int, books: object) -> bool:
    """Whether a device has everything in the cloud."""
    return getattr(books, "sent", 0) >= count
