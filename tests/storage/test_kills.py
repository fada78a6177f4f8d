"""Kill the process, or cut its power, again and again: what it acknowledged is there, once, as it was."""

import os
import random
import select
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from chaos.sim.platter import VARIANTS, Disk, lay_out, take_in
from tests.storage.child import Order
from tests.storage.disk import read_log
from tests.storage.fixtures import Device, Told, device, start

pytestmark = pytest.mark.process

SEED = 20_260_102
KILLS = 100
POWER_CUTS = 24
CAPACITY_BYTES = 600_000
LONGEST_S = {"opening": 0.012, "tidy": 0.004, "open": 0.06, "load": 0.06}
"""How long at most after which word the kill comes."""
PHASES = {"opening": "opening", "open": "load", "load": "load", "evict": "evict", "sent": "settle", "tidy": "tidy"}
PHASES_MIN = {"opening": 5, "tidy": 8, "load": 8}
"""In how many rounds at least the kill must have come during a start, a tidy stroke (reclaim is one), an accept."""


def run_and_kill(process: Device, order: Order, rng: random.Random, waits_for: str) -> list[str]:
    """Start a child, wait until it says a word, then a moment longer, and kill it; what it has told."""
    pid = process.start(order)
    lines: list[str] = []
    while not lines or lines[-1].split()[0] != waits_for:
        lines.append(process.line())
    deadline = time.monotonic() + rng.uniform(0.0, LONGEST_S[waits_for])
    assert process.process.stdout is not None
    # A child whose pipe is full would wait for us instead of working.
    while (left := deadline - time.monotonic()) > 0 and select.select([process.process.stdout], [], [], left)[0]:
        lines.append(process.line())
    time.sleep(max(0.0, deadline - time.monotonic()))
    os.kill(pid, signal.SIGKILL)
    code, rest = process.until_end()
    assert code == -signal.SIGKILL, (code, lines[-3:], rest[-3:])
    return lines + rest


def keep_books(told: Told, lines: list[str]) -> str:
    """Take what a child told into the books; says in which phase it ended."""
    phase = ""
    for line in lines:
        word, *rest = line.split()
        if word == "ack":
            told.note(word, {int(seq): int(crc) for seq, _, crc in (item.partition(":") for item in rest)})
        elif word in ("sent", "quarantined", "explained"):
            told.note(word, dict.fromkeys(map(int, rest), 0))
        elif word == "evict":
            told.note(word, {})
        phase = PHASES.get(word, phase)
    return phase


def test_100_kills_under_load_lose_nothing(folder, capsys):
    rng = random.Random(SEED)
    told, phases = Told(), Counter[str]()
    place = folder / "d"
    place.mkdir()
    began = time.monotonic()
    with device() as process:
        for number in range(KILLS):
            order = Order(
                act="load", folder=str(place), tag=f"r{number}", seed=number, capacity_bytes=CAPACITY_BYTES, sync=False
            )
            lines = run_and_kill(process, order, rng, ("opening", "tidy", "open", "load")[number % 4])
            phases[keep_books(told, lines)] += 1
    told.check(start(place))
    with capsys.disabled():
        print(
            f"\n{KILLS} kills, {dict(phases)}, {len(told.payloads)} receipts,"
            f" {len(told.settled['sent'])} told as sent, {time.monotonic() - began:.1f} s"
        )
    assert all(phases[phase] >= least for phase, least in PHASES_MIN.items()), phases


def test_power_cuts_of_a_real_process_lose_nothing(shim, folder, capsys):
    """After every kill the folder is made what the power cut would have left: only what was synced is certain."""
    counts = [cut_power_again_and_again(shim, folder, sync=True)]
    with capsys.disabled():
        print(f"\n{POWER_CUTS} power cuts, {counts[0]} receipts")
    assert counts[0] > 20 * POWER_CUTS


def test_power_cuts_find_a_journal_that_does_not_sync(shim, folder):
    with pytest.raises(AssertionError, match=r"acknowledged and gone|given out twice|no reason"):
        cut_power_again_and_again(shim, folder, sync=False)


def cut_power_again_and_again(shim: Path, folder: Path, *, sync: bool) -> int:
    rng = random.Random(SEED)
    told = Told()
    place, log = folder / "d", folder / "log"
    place.mkdir()
    with device(LD_PRELOAD=str(shim), KEEP_SYNCED_FOLDER=str(place), KEEP_SYNCED_LOG=str(log)) as process:
        for number in range(POWER_CUTS):
            disk = Disk.holding(take_in(place))
            noted = log.stat().st_size if log.exists() else 0
            order = Order(
                act="load", folder=str(place), tag=f"r{number}", seed=number, capacity_bytes=CAPACITY_BYTES, sync=sync
            )
            lines = run_and_kill(process, order, rng, ("load", "tidy", "opening")[number % 3])
            keep_books(told, lines)
            with log.open("rb") as file:
                file.seek(noted)
                for op in read_log(file.read()):
                    disk.do(op)
            after = disk.after_power_cut(VARIANTS[number % len(VARIANTS)], rng)
            for item in place.iterdir():
                shutil.rmtree(item) if item.is_dir() else item.unlink()
            lay_out(after, place)
    told.check(start(place))
    return len(told.payloads)
