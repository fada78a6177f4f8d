"""Cut the power between any two system calls: whatever part of the unsynced bytes is left, no receipt is broken."""

import hashlib
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from chaos.sim.platter import VARIANTS, Disk, Op, lay_out, take_in
from tests.storage.child import Order
from tests.storage.disk import mark, read_log
from tests.storage.fixtures import Found, Told, device, start

SEED = 20_260_101
SCENARIOS: dict[str, dict[str, Any]] = {
    "usual": {},
    "sent rows not kept": {"cleanup_days": 0.0},
    "no journal": {"journal": False},
    "journal fails now and then": {"trouble": "journal"},
    "database is replaced": {"trouble": "database"},
}
SESSIONS = {"usual": 3}
PLAIN = 2
"""Of `VARIANTS`: only what was synced, and all that was written."""
TURNS = {"usual": 5}
TURNS_ELSE = 2
"""How many of the other variants are tried at each point, in turn."""
POINTS_MIN, STATES_MIN = 300, 500


def record(shim: Path, folder: Path, sessions: int = 2, **knobs) -> list[Op]:
    """Sessions on one folder, each of them ending in a kill or a close; every call, in order."""
    watched, log = folder / "d", folder / "log"
    watched.mkdir()
    with device(LD_PRELOAD=str(shim), KEEP_SYNCED_FOLDER=str(watched), KEEP_SYNCED_LOG=str(log)) as process:
        for session in range(sessions):
            order = Order(act="workload", folder=str(watched), tag=f"s{session}", seed=session, log=str(log), **knobs)
            process.run(order)
    return list(read_log(log.read_bytes()))


class Cuts:
    """Every point of a recording, every variant; a state that was seen before is not opened again."""

    def __init__(self, ops: list[Op], folder: Path, turns: int) -> None:
        self.ops, self.folder, self.turns = ops, folder, turns
        self.rng = random.Random(SEED)
        self.seen: dict[bytes, Found] = {}
        self.kinds: Counter[str] = Counter()
        self.tried = 0
        self.disk = Disk()

    def run(self) -> None:
        told = Told()
        for number, op in enumerate(self.ops):
            if op.kind == "M":
                told.note(*mark(op))
            else:
                self.disk.do(op)
                self.kinds[op.kind] += 1
            for variant in self.variants(number) if self.disk.at_risk() else VARIANTS[:1]:
                found = self.open(self.disk.after_power_cut(variant, self.rng))
                self.tried += 1
                try:
                    told.check(found)
                except AssertionError as exc:
                    exc.add_note(f"cut behind call {number} ({op.kind} {op.path}), {variant}")
                    raise

    def variants(self, number: int) -> tuple[str, ...]:
        """The two plain ones always, and of the others as many as asked for, in turn."""
        others = VARIANTS[PLAIN:]
        return VARIANTS[:PLAIN] + tuple(others[(number + 3 * turn) % len(others)] for turn in range(self.turns))

    def open(self, state: dict[str, bytes | None]) -> Found:
        digest = hashlib.sha256(repr(sorted(state.items())).encode()).digest()
        if digest not in self.seen:
            place = self.folder / "cut"
            place.mkdir()
            lay_out(state, place)
            self.seen[digest] = start(place)
            shutil.rmtree(place)
        return self.seen[digest]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_power_cut_between_any_two_calls_breaks_no_receipt(shim, folder, scenario, capsys):
    ops = record(shim, folder, SESSIONS.get(scenario, 2), **SCENARIOS[scenario])
    cuts = Cuts(ops, folder, TURNS.get(scenario, TURNS_ELSE))
    cuts.run()
    points = sum(cuts.kinds.values())
    with capsys.disabled():
        print(
            f"\n{scenario}: {points} points {dict(cuts.kinds)}, {cuts.tried} points x variants,"
            f" {len(cuts.seen)} different states opened"
        )
    assert {"c", "w", "s", "t"} <= cuts.kinds.keys()
    assert points >= POINTS_MIN
    assert len(cuts.seen) >= STATES_MIN


def test_recording_has_missed_no_call(shim, folder):
    """What the replay of the log says a process sees is what is really there."""
    disk = Disk()
    for op in record(shim, folder):
        if op.kind != "M":
            disk.do(op)
    seen = {path: data for path, data in disk.now().items() if not path.endswith("-shm")}
    assert seen == {path: data for path, data in take_in(folder / "d").items() if not path.endswith("-shm")}


def test_cuts_find_a_journal_that_does_not_sync(shim, folder):
    ops = record(shim, folder, sync=False)
    with pytest.raises(AssertionError, match=r"acknowledged and gone|given out twice|no reason"):
        Cuts(ops, folder, TURNS_ELSE).run()
