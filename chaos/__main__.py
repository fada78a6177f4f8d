"""The chaos suite: real processes, real sockets, real disks, and the operating system's own faults.

    python -m chaos list
    python -m chaos run kill                # one scenario, told as it happens
    python -m chaos run all --short         # all that this machine can, in some minutes

Each has a fault, a healing, a time within which everything must be home, and a verdict from the audit and from books of
its own. Exit code 0: all passed; 1: one failed; 3: none failed, but something could not run here; 130: interrupted, and
everything that it had started is gone.
"""

import argparse
import importlib
import pkgutil
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import attrs
import structlog
import trio

from chaos import machine, scenarios
from chaos.stage import ROOT, Failed, open_stage

SECONDS_MAX = {True: 240.0, False: 1_800.0}
"""How long a scenario may take, in its short form and in full; a soak has its hours on top."""
PASSED, FAILED, NOT_RUN, INTERRUPTED = "passed", "FAILED", "not run", "interrupted"
ENDINGS = (signal.SIGINT, signal.SIGTERM)
EXIT_CODES = {PASSED: 0, FAILED: 1, NOT_RUN: 3, INTERRUPTED: 130}


class Interrupted(Failed):
    """Somebody wants no more of it."""


@attrs.frozen
class Result:
    """What became of one scenario."""

    name: str
    outcome: str
    seconds: float
    note: str = ""


def load() -> dict[str, ModuleType]:
    """Every scenario by its name."""
    found = sorted(module.name for module in pkgutil.iter_modules(scenarios.__path__))
    return {name.replace("_", "-"): importlib.import_module(f"chaos.scenarios.{name}") for name in found}


def title(scenario: ModuleType) -> str:
    """Its first line."""
    return str(scenario.__doc__).splitlines()[0]


async def play(scenario: ModuleType, folder: Path, given: argparse.Namespace) -> str:
    """One scenario from nothing to the verdict; its figures in a line. `Failed`, also when it is interrupted."""
    with trio.open_signal_receiver(*ENDINGS) as signals:
        async with trio.open_nursery() as nursery:
            interrupted: list[int] = []

            async def heed() -> None:
                async for number in signals:
                    interrupted.append(number)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(heed)
            with trio.move_on_after(SECONDS_MAX[given.short] + given.hours * 3_600) as bound:
                async with open_stage(folder, given.seed, short=given.short) as stage:
                    stage.hours = given.hours
                    await scenario.play(stage)
            nursery.cancel_scope.cancel()
        if interrupted:
            raise Interrupted(
                f"interrupted by {signal.Signals(interrupted[0]).name}; everything that it started is gone"
            )
        if bound.cancelled_caught:
            raise Failed(f"not at its end within {SECONDS_MAX[given.short]:.0f} s")
    return ", ".join(f"{name} {count}" for name, count in stage.figures.items())


def perform(name: str, scenario: ModuleType, given: argparse.Namespace) -> Result:
    """Run a scenario here, in a folder that is gone afterwards; where it failed it is kept, for whoever looks why."""
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix=f"holdfast-chaos-{name}-"))
    print(f"--- {name}: {title(scenario)} (seed {given.seed})", flush=True)
    failures: list[BaseException] = []
    note = ""
    try:
        note = trio.run(play, scenario, folder, given)
    except* Failed as group:
        failures += leaves(group)
    interrupted = any(isinstance(failure, Interrupted) for failure in failures)
    outcome = INTERRUPTED if interrupted else FAILED if failures else PASSED
    if failures:
        note = f"{failures[0]}"
        print(f"{outcome}: {note}\nthe files are kept in {folder}; again: {again(name, given)}", flush=True)
    else:
        shutil.rmtree(folder)
        print(f"passed: {note}", flush=True)
    return Result(name, outcome, time.monotonic() - began, note.splitlines()[0])


def again(name: str, given: argparse.Namespace) -> str:
    """The command that runs it again."""
    return f"python -m chaos run {name} --seed {given.seed}" + (" --short" if given.short else "")


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """The single errors in a group of groups."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


def perform_apart(name: str, scenario: ModuleType, given: argparse.Namespace) -> Result:
    """Run a scenario in namespaces of its own: whatever it does to network and mounts ends with it."""
    began = time.monotonic()
    flags = [f"--{kind}" for kind in scenario.INSIDE]
    command = ["unshare", *flags, sys.executable, "-m", "chaos", "run", name, "--inside", "--seed", str(given.seed)]
    command += ["--short"] if given.short else []
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as inside:
        usual = {number: signal.signal(number, lambda got, _: inside.send_signal(got)) for number in ENDINGS}
        code = inside.wait()  # also when interrupted: it cleans up
        for number, handler in usual.items():
            signal.signal(number, handler)
    outcome = {code: name for name, code in EXIT_CODES.items()}.get(code, FAILED)
    return Result(name, outcome, time.monotonic() - began, "in namespaces of its own")


def run_all(names: Sequence[str], given: argparse.Namespace) -> list[Result]:
    """One after the other; what the machine lacks is said."""
    known, results = load(), []
    for name in names:
        scenario = known[name]
        lacking = machine.lacks(getattr(scenario, "NEEDS", ()))
        if lacking:
            print(f"--- {name}: NOT RUN: {lacking}", flush=True)
            results.append(Result(name, NOT_RUN, 0.0, lacking))
        elif getattr(scenario, "INSIDE", ()) and not given.inside:
            results.append(perform_apart(name, scenario, given))
        else:
            if given.inside and "net" in scenario.INSIDE:
                subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            results.append(perform(name, scenario, given))
        if results[-1].outcome == INTERRUPTED:
            break
    return results


def main(arguments: Sequence[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="every scenario, and what this machine lacks for it")
    run = commands.add_parser("run", help="run scenarios")
    run.add_argument("names", nargs="+", metavar="SCENARIO", help="as listed; or 'all'")
    run.add_argument(
        "--short", action="store_true", help="the form that the test suite runs: seconds instead of minutes"
    )
    run.add_argument(
        "--seed", type=int, default=None, help="the seed of everything that is chance [default: a new one]"
    )
    run.add_argument("--hours", type=float, default=0.0, help="how long a soak goes on [default: two minutes]")
    run.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    known = load()
    if given.command == "list":
        for name, scenario in known.items():
            lacking = machine.lacks(getattr(scenario, "NEEDS", ()))
            print(f"{name:<20} {title(scenario)}" + (f"\n{'':<20} can't run here: {lacking}" if lacking else ""))
        return 0
    names = list(known) if given.names == ["all"] else given.names
    if strangers := [name for name in names if name not in known]:
        parser.error(f"no scenario {', '.join(strangers)}; there are: {', '.join(known)}")
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # the devices that live in here say much
    given.seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    results = run_all(names, given)
    if len(results) > 1:
        print()
        for result in results:
            print(f"{result.name:<20} {result.outcome:<11} {result.seconds:6.1f} s  {result.note}")
    outcomes = {result.outcome for result in results}
    return next(EXIT_CODES[outcome] for outcome in (INTERRUPTED, FAILED, NOT_RUN, PASSED) if outcome in outcomes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
