"""Many seeds in several processes: failures are told at the end, and a run that is cut off keeps what it has."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chaos import simulate
from chaos.sim.books import Violation
from chaos.sim.plan import Plan
from chaos.sim.world import Summary

ROOT = Path(__file__).parents[2]


def test_a_seed_that_fails_takes_no_other_one_with_it(monkeypatch, capsys):
    def run(plan: Plan) -> Summary:
        if plan.seed in (1, 3):
            raise Violation("G1: on purpose")
        return Summary(plan.seed, accepted=1)

    monkeypatch.setattr(simulate, "run_plan", run)
    total, failed = simulate.run_chunk((0, 1, 2, 3, 4))
    assert failed == [1, 3]
    assert (total.seeds, total.accepted) == (3, 3)
    told = capsys.readouterr().out
    assert "seed 1 at" in told
    assert "seed 3 at" in told


def test_figures_for_the_file_name_what_failed():
    kept = simulate.figures(Summary(seeds=7, virtual_s=100.0), [5], 1.25)
    assert kept["failed"] == [5]
    assert kept["seeds"] == 7
    assert kept["never_met"]
    json.dumps(kept)


@pytest.mark.process
def test_a_run_that_is_cut_off_tells_and_keeps_what_it_has(tmp_path):
    file = tmp_path / "simulation.json"
    command = [sys.executable, "-c", CUT_OFF, "--seeds", "0..1000000", "--jobs", "1", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "no more seeds are begun" in done.stderr
    said = re.match(r"(\d+) seeds, ", done.stdout)
    kept = json.loads(file.read_text(encoding="utf-8"))
    assert said
    assert kept["seeds"] == int(said[1]) > 0
    assert kept["failed"] == []


CUT_OFF = f"""
import os, signal, sys
from chaos import simulate
usual = simulate.Summary.add
def add(total, other):
    usual(total, other)
    os.kill(os.getpid(), {int(signal.SIGINT)})
    simulate.Summary.add = usual
if __name__ == "__main__":
    simulate.Summary.add = add
    sys.exit(simulate.main())
"""
"""A command that is interrupted when its first seeds are done."""
