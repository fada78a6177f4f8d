"""`make bench-storage`: what it costs to make a prediction durable, beside the disk's own limit and beside the peers.

`python -m bench.storage --quick` takes two minutes instead of five: fewer rounds, a smaller backlog, a shorter day.
"""

import contextlib
import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import attrs

from bench import backlog, ours, peers, wear
from bench.child import call, quiet
from bench.load import entries, predictions
from bench.table import OUT, Line, interleaved, machine, median, note, ratio, show

MS = 1e3


@attrs.frozen
class Size:
    """How much of everything is measured."""

    rounds: int = 5
    singles: int = 400
    records: int = 30_000
    sustained: int = 100_000
    """In calls of `log_many()`: a second or two, since in a tenth of that the last checkpoint is all that counts."""
    backlog: int = 1_000_000
    hours: int = 24
    seconds: float = 20.0


QUICK = Size(rounds=3, singles=200, records=20_000, sustained=30_000, backlog=100_000, hours=2, seconds=6.0)


@attrs.define
class Bench:
    """One run: its folder on the real disk, its size, and the lines so far."""

    root: Path
    size: Size
    numbers: Iterator[int] = attrs.field(factory=itertools.count)
    lines: list[Line] = attrs.field(factory=list)

    def place(self) -> Path:
        """A folder that nobody has used yet."""
        return self.root / f"{next(self.numbers):03d}"

    def once(self, run: Callable[[Path], float]) -> Callable[[], float]:
        """`run` in a folder of its own, which is deleted at once: a hundred thousand records lie in each."""

        def measured() -> float:
            place = self.place()
            try:
                return run(place)
            finally:
                shutil.rmtree(place)

        return measured

    def against(self, contenders: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
        """Interleaved rounds."""
        return interleaved(contenders, self.size.rounds)

    # --- accepting

    def one_at_a_time(self) -> None:
        """log() to receipt."""
        load = list(predictions(self.size.singles))
        seen = self.against(
            {
                "limit": lambda: median(peers.latencies(peers.Limit, self.place(), load)) * MS,
                "naive": lambda: median(peers.latencies(peers.Naive, self.place(), load)) * MS,
                "ours": lambda: median(ours.latencies(self.place(), load)) * MS,
            }
        )
        limit, mine = median(seen["limit"]), median(seen["ours"])
        self.lines.append(
            Line(
                "durable accept, one at a time, p50",
                f"{mine:.2f} ms",
                f"limit {limit:.2f} ms, naive {median(seen['naive']):.2f} ms",
                ratio(seen["ours"], seen["limit"]),
                "<= 2.0 x limit + 0.2 ms",
                median([o - 2 * its for o, its in zip(seen["ours"], seen["limit"], strict=True)]) <= 0.2,
            )
        )

    def many_tasks(self) -> None:
        """Group commit at work."""
        load = list(predictions(self.size.records))
        seen = self.against(
            {
                "limit": lambda: peers.rate(peers.Limit, self.place(), load, 32),
                "32 tasks": lambda: ours.rate_of_tasks(self.place(), load, 32),
                "1,000 tasks": lambda: ours.rate_of_tasks(self.place(), load, 1_000),
            }
        )
        of_limit = ratio(seen["32 tasks"], seen["limit"])
        growth = ratio(seen["1,000 tasks"], seen["32 tasks"])
        limit = f"limit in 32s {per_s(seen['limit'])}"
        self.lines += [
            Line("log() by 32 tasks at once", per_s(seen["32 tasks"]), limit, of_limit, ">= 0.25", of_limit >= 0.25),
            Line(
                "log() by 1,000 tasks at once",
                per_s(seen["1,000 tasks"]),
                f"32 tasks {per_s(seen['32 tasks'])}",
                growth,
                ">= 1.5",
                growth >= 1.5,
            ),
        ]

    def calls(self, size: int, target: float) -> None:
        """log_many() until all is in SQLite, beside the naive reference and the peers in the same groups."""
        load = list(predictions(self.size.sustained))
        contenders: dict[str, Callable[[], float]] = {
            "limit": self.once(lambda place: peers.rate(peers.Limit, place, load, size)),
            "naive": self.once(lambda place: peers.rate(peers.Naive, place, load, size)),
            "ours": self.once(lambda place: ours.rate_of_calls(place, load, size)),
            "ours, 4 callers": self.once(lambda place: ours.rate_of_calls(place, load, size, callers=4)),
        }
        if size == 32:
            for name, make in peers.PEERS.items():
                contenders[name] = self.once(partial(peers.rate, make, load=load, size=32))
        seen = self.against(contenders)
        for name in ("ours", "ours, 4 callers"):
            of_naive = ratio(seen[name], seen["naive"])
            self.lines.append(
                Line(
                    f"log_many() in {size:,}s, flush included" + name.removeprefix("ours"),
                    per_s(seen[name]),
                    f"naive {per_s(seen['naive'])}, limit {per_s(seen['limit'])}",
                    of_naive,
                    f">= {target:.1f}",
                    of_naive >= target,
                )
            )
        for name in peers.PEERS if size == 32 else ():
            ahead = ratio(seen["ours"], seen[name])
            self.lines.append(
                Line("the same beside", per_s(seen["ours"]), f"{name} {per_s(seen[name])}", ahead, "> 1", ahead > 1)
            )

    # --- wear

    def bytes_written(self, size: int, count: int, of_limit: float, of_naive: float) -> None:
        """Over a prediction's whole life."""
        seen = wear.measure(self.root, count, size, range(min(3, self.size.rounds)))
        by_limit, by_naive = ratio(seen["device"], seen["limit"]), ratio(seen["device"], seen["naive"])
        name = "bytes written a prediction, " + ("one at a time" if size == 1 else f"in {size}s")
        mine = f"{median(seen['device']):,.0f}"
        limit, naive = f"limit {median(seen['limit']):,.0f}", f"naive {median(seen['naive']):,.0f}"
        self.lines += [
            Line(name, mine, limit, by_limit, f"<= {of_limit:g}", by_limit <= of_limit),
            Line(name, mine, naive, by_naive, f"<= {of_naive:g}", by_naive <= of_naive),
        ]

    # --- over time

    def stalls(self) -> None:
        """The loop's gaps while 2,000 a second are accepted and reclaimed."""
        bare = call("bench.steady:bare_stalls", seconds=self.size.seconds / 2)
        mine = call("bench.steady:stalls", folder=self.place(), seconds=self.size.seconds)
        beside = f"an idle loop on this machine: p99 {bare['p99']:.1f} ms, max {bare['max']:.1f} ms"
        self.lines += [
            Line("gap of a 1 ms ticker, p99", f"{mine['p99']:.1f} ms", beside, None, "< 5 ms", mine["p99"] < 5),
            Line("gap of a 1 ms ticker, max", f"{mine['max']:.1f} ms", beside, None, "< 50 ms", mine["max"] < 50),
            Line("longest accept meanwhile", f"{mine['accept']:.0f} ms"),
        ]

    def day(self) -> None:
        """30 a second, online, on a simulated clock. The cap shrinks with the hours, so that it is reached."""
        hours = self.size.hours
        cap = 500 if hours == 24 else 48
        seen = call("bench.steady:day", folder=self.place(), hours=hours, per_s=30, capacity_mb=cap)
        exact = "exact" if seen["exact"] else "wrong"
        self.lines.append(
            Line(
                f"{hours} h of 30 a second (simulated clock)",
                f"at most {seen['max']:.0f} MiB, at the end {seen['end']:.0f}; {seen['count']:,.0f} counted, {exact}",
                f"cap {cap} MiB",
                seen["max"] / cap,
                "<= 1, counters exact",
                bool(seen["max"] <= cap and seen["exact"]),
            )
        )

    # --- a backlog

    def backlogs(self) -> None:
        """Pages, start and memory with a backlog."""
        count = self.size.backlog
        big, small, empty = self.place(), self.place(), self.place()
        empty.mkdir()
        for folder, size in ((big, count), (small, 10_000)):
            call("bench.backlog:build", folder=folder, count=size)
        self._memory(empty, small, big, f"{count:,}")
        self._pages(big, f"{count:,}")
        entry = entries(list(predictions(1)))[0]
        starts = []
        for _ in range(self.size.rounds):
            backlog.leave_orphan(big, entry)
            starts.append(float(call("bench.backlog:start", folder=big)))
        self.lines.append(
            Line(
                f"start with {count:,} pending and 8 MiB of orphaned journal",
                f"{median(starts):.2f} s",
                "",
                None,
                "< 1.5 s",
                median(starts) < 1.5,
            )
        )

    def _memory(self, empty: Path, small: Path, big: Path, count: str) -> None:
        idle, some, most = (call("bench.backlog:memory", folder=folder, seconds=3) for folder in (empty, small, big))
        above, growth = most["peak"] - idle["peak"], most["peak"] - some["peak"]
        beside = f"idle {idle['peak']:.0f} MiB"
        self.lines += [
            Line(f"memory with {count} pending, at its peak", f"+{above:.1f} MiB", beside, None, "<= 25", above <= 25),
            Line(f"the same, {count} against 10,000", f"{growth:+.1f} MiB", "", None, "flat", growth < 5),
        ]

    def _pages(self, folder: Path, count: str) -> None:
        mine, bare = [], []
        for _ in range(self.size.rounds):
            bare.append(float(call("bench.backlog:read_bare", folder=folder)))
            mine.append(call("bench.backlog:read_pages", folder=folder))
        rates, last = [seen["per_s"] for seen in mine], median([seen["last"] / seen["first"] for seen in mine])
        self.lines += [
            Line(
                f"pages of 500 from a backlog of {count}",
                per_s(rates),
                f"SQLite alone {per_s(bare)}",
                ratio(rates, bare),
                ">= 200 k/s",
                median(rates) >= 200_000,
            ),
            Line("the last pages against the first", f"{last:.2f} x", "", last, "<= 1.2", last <= 1.2),
        ]


def per_s(values: list[float]) -> str:
    """A rate as a person reads it."""
    return f"{median(values) / 1e3:,.1f} k/s"


def main() -> None:
    """Measure everything and print the table."""
    quiet()
    size = QUICK if "--quick" in sys.argv else Size()
    OUT.mkdir(exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="storage-", dir=OUT))
    note(f"storage, on {machine()}, in {root}")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        bench = Bench(root, size)
        bench.one_at_a_time()
        bench.many_tasks()
        bench.calls(32, 1.0)
        bench.calls(1_000, 0.8)
        bench.bytes_written(1, size.singles * 10, 1.6, 0.25)
        bench.bytes_written(32, size.records, 5.0, 0.75)
        bench.stalls()
        bench.backlogs()
        bench.day()
        show("storage", bench.lines)


if __name__ == "__main__":
    main()
