"""A backlog of a million: how fast its pages read, how soon a device starts with it, how much memory it takes."""

import contextlib
import itertools
import os
import sqlite3
import time
from pathlib import Path

import attrs
import google_crc32c
import trio

from actors.messages import Entry
from actors.pipeline import open_pipeline
from actors.ports.journal import SEGMENT_BYTES_MAX, Header, Journal, encode_line
from actors.ports.store import Store
from bench import ours
from bench.load import START, entries, predictions
from cloud.wire import number_payload

PAGE = 500
PAGE_BYTES_MAX = 1024 * 1024
GROUP = 4_096
VARIETY = 20_000
"""So many different predictions; the backlog repeats them under new numbers."""


def build(folder: str, count: int) -> None:
    """A store with `count` pending predictions, closed in peace."""
    path = Path(folder)
    path.mkdir(parents=True)
    store = Store.open("bench", ours.store_options(path, sync=_no_sync))
    load = itertools.cycle(entries(list(predictions(VARIETY))))
    for start in range(0, count, GROUP):
        store.accept(list(itertools.islice(load, min(GROUP, count - start))))
        store.tidy()
    store.close()


@attrs.frozen
class PageTimes:
    """Seconds that pages took, and records a second over the whole backlog."""

    per_s: float
    first: float
    last: float


def read_pages(folder: str) -> dict[str, float]:
    """Every page of the backlog through the store; first and last are means over a hundred pages."""
    store = Store.open("bench", ours.store_options(Path(folder)))
    times, cursor, count = [], 0, 0
    while True:
        began = time.perf_counter()
        page = store.pending(cursor, PAGE, PAGE_BYTES_MAX)
        if not page:
            break
        times.append(time.perf_counter() - began)
        cursor = page[-1].seq
        count += len(page)
    store.close()
    few = min(100, len(times))
    return attrs.asdict(PageTimes(count / sum(times), sum(times[:few]) / few, sum(times[-few:]) / few))


def read_bare(folder: str) -> float:
    """Records a second when SQLite alone is asked for the same pages: nothing can be faster through it."""
    with contextlib.closing(sqlite3.connect(Path(folder) / "buffer.db")) as connection:
        began, cursor, count = time.perf_counter(), 0, 0
        while page := connection.execute(
            "SELECT id, CAST(prediction_data AS BLOB) FROM buffer_predictions WHERE status = 'pending' AND id > ?"
            " ORDER BY id LIMIT ?",
            (cursor, PAGE),
        ).fetchall():
            cursor = page[-1][0]
            count += len(page)
        return count / (time.perf_counter() - began)


def leave_orphan(folder: Path, entry: Entry) -> None:
    """A full segment as a killed session leaves it: its rows are nowhere else."""
    options = ours.store_options(folder)
    with contextlib.closing(sqlite3.connect(options.db_path)) as connection:
        stream_id, last = connection.execute("SELECT stream_id, last_seq FROM buffer_metadata").fetchone()

    def describe(first_seq: int) -> Header:
        return Header(
            holdfast_journal=1,
            stream_id=stream_id,
            device_id="bench",
            session_id=f"{last:012x}dead",
            boot_id="",
            started_at=START,
            first_seq=first_seq,
        )

    journal = Journal(options.journal_folder, describe=describe, sync=_no_sync)
    while journal.size_bytes < SEGMENT_BYTES_MAX - 2**16:
        payloads = [(seq, number_payload(seq, entry.body)) for seq in range(last + 1, last + 101)]
        journal.append(last + 1, [encode_line(seq, payload, google_crc32c.value(payload)) for seq, payload in payloads])
        last += 100
    journal.rotate()


def start(folder: str) -> float:
    """Seconds from opening the pipeline to the first receipt."""

    async def first_receipt() -> float:
        began = time.perf_counter()
        async with open_pipeline(ours.settings(Path(folder))) as pipeline:
            await pipeline.log(next(predictions(1)))
            return time.perf_counter() - began

    return trio.run(first_receipt)


def memory(folder: str, seconds: float) -> dict[str, float]:
    """MiB that a device takes with that backlog after a while, and at its peak."""

    async def idle() -> None:
        async with open_pipeline(ours.settings(Path(folder))) as pipeline:
            await pipeline.log(next(predictions(1)))
            await trio.sleep(seconds)

    trio.run(idle)
    return {"now": memory_mib("VmRSS"), "peak": memory_mib("VmHWM")}


def memory_mib(field: str) -> float:
    """A field of this process's `/proc/self/status`, in MiB."""
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 - not a file in a folder of ours
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(field))


def _no_sync(_fd: int) -> None:
    """Building the backlog is not what is measured."""
    assert os.getpid()
