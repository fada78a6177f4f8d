"""The whole system in one process from one seed: devices, links, the real cloud; faults, then heal, then converge.

    python -m chaos.simulate --seed 17               one seed, told in full
    python -m chaos.simulate --seeds 0..300 --jobs 2 many, with a summary
    python -m chaos.simulate --minutes 10            as many as there is time for
    python -m chaos.simulate --seed 17 --shrink      a smaller plan that still fails

Everything that is chance comes from the seed: topology, workload, faults, kills, the order in which tasks run. The
devices' actors, journals and SQLite buffers, the wire and the cloud app with its ledger are the real ones; the clocks
are virtual, and disks and links are simulated below and between them (`chaos/sim/`). Exit code 1 at a violation.
"""

import argparse
import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count, islice
from pathlib import Path

import attrs

from chaos.sim.coverage import MUST
from chaos.sim.plan import Fault, Plan
from chaos.sim.shrink import fails, first_cause, shrink
from chaos.sim.world import ENDS, Summary, run_plan

CHUNK_SEEDS = 4
"""How many seeds a job takes at once: few, so that in the end no job has much left while the others wait."""
DAY_S = 86_400.0
PROGRESS_EVERY_S = 60.0
FAILED_MAX = 100
"""So many failures are enough to look at; no more seeds are begun then."""
COVERING_SEEDS = 300
"""So many seeds must have met every fault, outcome and mode."""


def plan_of(given: argparse.Namespace) -> Plan:
    """The seed's own plan, with what the command line changes."""
    plan = Plan.of(given.seed)
    if given.faults is not None:
        names = [name.strip() for name in given.faults.split(",") if name.strip()]
        plan = attrs.evolve(plan, faults=frozenset(Fault(name) for name in names))
    changes = {name: getattr(given, name) for name in ("devices", "replicas", "faults_s") if getattr(given, name)}
    return attrs.evolve(plan, **changes)


def one(given: argparse.Namespace) -> int:
    """Tell one plan's story, or shrink it."""
    plan = plan_of(given)
    if given.shrink:
        why = fails(plan)
        if not why:
            print("this plan does not fail: there is nothing to shrink")
            return 0
        print(f"it fails: {why}")
        least = shrink(plan, print)
        print(f"the smallest that was found: {least.command()}" if least != plan else "nothing smaller fails")
        return 1
    print(plan)
    try:
        summary = run_plan(plan, told=print)
    except ENDS as error:
        report(plan, error)
        return 1
    print(f"trace {summary.trace}")
    return 0


def report(plan: Plan, error: Exception) -> None:
    """What somebody needs who wants to see it again."""
    print("\n".join(getattr(error, "__notes__", ())))
    cause = first_cause(error)
    print(f"\nseed {plan.seed} at {commit()}: {type(cause).__name__}: {cause}")


def commit() -> str:
    """Which state of the project this is."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    except (OSError, subprocess.CalledProcessError):
        return "an unknown commit"
    return done.stdout.strip()


def run_chunk(seeds: tuple[int, ...]) -> tuple[Summary, list[int]]:
    """Some seeds: the sum of those that held, and which failed."""
    total, failed = Summary(seeds=0), []
    for seed in seeds:
        try:
            total.add(run_plan(Plan.of(seed)))
        except ENDS as error:
            report(Plan.of(seed), error)
            failed.append(seed)
    gc.collect()  # a run is full of rings, and leaves them to be collected between runs: their disks are in there
    return total, failed


def many(
    seeds: Iterable[int], jobs: int, until: float, so_far: Callable[[Summary, list[int]], None] | None = None
) -> tuple[Summary, list[int]]:
    """Seeds in several processes, begun before `until` (monotonic seconds); the sum, and those that failed.

    SIGINT and SIGTERM end it as `until` does: what is under way is waited for. `so_far` is given both every minute.
    """
    chunks = chunked(iter(seeds))
    total, failed = Summary(seeds=0), list[int]()
    began = told_at = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with told_to_stop() as stopped, ProcessPoolExecutor(jobs, context, initializer=begin_work) as pool:
        running = {pool.submit(run_chunk, chunk): chunk for chunk in islice(chunks, 2 * jobs)}
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                chunk = running.pop(future)
                if error := future.exception():  # nothing that a run is known to raise: a defect of the simulation
                    print(f"one of the seeds {chunk} ended the run of all of them: {error!r}", file=sys.stderr)
                    failed += chunk
                    continue
                summary, more = future.result()
                total.add(summary)
                failed += more
            now = time.monotonic()
            if now >= told_at + PROGRESS_EVERY_S:
                told_at = now
                print(f"{total.seeds} seeds hold, {len(failed)} failed, {now - began:.0f} s", file=sys.stderr)
                if so_far is not None:
                    so_far(total, sorted(failed))
            if now < until and len(failed) < FAILED_MAX and not stopped:
                running |= {pool.submit(run_chunk, chunk): chunk for chunk in islice(chunks, len(done))}
    return total, sorted(failed)


def begin_work() -> None:
    """In each worker: an interrupt is for the parent, and what was imported is not looked through between the runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()


