"""One device: lives that end by a stop, a kill or a power cut, until one has brought everything home."""

import random
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

import attrs
import trio

from actors.pipeline import Pipeline, Ports, open_pipeline
from actors.ports.client import ApiKey, CloudClient
from actors.ports.lane import run_inline
from actors.ports.store import Store
from actors.settings import Settings, WhenFull
from chaos.sim import damage
from chaos.sim.books import Crash, Violation
from chaos.sim.callers import log_for_ever, log_once
from chaos.sim.coverage import speaker
from chaos.sim.host import Host
from chaos.sim.oracle import check_flushed, check_rest, check_stopped, handles_below
from chaos.sim.past import leave_behind
from chaos.sim.plan import DEATHS, Fault
from chaos.sim.scale import SETTING_MB
from chaos.sim.weather import befall, refuse_at_the_end

P = ParamSpec("P")
T = TypeVar("T")

STOP_MARGIN_S = 0.5
"""What the calls of a disk that is well may add to the grace of a stop."""
CAP_SLACK = 0.25
"""A stroke (rows flushed, evicted, confirmed, pages given back) passes through the write-ahead log while its rows still
lie where they were. Of a real buffer that is a hundredth; here it is large against the whole."""
CONVERGE_S = 300.0
"""After the healing, everything accepted must be in the cloud within this."""


