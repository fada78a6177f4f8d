"""`make bench-delivery`: what it costs to bring a backlog home, beside the cloud's own limit and a naive client.

`python -m bench.delivery --quick` takes three minutes: fewer rounds and a smaller backlog.
"""

import contextlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs

from bench.child import ROOT, call, quiet
from bench.herd import QUEUE_MAX
from bench.table import OUT, Line, machine, median, note, ratio, show

DELAY_S = 0.05
NAIVE_S = 3.0
PLAIN_IN_FLIGHT = 4


@attrs.frozen
class Size:
    """How much of everything is measured."""

    rounds: int = 5
    backlog: int = 200_000
    large: int = 1_000_000
    live: int = 500
    beside_live: int = 300_000
    naive: int = 100_000
    herd: int = 1_000


QUICK = Size(rounds=3, backlog=100_000, large=300_000, live=300, naive=100_000, herd=300)


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[str]:
    """A server of our own until the block ends; the address of its POST /log, as its first line says it."""
    server = subprocess.Popen(
        [sys.executable, "-m", *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert server.stdout is not None
        found = re.search(r"http://[^ /\n]+", server.stdout.readline())
        assert found, "the server did not say where it listens"
        yield f"{found[0]}/log"
    finally:
        server.terminate()
        server.wait(timeout=20)


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

    def cloud(self) -> contextlib.AbstractContextManager[str]:
        """The real cloud in a process of its own, its ledger empty."""
        return process("cloud", "--bind", "127.0.0.1:0", "--database", str(self.place() / "cloud.db"))

    def drain(self, template: Path, endpoint: str) -> dict[str, float]:
        """A device drains a copy of the template."""
        folder = self.place()
        shutil.copytree(template, folder)
        os.sync()
        seen: dict[str, float] = call("bench.drains:device", folder=folder, endpoint=endpoint)
        shutil.rmtree(folder)
        return seen

    # --- the figures

    def to_our_cloud(self, template: Path) -> None:
        """Until the last is confirmed; and what the cloud takes of a plain client, in turn."""
        mine, plain = [], []
        for number in range(self.size.rounds):
            with self.cloud() as endpoint:
                seen = self.drain(template, endpoint)
                mine.append(seen["per_s"])
            with self.cloud() as endpoint:
                plain.append(
                    call(
                        "bench.drains:plain_client",
                        endpoint=endpoint,
                        count=self.size.backlog,
                        size=round(seen["per_post"]),
                        in_flight=PLAIN_IN_FLIGHT,
                    )["per_s"]
                )
            size = f"{seen['per_post']:,.0f} a POST"
            note(f"  round {number + 1}: cloud, plain client {plain[-1]:,.0f}, ours {mine[-1]:,.0f}, {size}")
        share = ratio(mine, plain)
        name = f"drain of {self.size.backlog:,} to our own cloud"
        self.lines += [
            Line(name, per_s(mine), "", None, ">= 50 k/s", median(mine) >= 50_000),
            Line("the same", per_s(mine), f"a plain client {per_s(plain)}", share, ">= 0.75", share >= 0.75),
        ]

    def to_a_sink(self, template: Path, delay_s: float, target: float) -> None:
        """To a sink that only counts, and the naive reference to the same one."""
        mine, naive, cpu, naive_cpu = [], [], [], []
        with process("bench.sink", str(delay_s)) as endpoint:
            for number in range(self.size.rounds):
                seen = self.drain(template, endpoint)
                mine.append(seen["per_s"])
                cpu.append(seen["cpu_100k"])
                folder = self.place()
                call("bench.drains:naive_store", folder=folder, count=self.size.naive)
                seen = call("bench.drains:naive", folder=folder, endpoint=endpoint, seconds=NAIVE_S)
                naive.append(seen["per_s"])
                naive_cpu.append(seen["cpu_100k"])
                note(f"  round {number + 1}: sink {delay_s * 1e3:.0f} ms, naive {naive[-1]:,.0f}, ours {mine[-1]:,.0f}")
        what = f"answers after {delay_s * 1e3:.0f} ms" if delay_s else "only counts"
        self.lines.append(
            Line(
                f"drain to a sink that {what}",
                per_s(mine),
                f"naive {per_s(naive)}",
                ratio(mine, naive),
                f">= {target / 1e3:.0f} k/s",
                median(mine) >= target,
            )
        )
        if not delay_s:
            self.lines.append(
                Line(
                    "CPU on the device a 100,000 drained",
                    f"{median(cpu):.2f} s",
                    f"naive {median(naive_cpu):.2f} s",
                    ratio(cpu, naive_cpu),
                    "<= 0.5 s",
                    median(cpu) <= 0.5,
                )
            )

    def live(self, template: Path) -> None:
        """log() to confirmation, alone and while a backlog drains to the same cloud. So many that not the slowest one
        is the 99th percentile, and a backlog that lasts so long.
        """
        alone: list[dict[str, float]] = []
        busy: list[dict[str, float]] = []
        for _ in range(self.size.rounds):
            for seen, has_backlog in ((alone, False), (busy, True)):
                folder = self.place()
                if has_backlog:
                    shutil.copytree(template, folder)
                    os.sync()
                else:
                    folder.mkdir()
                with self.cloud() as endpoint:
                    seen.append(
                        call(
                            "bench.drains:live_latency",
                            folder=folder,
                            endpoint=endpoint,
                            count=self.size.live,
                            backlog=has_backlog,
                        )
                    )
                shutil.rmtree(folder)
                note(f"  live: { {name: round(value, 1) for name, value in seen[-1].items()} }")
        slower = ratio([seen["p99"] for seen in busy], [seen["p99"] for seen in alone])
        p99 = [median([seen["p99"] for seen in side]) for side in (busy, alone)]
        p50 = [median([seen["p50"] for seen in side]) for side in (busy, alone)]
        rate = per_s([seen["per_s"] for seen in busy])
        self.lines.append(
            Line(
                "live latency while a drain runs, p99",
                f"{p99[0]:.0f} ms (p50 {p50[0]:.0f}), beside {rate}",
                f"without a drain {p99[1]:.0f} ms (p50 {p50[1]:.0f})",
                slower,
                "<= 3",
                slower <= 3,
            )
        )

    def wire(self, size: int, target: float) -> None:
        """Compression; it is the same in every run."""
        seen = call("bench.drains:bytes_on_the_wire", size=size, count=32_000)
        share = seen["sent"] / seen["plain"]
        self.lines.append(
            Line(
                f"bytes on the wire a prediction, batches of {size:,}",
                f"{seen['sent']:.0f}",
                f"plain JSON {seen['plain']:.0f}",
                share,
                f"<= {target:.2f}",
                share <= target,
            )
        )

    def first_home(self) -> None:
        """The first delivery after the link returns: real time over a proxy, and an hour in virtual time."""
        for what, outage_s, target_s in (("30 s", 30.0, 2.0), ("an hour (virtual time)", 3_600.0, 35.0)):
            folder = self.place()
            if outage_s > 60:
                seen = call("bench.link:after_a_virtual_outage", folder=folder, devices=10, outage_s=outage_s)
            else:
                with process("bench.sink", "0") as endpoint:
                    seen = call(
                        "bench.link:after_an_outage", folder=folder, endpoint=endpoint, devices=10, outage_s=outage_s
                    )
            note(f"  first delivery after {what}: {[round(one, 2) for one in seen]}")
            self.lines.append(
                Line(
                    f"first delivery after an outage of {what}, median of 10",
                    f"{median(seen):.1f} s",
                    f"the slowest {max(seen):.1f} s",
                    None,
                    f"<= {target_s:.0f} s",
                    median(seen) <= target_s,
                )
            )

    def herd(self) -> None:
        """All devices return at once to a cloud that sheds load; the same in every run."""
        seen = call("bench.herd:herd", devices=self.size.herd, backlog=500)
        shed = f"its queue held {seen['queue']:.0f} of {QUEUE_MAX}, {seen['shed']:.0f} turned away"
        self.lines.append(
            Line(
                f"{self.size.herd:,} devices return at once, slowest against the mean",
                f"{seen['slowest_s']:.1f} s",
                f"mean {seen['mean_s']:.1f} s; {shed}",
                seen["ratio"],
                "<= 2",
                seen["ratio"] <= 2 and seen["queue"] <= QUEUE_MAX,
            )
        )

    def memory(self) -> None:
        """A large backlog to a sink that takes a moment, so that there is time to look."""
        template = self.place()
        call("bench.backlog:build", folder=template, count=self.size.large)
        with process("bench.sink", "0.01") as endpoint:
            seen = call("bench.drains:device", folder=template, endpoint=endpoint)
        shutil.rmtree(template)
        above, growth = seen["above_idle"], seen["growth"]
        name = f"memory while draining {self.size.large:,}"
        self.lines += [
            Line(name, f"+{above:.1f} MiB", "before the drain", None, "<= 40", above <= 40),
            Line("the same, last fifth against the second", f"{growth:+.1f} MiB", "", None, "flat", growth < 5),
        ]


def per_s(values: list[float]) -> str:
    """A rate as a person reads it."""
    return f"{median(values) / 1e3:,.1f} k/s"


def main() -> None:
    """Measure everything and print the table."""
    quiet()
    size = QUICK if "--quick" in sys.argv else Size()
    OUT.mkdir(exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="delivery-", dir=OUT))
    note(f"delivery, on {machine()}, in {root}")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        bench = Bench(root, size)
        template = bench.place()
        call("bench.backlog:build", folder=template, count=size.backlog)
        bench.to_our_cloud(template)
        bench.to_a_sink(template, 0.0, 250_000)
        bench.to_a_sink(template, DELAY_S, 70_000)
        lasting = bench.place()
        call("bench.backlog:build", folder=lasting, count=size.beside_live)
        bench.live(lasting)
        bench.wire(32, 0.30)
        bench.wire(1_000, 0.25)
        bench.first_home()
        bench.herd()
        bench.memory()
        show("delivery", bench.lines)


if __name__ == "__main__":
    main()