@contextmanager
def told_to_stop() -> Iterator[list[int]]:
    """The signals that asked for an end; a second one ends the process at once."""
    asked = list[int]()

    def hear(number: int, _: object) -> None:
        asked.append(number)
        signal.signal(number, signal.SIG_DFL)
        print("no more seeds are begun; what is under way ends first", file=sys.stderr)

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def chunked(seeds: Iterator[int]) -> Iterator[tuple[int, ...]]:
    """So many seeds at once."""
    while chunk := tuple(islice(seeds, CHUNK_SEEDS)):
        yield chunk


def tell(total: Summary, failed: list[int], real_s: float) -> None:
    """Print the summary of many seeds."""
    lost = "0 lost, 0 doubled, 0 unexplained" if not failed else f"and {len(failed)} seeds FAILED: {failed}"
    times = total.virtual_s / max(total.cpu_s, 0.1)
    print(
        f"{total.seeds} seeds, {total.virtual_s / 3600:.1f} virtual hours in {real_s:.1f} s, {total.cpu_s:.1f} s of CPU"
        f" ({times:.0f} x real time a processor): {total.accepted} accepted, {total.stored} stored,"
        f" {total.explained} given up and explained, {lost}; {total.duplicates} repeats absorbed,"
        f" {total.lives} lives, {total.calls} calls to simulated disks"
    )
    for title, prefix in (("faults met", "fault: "), ("outcomes", "outcome: "), ("the link", "link ")):
        met = {what.removeprefix(prefix): n for what, n in total.met.most_common() if what.startswith(prefix)}
        print(f"{title}: " + ", ".join(f"{what} {n}" for what, n in met.items()))
    rest = {what: n for what, n in total.met.most_common() if not what.startswith(("fault: ", "outcome: ", "link "))}
    print("and: " + ", ".join(f"{what} {n}" for what, n in rest.items()))
    unmet = sorted(MUST - total.met.keys())
    print("never met: " + (", ".join(unmet) if unmet else "nothing"))


def figures(total: Summary, failed: list[int], real_s: float) -> dict[str, object]:
    """The summary of many seeds for a file."""
    sums = {name: value for name, value in attrs.asdict(total).items() if name not in ("seed", "trace", "met")}
    return sums | {
        "failed": failed,
        "cpu_s": round(total.cpu_s, 1),
        "real_s": round(real_s, 1),
        "virtual_s": round(total.virtual_s),
        "met": dict(sorted(total.met.items())),
        "never_met": sorted(MUST - total.met.keys()),
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m chaos.simulate", description="The seeded simulation.")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="one seed, told in full")
    which.add_argument("--seeds", metavar="A..B", help="all seeds from A up to, not including, B")
    which.add_argument("--minutes", type=float, help="seeds from 0 up, for so long")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes for many seeds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the summary of many seeds")
    parser.add_argument("--shrink", action="store_true", help="look for a smaller plan that still fails")
    parser.add_argument("--faults", metavar="A,B", help="these instead of the seed's own; '' for none")
    parser.add_argument("--devices", type=int, help="so many instead of the seed's own")
    parser.add_argument("--replicas", type=int, help="so many instead of the seed's own")
    parser.add_argument("--faults-s", type=float, help="faults end after so many virtual seconds")
    given = parser.parse_args()
    if given.seed is not None:
        return one(given)
    until = time.monotonic() + (60 * given.minutes if given.minutes else DAY_S)
    first, _, end = (given.seeds or "0..").partition("..")
    seeds = range(int(first), int(end)) if end else count(int(first))
    began = time.monotonic()

    def keep(total: Summary, failed: list[int]) -> None:
        if given.json:
            text = json.dumps(figures(total, failed, time.monotonic() - began), indent=1)
            given.json.write_text(text + "\n", encoding="utf-8")

    total, failed = many(seeds, given.jobs, until, keep)
    keep(total, failed)
    tell(total, failed, time.monotonic() - began)
    if failed:
        print("replay with: " + "; ".join(Plan.of(seed).command() for seed in failed))
        return 1
    if MUST - total.met.keys() and total.seeds >= COVERING_SEEDS:
        print("so many seeds must meet everything: what they did not is a defect of the simulation")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
