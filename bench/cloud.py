"""`make bench-cloud`: what the cloud takes and answers, beside its stores without a service before them.

`python -m bench.cloud --quick` takes a few minutes: fewer rounds, and a smaller store instead of five million.
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
import psycopg

from bench.child import ROOT, call, quiet
from bench.table import OUT, Line, machine, median, note, ratio, show
from chaos.postgres import Postgres, postgres

RATE_LIMIT = {"CLOUD_DEVICE_REQUESTS_PER_SECOND": "100000", "CLOUD_REQUESTS_MAX": "256"}
READS = 500
CROWD, IN_FLIGHT = 1_000, 200
PAGE = 100


@attrs.frozen
class Size:
    """How much of everything is measured."""

    rounds: int = 5
    small: int = 48_000
    large: int = 200_000
    stored: int = 5_000_000
    garbage: int = 10_000
    steady_s: float = 10.0


QUICK = Size(rounds=3, small=16_000, large=60_000, stored=300_000, garbage=2_000, steady_s=4.0)


@attrs.frozen
class Cloud:
    """A service of our own: where it listens, and its process."""

    endpoint: str
    pid: int

    def cpu_s(self) -> float:
        """CPU seconds so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mib(self, field: str) -> float:
        """`VmRSS` or `VmHWM`, in MiB."""
        text = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return int(re.findall(rf"{field}:\s+(\d+)", text)[0]) / 1024


