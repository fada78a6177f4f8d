"""One run: faults, then everything heals, then all must be home, then the verdict."""

import gc
import hashlib
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path

import attrs
import structlog
import trio
import trio.testing

from chaos.sim.books import Violation
from chaos.sim.calls import python_intercepted
from chaos.sim.clock import Clock
from chaos.sim.cloud import Cloud, stricter_cloud
from chaos.sim.coverage import Coverage, listen, now_s
from chaos.sim.device import Device
from chaos.sim.drive import Drive, Mounts
from chaos.sim.figures import check_cloud_metrics
from chaos.sim.host import Host
from chaos.sim.link import Link
from chaos.sim.oracle import Stored, ask_the_cloud, check_cloud, check_memory, handles_below
from chaos.sim.plan import PER_REQUEST, Plan, chance
from chaos.sim.scale import scaled
from chaos.sim.sqlite_calls import sqlite_intercepted

LAST_EVENTS = 40
DEADLINE_S = 4_000.0
"""No run lasts longer: what hangs is found by the clock."""
ENDS = (ExceptionGroup, Violation, trio.TooSlowError)
"""What a run may raise that does not reach its end."""


@attrs.define
class Summary:
    """What one run did. `trace` is a hash of all that happened; equal plans give equal ones."""

    seed: int = 0
    seeds: int = 1
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    accepted: int = 0
    stored: int = 0
    explained: int = 0
    duplicates: int = 0
    unnumbered: int = 0
    lives: int = 0
    calls: int = 0
    """Calls to the simulated disks."""
    met: Counter[str] = attrs.Factory(Counter)
    trace: str = ""

    def add(self, other: "Summary") -> None:
        """Take another run's counts in."""
        for name in (
            *("seeds", "virtual_s", "cpu_s", "accepted", "stored", "explained"),
            *("duplicates", "unnumbered", "lives", "calls"),
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.met += other.met


@attrs.define(eq=False)
class Story:
    """What happens, as lines: all of it goes into the hash, the last lines are kept for whoever asks."""

    told: Callable[[str], object] | None = None
    root: str = "/"
    """A temporary folder, whose name is another one in each run."""
    last: deque[str] = attrs.Factory(lambda: deque(maxlen=LAST_EVENTS))
    count: int = 0
    _hash: "hashlib._Hash" = attrs.Factory(hashlib.sha256)

    def tell(self, event: str) -> None:
        """One line."""
        line = f"{now_s():10.3f}  {event.replace(self.root, '…')}"
        self.count += 1
        self._hash.update(line.encode())
        self.last.append(line)
        if self.told:
            self.told(line)

    @property
    def digest(self) -> str:
        """The hash so far."""
        return self._hash.hexdigest()[:16]


@attrs.define(eq=False)
class World:
    """Everything that one plan brings together."""

    plan: Plan
    root: Path
    mounts: Mounts
    story: Story
    coverage: Coverage

    async def run(self) -> Summary:
        """Faults, heal, converge, verdict."""
        healing = trio.Event()
        tasks = trio.lowlevel.current_statistics().tasks_living
        cloud = Cloud(
            plan=self.plan,
            drive=self._drive("cloud"),
            rng=chance(self.plan.seed, "cloud"),
            now=Clock(),
            tell=lambda event: self.story.tell(f"cloud: {event}"),
            coverage=self.coverage,
        )
        with trio.fail_after(DEADLINE_S):
            async with trio.open_nursery() as backdrop:
                await cloud.run(backdrop)
                devices = [self._device(number, cloud, backdrop, healing) for number in range(self.plan.devices)]
                async with trio.open_nursery() as nursery:
                    for device in devices:
                        nursery.start_soon(device.run)
                    await trio.sleep(self.plan.faults_s)
                    self.story.tell("everything heals")
                    cloud.heal()
                    healing.set()
                before = await cloud.metrics()
                stored = await ask_the_cloud(cloud, [device.host.name for device in devices])
                said = dict(cloud.said)
                after = await cloud.metrics()
                backdrop.cancel_scope.cancel()
        if leaked := handles_below(self.root):
            raise Violation(f"handles are left open: {leaked}")
        if (left := trio.lowlevel.current_statistics().tasks_living - tasks) > 0:
            raise Violation(f"{left} tasks are left")
        if before and after:
            streams = chain.from_iterable(stored.audits.values())
            repeats = sum(stream["duplicates"] for stream in streams)
            check_cloud_metrics(before, after, said | {"ingested": stored.count, "duplicate": repeats})
        return self._judge(cloud, devices, stored)

    def _judge(self, cloud: Cloud, devices: list[Device], stored: Stored) -> Summary:
        summary = Summary(self.plan.seed, virtual_s=now_s(), stored=stored.count)
        for host in (device.host for device in devices):
            check_cloud(self.plan, host.books, stored, self.coverage)
            check_memory(host.books, stored)
            mine = stored.of(host.name)
            summary.accepted += len(host.books.given)
            summary.explained += len(host.books.given.keys() - mine.keys())
            summary.unnumbered += len(stored.unnumbered.get(host.name, ()))
            summary.duplicates += sum(stream["duplicates"] for stream in stored.audits[host.name])
            summary.lives += host.lives
            summary.calls += host.drive.calls
        if not cloud.deaths and cloud.said["ingested"] != stored.count:
            raise Violation(f"the cloud said {cloud.said['ingested']} times that it stored one, it has {stored.count}")
        summary.calls += cloud.drive.calls
        summary.met = self.coverage.met
        self.story.tell(f"{summary}")
        summary.trace = self.story.digest
        return summary

    def _drive(self, host: str) -> Drive:
        drive = Drive(self.root / host, self.mounts, chance(self.plan.seed, host, "drive"))
        drive.met = lambda what: self.coverage(f"fault: {'cloud ' if host == 'cloud' else ''}{what}")
        return drive

    def _device(self, number: int, cloud: Cloud, backdrop: trio.Nursery, healing: trio.Event) -> Device:
        drive = self._drive(f"device-{number}")
        link = Link(
            cloud,
            backdrop,
            chance(self.plan.seed, number, "link"),
            self.coverage,
            faults=tuple(fault for fault in PER_REQUEST if fault in self.plan.faults),
            fault_rate=self.plan.fault_rate,
        )
        return Device(Host(number, self.plan, drive, link, self.coverage, self.story.tell, healing))


@contextmanager
def seeded_trio(seed: int) -> Iterator[None]:
    """Trio's order of ready tasks is random on purpose; seeded, it is the same again.

    These are private names, and this is the one place that uses them.
    """
    run = trio._core._run  # noqa: SLF001
    before = run._ALLOW_DETERMINISTIC_SCHEDULING  # noqa: SLF001
    run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]  # noqa: SLF001
    run._r.seed(seed)  # noqa: SLF001
    try:
        yield
    finally:
        run._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]  # noqa: SLF001


