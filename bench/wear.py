"""Bytes written to the disk a prediction over its whole life, counted by the kernel for a process of its own."""

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from actors.messages import Fate, Outcome
from actors.ports.store import Store
from bench import ours
from bench.load import START, entries, predictions
from bench.peers import Limit, Naive

FRAMES_PER_S = 30
BATCH = 32


def limit(folder: str, count: int, size: int) -> float:
    """The same bytes appended and synced."""
    place = Limit(_made(folder))
    payloads = [msgspec.json.encode(one) for one in predictions(count)]
    before = _written()
    for start in range(0, count, size):
        place.put(payloads[start : start + size])
    place.close()
    return _since(before) / count


def naive(folder: str, count: int, size: int) -> float:
    """INSERT and commit in groups of `size`, then UPDATE to 'sent' in batches of 32."""
    place = Naive(_made(folder))
    payloads = [msgspec.json.encode(one) for one in predictions(count)]
    before = _written()
    confirmed = 0
    for start in range(0, count, size):
        place.put(payloads[start : start + size])
        while place.last - confirmed >= BATCH:
            place.confirm(confirmed + 1, confirmed + BATCH)
            confirmed += BATCH
    place.close()
    return _since(before) / count


def device(folder: str, count: int, size: int) -> float:
    """Our store as the device drives it at 30 frames a second: accepted in groups, confirmed in batches, tidied."""
    clock = [START]
    store = Store.open("bench", ours.store_options(_made(folder), now=lambda: clock[0]))
    load = entries(list(predictions(count)))
    before = _written()
    flying: list[int] = []
    for start in range(0, count, size):
        flying += [record.seq for record in store.accept(load[start : start + size])]
        clock[0] += size / FRAMES_PER_S
        while len(flying) >= BATCH:
            store.settle([Outcome(Fate.SENT, tuple(flying[:BATCH]))])
            del flying[:BATCH]
        if (start // size) % max(1, FRAMES_PER_S // size) == 0:
            store.tidy()
    store.close()
    return _since(before) / count


def measure(folder: Path, count: int, size: int, rounds: Sequence[int]) -> dict[str, list[float]]:
    """Bytes a prediction of each contender, in turn; the kernel's counter hardly varies."""
    from bench.child import call  # noqa: PLC0415 - the child imports this module

    seen: dict[str, list[float]] = {"limit": [], "naive": [], "device": []}
    for number in rounds:
        for name, values in seen.items():
            place = folder / f"wear-{name}-{size}-{number}"
            values.append(float(call(f"bench.wear:{name}", folder=place, count=count, size=size)))
    return seen


def _made(folder: str) -> Path:
    path = Path(folder)
    path.mkdir(parents=True)
    return path


def _written() -> int:
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("write_bytes")).split()[1])


def _since(before: int) -> int:
    os.sync()
    return _written() - before