@contextlib.contextmanager
def cloud(database: Path | str) -> Iterator[Cloud]:
    """The real service in a process of its own."""
    server = subprocess.Popen(
        [sys.executable, "-m", "cloud", "--bind", "127.0.0.1:0", "--database", str(database)],
        cwd=ROOT,
        env=os.environ | RATE_LIMIT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert server.stdout is not None
        found = re.search(r"http://[^ /\n]+", server.stdout.readline())
        assert found, "the server did not say where it listens"
        yield Cloud(found[0], server.pid)
    finally:
        server.terminate()
        server.wait(timeout=30)


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

    # --- the figures

    def into_sqlite(self, size: int, connections: int, count: int, target: float, share: float) -> None:
        """Over HTTP, and the same rows inserted directly; then the latency at half of that rate."""
        ours, direct, cpu = [], [], []
        for number in range(self.size.rounds):
            direct.append(call("bench.cloud_stores:insert", folder=self.place(), count=count, size=size))
            with cloud(self.place() / "cloud.db") as served:
                before = served.cpu_s()
                ours.append(
                    call(
                        "bench.cloud_load:post",
                        endpoint=served.endpoint, count=count, size=size, connections=connections,
                    )["per_s"]
                )  # fmt: skip
                cpu.append((served.cpu_s() - before) / count * 1e3)
            note(f"  round {number + 1}: {size}s, direct {direct[-1]:,.0f}, ours {ours[-1]:,.0f}")
        reached, of_direct = median(ours), ratio(ours, direct)
        name = f"ingest into SQLite, {size:,}s from {connections} connections"
        self.lines += [
            Line(name, per_s(ours), "", None, f">= {target / 1e3:.0f} k/s", reached >= target),
            Line(
                "the same", per_s(ours), f"direct inserts {per_s(direct)}", of_direct, f">= {share:.2f}",
                of_direct >= share,
            ),
            Line("CPU of the service a 1,000 taken", f"{median(cpu) * 1e3:.1f} ms"),
        ]  # fmt: skip
        with cloud(self.place() / "cloud.db") as served:
            seen = call(
                "bench.cloud_load:latency",
                endpoint=served.endpoint, per_s=reached / 2, size=size, connections=connections,
                seconds=self.size.steady_s,
            )  # fmt: skip
        self.lines.append(
            Line(
                f"POST of {size:,} at half of that rate, p99", f"{seen['p99']:.0f} ms", f"p50 {seen['p50']:.0f} ms",
                None, "<= 100 ms", seen["p99"] <= 100,
            )
        )  # fmt: skip

    def into_postgres(self) -> None:
        """Over HTTP from two connections, and a bare COPY of the same rows by one."""
        ours, bare, cpu = [], [], []
        with postgres(folder=self.root) as server:
            for number in range(self.size.rounds):
                bare.append(
                    call("bench.cloud_stores:copy", url=fresh(server, f"b{number}"), count=self.size.large, size=1_000)
                )
                with cloud(fresh(server, f"o{number}")) as served:
                    before = served.cpu_s()
                    ours.append(
                        call(
                            "bench.cloud_load:post",
                            endpoint=served.endpoint, count=self.size.large, size=1_000, connections=2,
                        )["per_s"]
                    )  # fmt: skip
                    cpu.append((served.cpu_s() - before) / self.size.large * 1e3)
                note(f"  round {number + 1}: PostgreSQL, COPY {bare[-1]:,.0f}, ours {ours[-1]:,.0f}")
        share = ratio(ours, bare)
        self.lines += [
            Line(
                "ingest into PostgreSQL, 1,000s from 2 connections", per_s(ours), f"bare COPY {per_s(bare)}", share,
                ">= 0.60", share >= 0.60,
            ),
            Line("CPU of the service a 1,000 taken", f"{median(cpu) * 1e3:.1f} ms"),
        ]  # fmt: skip

    def reads(self) -> None:
        """/stats of a small and a large store in turn; the first page of the large one and a deep one in turn."""
        few, many = self.place() / "few.db", self.place() / "many.db"
        call("bench.cloud_stores:fill", path=few, count=10_000)
        took = call("bench.cloud_stores:fill", path=many, count=self.size.stored)
        note(f"  filled {self.size.stored:,} in {took:.0f} s")
        with cloud(few) as small, cloud(many) as large:
            light, heavy = call(
                "bench.cloud_load:read",
                endpoints=[small.endpoint, large.endpoint], paths=["/stats", "/stats"], count=READS,
            )  # fmt: skip
            deep = deep_cursor(large.endpoint)
            first, last = call(
                "bench.cloud_load:read",
                endpoints=[large.endpoint] * 2,
                paths=[f"/predictions?limit={PAGE}", f"/predictions?limit={PAGE}&cursor={deep}"],
                count=READS // 2,
            )
        slower, deeper = heavy["p50"] / light["p50"], last["p50"] / first["p50"]
        self.lines += [
            Line(
                f"/stats with {self.size.stored:,} stored, p50", f"{heavy['p50']:.1f} ms",
                f"with 10,000 {light['p50']:.1f} ms", slower, "<= 1.20", slower <= 1.20,
            ),
            Line("the same, p99", f"{heavy['p99']:.1f} ms", "", None, "<= 20 ms", heavy["p99"] <= 20),
            Line(
                f"page of {PAGE} at the end of {self.size.stored:,}, p50", f"{last['p50']:.1f} ms",
                f"first page {first['p50']:.1f} ms", deeper, "<= 2", deeper <= 2,
            ),
        ]  # fmt: skip

    def crowd(self) -> None:
        """Connections that stay open, and a wave of requests at once."""
        with cloud(self.place() / "cloud.db") as served:
            seen = call("bench.cloud_load:crowd", endpoint=served.endpoint, devices=CROWD, in_flight=IN_FLIGHT, size=32)
            peak = served.memory_mib("VmHWM")
        assert seen["other"] == 0, seen
        self.lines.append(
            Line(
                f"memory with {CROWD:,} connected devices, {IN_FLIGHT} requests in flight", f"{peak:.0f} MiB",
                f"{seen['busy']:.0f} of {CROWD + IN_FLIGHT:,} told to come back", None, "<= 250 MB",
                peak * 1.048576 <= 250,
            )
        )  # fmt: skip

    def hostile(self) -> None:
        """Garbage, in two halves so that growth shows, and a good client beside it."""
        with cloud(self.place() / "cloud.db") as served:
            halves, memory = [], []
            for _ in range(2):
                halves.append(
                    call(
                        "bench.cloud_load:hostile",
                        endpoint=served.endpoint, count=self.size.garbage // 2, connections=4,
                    )
                )  # fmt: skip
                memory.append(served.memory_mib("VmRSS"))
        total = {key: sum(half[key] for half in halves) for key in halves[0]}
        growth, slowest = memory[1] - memory[0], max(half["good_p99"] for half in halves)
        self.lines += [
            Line(
                f"{total['sent']:,.0f} hostile requests: answered 5xx but 503", f"{total['crashed']:.0f}",
                f"cut off {total['cut']:.0f}", None, "0", total["crashed"] == 0,
            ),
            Line("the same, memory of the second half", f"{growth:+.1f} MiB", "", None, "flat", growth < 8),
            Line(
                "a good client beside them: refused", f"{total['good_failed']:.0f} of"
                f" {total['good'] + total['good_failed']:.0f}", f"p99 {slowest:.0f} ms", None, "0",
                total["good_failed"] == 0 and total["good"] > 0,
            ),
        ]  # fmt: skip


def fresh(server: Postgres, name: str) -> str:
    """The URL of a new database there."""
    with psycopg.connect(server.url(), autocommit=True) as db:
        db.execute(f"CREATE DATABASE {name}".encode())
    return server.url(name)


def deep_cursor(endpoint: str) -> str:
    """Where all but the last page's worth of the store lies behind."""
    found = call("bench.cloud_load:oldest", endpoint=endpoint, skip=2 * PAGE)
    return str(found)


def per_s(values: list[float]) -> str:
    """A rate as a person reads it."""
    return f"{median(values) / 1e3:,.1f} k/s"


def main() -> None:
    """Measure everything and print the table."""
    quiet()
    size = QUICK if "--quick" in sys.argv else Size()
    OUT.mkdir(exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="cloud-", dir=OUT))
    # The PostgreSQL server may run as somebody else.
    root.chmod(0o711)
    note(f"cloud, on {machine()}, in {root}")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        bench = Bench(root, size)
        # Also where a part fails: what was measured until then took minutes.
        stack.callback(lambda: show("cloud", bench.lines))
        bench.into_sqlite(32, 8, size.small, 12_000, 0.35)
        bench.into_sqlite(1_000, 2, size.large, 70_000, 0.60)
        bench.into_postgres()
        bench.reads()
        bench.crowd()
        bench.hostile()


if __name__ == "__main__":
    main()
