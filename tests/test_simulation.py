"""The whole system from one seed: every seed keeps the guarantees, every fault is met, every seed replays."""

import math
import random
import re
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from chaos.sim.coverage import MUST
from chaos.sim.plan import Fault, Plan
from chaos.sim.platter import VARIANTS, Disk, Op
from chaos.sim.shrink import shrink
from chaos.sim.world import run_plan
from chaos.simulate import many, tell

ROOT = Path(__file__).parents[1]
SEEDS = 300
"""The usual run (9, 70 and 175 once failed); `make simulate` takes 10,000."""


def test_nothing_accepted_is_lost_doubled_or_unexplained(capsys):
    total, failed = many(range(SEEDS), jobs=2, until=math.inf)
    with capsys.disabled():
        print()
        tell(total, failed, max(total.cpu_s, 0.1))
    assert not failed, f"replay with: {[Plan.of(seed).command() for seed in failed]}"
    assert total.seeds == SEEDS
    assert total.stored + total.explained >= total.accepted > 0
    assert not MUST - total.met.keys(), "what is never met proves nothing"


@pytest.mark.parametrize("seed", [3, 31], ids=["3", "31: old devices, and a cloud that is upgraded"])
def test_a_seed_replays_in_another_process_whatever_its_hashes_are(seed):
    def trace(hash_seed: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "chaos.simulate", "--seed", f"{seed}"],
            cwd=ROOT,
            env={"PYTHONHASHSEED": hash_seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        found = re.search(r"^trace ([0-9a-f]{16})$", done.stdout, re.MULTILINE)
        assert found, done.stdout
        return found[1]

    assert trace("1") == trace("2") == run_plan(Plan.of(seed)).trace
    assert run_plan(Plan.of(8)).trace != run_plan(Plan.of(seed)).trace


def test_shrinking_keeps_only_what_the_failure_needs():
    plan = attrs.evolve(Plan.of(3), faults=frozenset(Fault), devices=5, replicas=2, faults_s=100.0)

    def why(candidate: Plan) -> str:
        guilty = {Fault.KILL, Fault.OUTAGE} <= candidate.faults and candidate.faults_s > 10
        return "it fails" if guilty else ""

    told: list[str] = []
    least = shrink(plan, told.append, why=why)
    assert least.faults == {Fault.KILL, Fault.OUTAGE}
    assert (least.devices, least.replicas) == (1, 1)
    assert 10 < least.faults_s <= 20
    assert "--faults" in least.command()
    assert told


@pytest.mark.parametrize("variant", VARIANTS)
def test_power_cut_never_takes_what_was_synced(variant):
    disk = Disk()
    for op in (
        Op("c", "a", 0, b""),
        Op("w", "a", 0, b"safe"),
        Op("s", "a", 0, b""),
        Op("s", ".", 0, b""),
        Op("w", "a", 4, b"unsafe"),
    ):
        disk.do(op)
    states = {bytes(disk.after_power_cut(variant, random.Random(seed))["a"] or b"") for seed in range(50)}
    assert all(state.startswith(b"safe") for state in states)
    assert all(len(state) <= len(b"safeunsafe") for state in states)


def test_power_cut_may_take_what_was_not_synced():
    disk = Disk()
    disk.do(Op("c", "a", 0, b""))
    disk.do(Op("w", "a", 0, b"unsafe"))
    assert disk.now() == {"a": b"unsafe"}
    assert disk.after_power_cut("synced only", random.Random(1)) == {}
    assert disk.after_power_cut("names without data", random.Random(1)) == {"a": b""}
