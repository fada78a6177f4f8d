"""Every chaos scenario in its short form, as an operator starts it; and planted bugs that the verdict must find."""

import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from actors.ports.buffer import Buffer
from chaos.__main__ import FAILED, NOT_RUN, Result, load, main
from chaos.machine import lacks
from chaos.stage import Failed, Stage, open_stage
from tests import needs

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
SEED = 4711
SECONDS_MAX = 300
OTHERS = ("soak",)
"""Not among those of the suite: a soak of seconds shows nothing, so it is run by hand."""


def chaos(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chaos", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)


@pytest.mark.parametrize("name", [name for name in load() if name not in OTHERS])
def test_the_system_survives(name):
    done = chaos("run", name, "--short", "--seed", str(SEED))
    if done.returncode == 3:
        needs.missing(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed: receipts" in done.stdout


# --- a scenario must be able to say no


@pytest.fixture
async def stage(tmp_path) -> AsyncIterator[Stage]:
    async with open_stage(tmp_path, SEED, short=True) as one:
        yield one


async def fail_in(one: Stage, bug: str, end: signal.Signals) -> None:
    """A life with a planted bug on a wire that is cut; then a sound one on a wire that is healed, and the verdict."""
    async with one.cloud():
        one.proxy.sever()
        async with one.device(module="tests.chaos.planted", planted=bug) as device:
            await device.says(lambda line: line.count(" ") == 2, 30.0)
            await trio.sleep(1.5)
            await device.end(end)
        one.proxy.heal()
        async with one.device(tasks=1) as device:
            await one.finish(device)


async def test_a_receipt_for_what_was_never_written_is_found_by_a_kill(stage):
    with pytest.RaisesGroup(
        pytest.RaisesExc(Failed, match=r"receipts are not kept|given out twice"), flatten_subgroups=True
    ):
        async with trio.open_nursery():
            await fail_in(stage, "journal_writes_nothing", signal.SIGKILL)


async def test_what_is_written_down_as_sent_and_never_was_is_found(stage):
    with pytest.RaisesGroup(pytest.RaisesExc(Failed, match=r"receipts are not kept"), flatten_subgroups=True):
        async with trio.open_nursery():
            await fail_in(stage, "released_is_sent", signal.SIGTERM)


async def test_a_loss_is_allowed_only_for_the_reasons_that_a_scenario_names(stage):
    async with stage.cloud():
        stage.proxy.sever()
        async with stage.device() as device:
            await device.says(lambda line: line.count(" ") == 2, 30.0)
            await trio.sleep(0.5)
            await device.end()
        buffer = Buffer(stage.buffer)
        assert buffer.evict(1, "evicted", time.time()) == 1
        buffer.close()
        stage.proxy.heal()
        async with stage.device(tasks=0) as device:
            await stage.converge(device)
            await device.end()
        stage.enter(device)
        with pytest.raises(Failed, match="evicted"):
            await stage.check()
        await stage.check(lost_allowed=("evicted",))
        assert stage.figures["explained"] == 1


async def test_a_device_is_not_stopped_before_it_has_told_what_it_lost(stage):
    """Nothing is pending, so it has nothing to drain; what became of it all is yet to be told."""
    async with stage.cloud():
        stage.proxy.sever()
        async with stage.device() as device:
            await device.says(lambda line: line.count(" ") == 2, 30.0)
            await device.end()
        buffer = Buffer(stage.buffer)
        assert buffer.evict(10_000, "evicted", time.time())
        buffer.close()
        stage.proxy.heal()
        async with stage.device(tasks=0) as device:
            await stage.finish(device, lost_allowed=("evicted",))
        assert stage.figures["explained"] == stage.figures["receipts"]


async def test_a_scenario_without_a_receipt_has_tried_nothing(stage):
    async with stage.cloud():
        with pytest.raises(Failed, match="nothing was tried"):
            await stage.check()


def test_what_the_machine_lacks_is_told_and_is_no_success(monkeypatch, capsys):
    monkeypatch.setattr("chaos.machine.NAMED", dict.fromkeys(("packet filter",), lambda: "no nft here"))
    assert main(["run", "sever", "--seed", "1"]) == 3
    assert "sever: NOT RUN: no nft here" in capsys.readouterr().out


def test_one_failure_among_many_is_the_exit_code(monkeypatch):
    results = [Result("a", NOT_RUN, 0.0, "no"), Result("b", FAILED, 1.0, "lost")]
    monkeypatch.setattr("chaos.__main__.run_all", lambda *_: results)
    assert main(["run", "all"]) == 1


@pytest.mark.parametrize(
    ("name", "told"), [("blackhole", "nothing ever comes back"), ("sever", "every packet to the cloud is dropped")]
)
def test_an_interrupted_scenario_leaves_no_process_behind_and_is_the_last(name, told):
    """`sever` runs in namespaces of its own, one process further away."""
    if lacking := lacks(getattr(load()[name], "NEEDS", ())):
        needs.missing(lacking)
    command = [sys.executable, "-m", "chaos", "run", name, "flap", "--seed", str(SEED)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        line = next(line for line in running.stdout if told in line)
        assert line
        running.send_signal(signal.SIGINT)
        rest = running.stdout.read()
        assert running.wait() == 130
    assert "interrupted by SIGINT" in rest
    assert "--- flap" not in rest
    folder = rest.split("kept in ")[1].split(";")[0]
    left = [path for path in Path("/proc").glob("[0-9]*/environ") if holds(path, folder)]
    assert not left


def holds(environ: Path, folder: str) -> bool:
    try:
        return folder.encode() in environ.read_bytes()
    except OSError:
        return False