@attrs.define(eq=False)
class Device:
    """The process on a host, life after life."""

    host: Host
    dead: set[int] = attrs.Factory(set)
    """Lives that were killed, by the number of their folder: their disk answers no more."""
    converged: bool = False
    rng: random.Random = attrs.field(init=False)
    _doomed_by: Fault = Fault.KILL
    _full: bool = False
    """Whether the buffer may have been near its cap when the stop began."""
    _given_up: int = 0
    """What earlier lives said that only memory had held."""
    _stores: dict[int, Store] = attrs.Factory(dict)
    """By the number of the life's folder."""

    def __attrs_post_init__(self) -> None:
        self.rng = self.host.dice("life")

    async def run(self) -> None:
        """Live until a life has brought the whole backlog home after the healing."""
        speaker.set(self.host.name)
        await trio.sleep(self.rng.random())
        if self.host.faces(Fault.UPGRADED):
            leave_behind(self.host)
        if self.host.faces(Fault.OLD_DEVICE):
            self.host.link.older = True
            self.host.met(Fault.OLD_DEVICE)
        while not self.converged:
            await self._live()
            self.host.lives += 1
            if not self.converged:
                await trio.sleep(self.rng.choice((0.01, 1.0, 15.0)) * self.rng.random())
                self._rot()
                if self.host.link.older and self.host.dice("release", self.host.lives).random() < 0.3:
                    self.host.link.older = False
                    self.host.tell("is of this release now")
        self.host.tell(f"has converged after {self.host.lives} lives and {self.host.drive.calls} calls of its disk")

    def _rot(self) -> None:
        """What may happen while it is off."""
        for fault, flip in (
            (Fault.FLIP_SEGMENT, damage.flip_segment),
            (Fault.FLIP_DATABASE, damage.flip_database),
            (Fault.FLIP_LOG, damage.flip_log),
        ):
            if self.host.faces(fault) and self.rng.random() < 0.5:
                what = flip(self.host.drive, self.host.books, self.rng)
                if what:
                    self.host.met(fault)
                    self.host.tell(what)

    # --- one life

    async def _live(self) -> None:
        """One life of the process, from its start to whatever end it takes."""
        host, life = self.host, self.host.drive.life
        if host.faces(Fault.CLOCK_1970) and self.rng.random() < 0.6:
            host.clock.forget()
            host.met(Fault.CLOCK_1970)
        host.drive.bytes_max = host.plan.capacity_bytes
        host.link.posts = host.link.duplicates = 0
        self._given_up = host.coverage.lost_from_memory[host.name]
        death = self._choose_death()
        with trio.CancelScope() as process:
            host.drive.on_fatal = lambda kind, inside: self._die(process, f"at {kind} {inside.rpartition('.')[2]}")
            if death is Fault.KILL_IN_START:
                self._doom(death)
            try:
                await self._run_process(death, process)
            except* Violation:
                raise
            except* Exception as group:
                raise Crash(f"G5: the process of {host.name} crashed: {group.exceptions!r}") from group
        host.drive.spare()
        self._bury(life)
        if host.drive.passed_by > CAP_SLACK * host.drive.bytes_max:
            raise Violation(f"G7: {host.drive.passed_by} bytes beyond the cap of {host.drive.bytes_max}")

    async def _run_process(self, death: Fault | None, process: trio.CancelScope) -> None:
        settings = self._settings()
        async with open_pipeline(settings, self._ports(settings)) as pipeline:
            self._greet(pipeline)
            await self._work_through(pipeline, death, process)
            began, self._full = trio.current_time(), self.host.nearly_full
            if death is Fault.KILL_IN_STOP and self.host.faces(death):
                self._doom(death)
            if self.host.faces(Fault.SECOND_SIGNAL) and self.rng.random() < 0.5:
                self.host.met(Fault.SECOND_SIGNAL)
                pipeline.skip_network()
        if not process.cancel_called:
            self._look_at_what_stopped(pipeline, settings, trio.current_time() - began)

    def _greet(self, pipeline: Pipeline) -> None:
        recovered = pipeline.recovered
        self.host.tell(f"life {self.host.lives} begins: {recovered}")
        for seen, what in (
            (recovered.predictions, "replay"),
            (recovered.lost, "segment lost a record"),
            (recovered.buffer_set_aside, "mode: database set aside"),
        ):
            if seen:
                self.host.coverage(what)

    def _look_at_what_stopped(self, pipeline: Pipeline, settings: Settings, took_s: float) -> None:
        host = self.host
        host.tell(f"stopped in {took_s:.3f} s")
        well = host.well_since(trio.current_time() - took_s)
        if took_s > settings.shutdown_grace_seconds + STOP_MARGIN_S and well:
            raise Violation(f"G6: {host.name} took {took_s:.3f} s to stop, of {settings.shutdown_grace_seconds}")
        dropped = check_stopped(host.drive, host.books, pipeline, host.lives)
        given_up = host.coverage.lost_from_memory[host.name] - self._given_up
        host.books.stopped[host.lives] = dropped + given_up
        if well and host.drive.life in self._stores:  # else nothing was opened that could be flushed
            check_flushed(host.drive, host.books)
        if well and given_up and not (self._full or host.nearly_full):
            raise Violation(f"G1: {given_up} are lost from memory, and the disk is well")
        if self.converged:
            check_rest(host.books, pipeline.status(), settings, host.link)

    async def _work_through(self, pipeline: Pipeline, death: Fault | None, process: trio.CancelScope) -> None:
        """Callers log, things befall the device, until its time is over; a life that sees the healing converges."""
        host, life = self.host, self.host.drive.life
        lasts_s = host.plan.calm_s * self.rng.choice((1, 7, 20, 60))
        async with trio.open_nursery() as nursery:
            for caller in range(host.dice("callers").choice((1, 1, 2))):
                nursery.start_soon(log_for_ever, host, pipeline, host.dice("caller", caller, host.lives))
            nursery.start_soon(self._watch, pipeline)
            with trio.move_on_after(lasts_s) as lifetime:
                async with trio.open_nursery() as outside:
                    outside.start_soon(befall, host)
                    if death is Fault.KILL_AT_CALL:
                        outside.start_soon(self._doom_later, self.rng.random() * lasts_s)
                    await host.healing.wait()
                    outside.cancel_scope.cancel()
            if lifetime.cancelled_caught and death is Fault.KILL and host.faces(death) and life not in self.dead:
                self._doomed_by = death
                self._die(process, "at rest")
            if lifetime.cancelled_caught and life not in self.dead:
                await refuse_at_the_end(host)
            if lifetime.cancelled_caught and self.rng.random() < 0.5:
                host.drive.heal()  # so late that nothing but the stop brings what is left to the disk
            if not lifetime.cancelled_caught:
                host.heal()
                await trio.sleep(self.rng.choice((0.0, 5.0)))
            nursery.cancel_scope.cancel()
        if not lifetime.cancelled_caught:
            await self._converge(pipeline)

    async def _converge(self, pipeline: Pipeline) -> None:
        """With all faults over, the whole backlog must come home in time."""
        host = self.host
        settled_s = 1.0 + 2 * host.plan.tidy_every_s
        with trio.move_on_after(CONVERGE_S) as patience:
            await trio.sleep(settled_s)
            await log_once(host, pipeline, host.dice("last"))
            await pipeline.cells.books.wait_value(lambda books: books.pending == 0)
            await trio.sleep(settled_s)
        if patience.cancelled_caught:
            raise Violation(f"{host.name} did not converge within {CONVERGE_S:g} s: {pipeline.status()}")
        self.converged = True
        host.tell("converged")

    async def _watch(self, pipeline: Pipeline) -> None:
        """See which modes it is in."""
        host = self.host
        while True:
            await trio.sleep(host.plan.tidy_every_s)
            host.note_health()
            books = pipeline.cells.books.value
            for seen, what in (
                (books.degraded, "mode: SQLite takes the commits"),
                (books.evicted, "evicted"),
                (books.evicted and host.plan.when_full is WhenFull.DROP_OLDEST, "full: drop_oldest"),
                (books.trouble.startswith("buffer full") and host.plan.when_full is WhenFull.BLOCK, "full: block"),
            ):
                if seen:
                    host.coverage(what)

    # --- deaths

    def _choose_death(self) -> Fault | None:
        deaths = [fault for fault in DEATHS if self.host.faces(fault)]
        return self.rng.choice(deaths) if deaths and self.rng.random() < 0.7 else None

    def _doom(self, death: Fault) -> None:
        """It will die at one of its next calls to the disk."""
        drive = self.host.drive
        if death is Fault.KILL_AT_CALL and self.rng.random() < 0.6:
            drive.fatal_after = self.rng.choice("urt")
        else:
            drive.fatal_in = self.rng.randrange(1, 12 if death is Fault.KILL_IN_STOP else 60)
        self._doomed_by = death

    async def _doom_later(self, after_s: float) -> None:
        await trio.sleep(after_s)
        self._doom(Fault.KILL_AT_CALL)

    def _die(self, process: trio.CancelScope, when: str) -> None:
        """SIGKILL, or the power: this life's disk answers no more, the next life finds what is left."""
        host = self.host
        self.dead.add(host.drive.life)
        power_cut = host.faces(Fault.POWER_CUT) and self.rng.random() < (0.9 if host.drive.fatal_after else 0.5)
        if power_cut:
            damage.note_unsynced(host.drive, host.books)
        left = host.drive.move(power_cut=power_cut)
        host.met(self._doomed_by)
        if power_cut:
            host.met(Fault.POWER_CUT)
        host.tell(f"{self._doomed_by.value} {when}; left: {left}")
        process.cancel()

    def _bury(self, life: int) -> None:
        """The system closes what a dead process had open."""
        store = self._stores.pop(life, None)
        if store is not None and life in self.dead and handles_below(self.host.drive.host / str(life)):
            store.close()

    # --- ports

    def _settings(self) -> Settings:
        """Small times, so that much happens in few virtual minutes; some stay the same over all lives."""
        host = self.host
        always, now = host.dice("settings"), host.dice("settings", host.lives)
        return Settings(
            cloud_logging_endpoint="http://cloud.test/log",
            edge_device_id=host.name,
            batch_size=now.choice((1, 4, 16, 32)),
            batch_timeout_seconds=now.choice((0.5, 2.0, 10.0)),
            timeout_seconds=now.choice((2.0, 10.0)),
            max_retries=now.choice((0, 1, 3)),
            connectivity_interval_seconds=min(30.0, host.plan.calm_s * now.choice((2, 10))),
            buffer_max_size_mb=SETTING_MB,
            buffer_cleanup_days=always.choice((0.0, 0.0005, 7.0)),
            buffer_when_full=host.plan.when_full,
            enable_session_buffering=now.random() < 0.9,
            buffer_flush_interval=now.choice((1, 1, 5)),
            shutdown_grace_seconds=now.choice((1.0, 10.0)),
            recovery_max_per_second=now.choice((None, None, 20.0)),
            buffer_db_path=host.drive.folder / "buffer.db",
        )

    def _ports(self, settings: Settings) -> Ports:
        """The real ports, on this host's clock, chance, disk and link."""
        host, life = self.host, self.host.drive.life
        ids = host.dice("streams", host.lives)
        client = CloudClient(
            settings.cloud_logging_endpoint,
            timeout_s=settings.timeout_seconds,
            key=ApiKey(),
            run_sync=run_inline,
            transport=host.link,
        )
        return Ports(
            now=host.clock,
            rng=host.dice("actors", host.lives),
            lane=lambda: self._lane(life),
            sources=(),
            client=client,
            new_id=lambda _: f"stream-{ids.randrange(2**32):08x}",
            sync=damage.fdatasync,
        )

    def _lane(self, life: int) -> Callable[..., Awaitable[Any]]:
        """The disk of one life: a little slow, and silent once that life is over."""
        rng = self.host.dice("lane", life)

        async def run(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
            closing = getattr(function, "__name__", "") == "close"
            if life not in self.dead:
                await self._take_time(rng)
            if life in self.dead and not closing:
                await trio.sleep_forever()
            result = function(*args, **kwargs)
            if isinstance(result, Store):
                self._stores[life] = result
            if life in self.dead and not closing:
                await trio.sleep_forever()  # the process is gone; only its handles are still to be closed
            return result

        return run

    async def _take_time(self, rng: random.Random) -> None:
        slow_s = self.host.drive.slow_s
        if slow_s or rng.random() < 0.3:
            await trio.sleep(rng.expovariate(1 / (0.005 + slow_s)))
        else:
            await trio.lowlevel.checkpoint()