@contextmanager
def nothing_collected() -> Iterator[None]:
    """When the collector comes depends on what the process did before, and what it closes was left open by somebody."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def run_plan(plan: Plan, *, told: Callable[[str], object] | None = None) -> Summary:
    """One run, from nothing to the verdict; what it raises names the plan, how to replay it, and the last events."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - only a faster place
    story, coverage = Story(told), Coverage()
    settings_before = structlog.get_config()
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=memory, prefix="holdfast-sim-")))
        mounts, story.root = Mounts(root), str(root)
        names = chance(plan.seed, "names")
        stack.enter_context(scaled(plan))
        stack.enter_context(stricter_cloud())
        stack.enter_context(sqlite_intercepted(mounts))
        stack.enter_context(python_intercepted(mounts, lambda: f"{names.randrange(1 << 16):04x}"))
        stack.enter_context(seeded_trio(plan.seed))
        stack.enter_context(nothing_collected())
        stack.callback(structlog.configure, **settings_before)
        listen(coverage, story.tell)
        began = time.process_time()
        try:
            clock = trio.testing.MockClock(autojump_threshold=0)
            summary: Summary = trio.run(World(plan, root, mounts, story, coverage).run, clock=clock)
        except BaseException as exc:
            last = "\n".join(story.last)
            exc.add_note(f"replay it with: {plan.command()}\nlast events:\n{last}")
            raise
        summary.cpu_s = time.process_time() - began
        return summary
