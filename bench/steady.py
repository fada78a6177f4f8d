"""What only shows over time: the loop's stalls while the store reclaims, and a day of 30 predictions a second."""

import itertools
import time
from pathlib import Path
from typing import cast

import trio

from actors.messages import Fate, Outcome
from actors.pipeline import Pipeline, Ports, open_pipeline
from actors.ports.client import CloudClient
from actors.ports.store import Store
from bench import ours
from bench.load import START, entries, groups, predictions
from bench.table import percentile

BATCH = 32
SMALL_MB = 64
BURST_PER_S = 2_000
TICK_S = 0.001
FILL = 160_000
"""Confirmed predictions that lie in the store when it begins: with these it has to reclaim from the first second."""


def stalls(folder: str, seconds: float) -> dict[str, float]:
    """Gaps of a 1 ms ticker, in ms, while 2,000 predictions a second are accepted, delivered and reclaimed."""
    path = Path(folder)
    _fill(path)
    gaps: list[float] = []
    waits: list[float] = []

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await trio.sleep(TICK_S)
            now = time.perf_counter()
            gaps.append((now - last) * 1e3)
            last = now

    async def feed(pipeline: Pipeline) -> None:
        load = groups(list(predictions(int(BURST_PER_S * seconds))), 20)
        due = trio.current_time()
        for group in load:
            due += len(group) / BURST_PER_S
            await trio.sleep_until(due)
            began = time.perf_counter()
            await pipeline.log_many(group)
            waits.append((time.perf_counter() - began) * 1e3)

    async def device() -> None:
        settings = ours.settings(path, delivery=True, buffer_max_size_mb=SMALL_MB)
        world = Ports(client=cast(CloudClient, ours.InstantCloud()))
        async with open_pipeline(settings, world) as pipeline:
            await trio.sleep(0.5)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(tick)
                await feed(pipeline)
                nursery.cancel_scope.cancel()

    trio.run(device)
    return {"p50": percentile(gaps, 0.5), "p99": percentile(gaps, 0.99), "max": max(gaps), "accept": max(waits)}


def bare_stalls(seconds: float) -> dict[str, float]:
    """The same ticker alone: what the machine itself does to it."""
    gaps: list[float] = []

    async def tick() -> None:
        last = time.perf_counter()
        with trio.move_on_after(seconds):
            while True:
                await trio.sleep(TICK_S)
                now = time.perf_counter()
                gaps.append((now - last) * 1e3)
                last = now

    trio.run(tick)
    return {"p50": percentile(gaps, 0.5), "p99": percentile(gaps, 0.99), "max": max(gaps), "accept": 0.0}


def day(folder: str, hours: int, per_s: int, capacity_mb: int) -> dict[str, float]:
    """Hours on a simulated clock, online: the largest the store got (MiB), its end, and whether its counters are exact.

    The store is driven as its actor does it: a group a second, batches of 32 confirmed, a tidy stroke a second. What
    is simulated is the clock, and that a sync takes no time.
    """
    path = Path(folder)
    path.mkdir(parents=True)
    clock = [START]
    options = ours.store_options(path, now=lambda: clock[0], capacity_mb=capacity_mb, sync=lambda _fd: None)
    store = Store.open("bench", options)
    load = itertools.cycle(entries(list(predictions(20_000))))
    flying: list[int] = []
    sizes: list[int] = []
    confirmed = 0
    for _ in range(hours * 3600):
        clock[0] += 1
        flying += [record.seq for record in store.accept(list(itertools.islice(load, per_s)))]
        while len(flying) >= BATCH:
            store.settle([Outcome(Fate.SENT, tuple(flying[:BATCH]))])
            del flying[:BATCH]
            confirmed += BATCH
        while store.tidy():
            pass
        sizes.append(store.size_bytes())
    books = store.books()
    exact = (books.last_seq, books.sent, books.pending) == (hours * 3600 * per_s, confirmed, len(flying))
    store.close()
    return {"max": max(sizes) / 2**20, "end": sizes[-1] / 2**20, "exact": float(exact), "count": books.last_seq}


def _fill(path: Path) -> None:
    """A small store, full to nine tenths with confirmed predictions."""
    path.mkdir(parents=True)
    store = Store.open("bench", ours.store_options(path, capacity_mb=SMALL_MB, sync=lambda _fd: None))
    for group in groups(list(predictions(FILL)), 500):
        accepted = store.accept(entries(group))
        store.settle([Outcome(Fate.SENT, tuple(record.seq for record in accepted))])
        while store.tidy():
            pass
    store.close()
