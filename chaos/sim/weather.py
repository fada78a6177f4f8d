"""What befalls a device while it works: outages, a disk that refuses, a clock that jumps."""

import random

import trio

from chaos.sim.damage import flip_database
from chaos.sim.host import Host
from chaos.sim.plan import DISK_WEATHER, Fault

YEAR_S = 31_536_000.0


async def befall(host: Host) -> None:
    """All that the plan holds, until cancelled."""
    async with trio.open_nursery() as nursery:
        if Fault.OUTAGE in host.plan.faults:
            nursery.start_soon(_flap, host)
        for fault in DISK_WEATHER:
            if fault in host.plan.faults:
                nursery.start_soon(_spoil_the_disk, host, fault)
        if Fault.FLIP_DATABASE in host.plan.faults:
            nursery.start_soon(_rot, host)
        if Fault.CLOCK_JUMP in host.plan.faults:
            nursery.start_soon(_move_the_clock, host)
        if host.clock.forgotten:
            nursery.start_soon(_set_the_clock_late, host)


async def _pause(host: Host, rng: random.Random, calls: float) -> None:
    """As long as a caller takes for so many log() calls, on average."""
    await trio.sleep(host.plan.calm_s * rng.expovariate(1 / calls))


async def _flap(host: Host) -> None:
    rng = host.dice("outages", host.lives)
    while True:
        await _pause(host, rng, rng.choice((1, 7, 20)))
        host.link.up = not host.link.up
        host.tell("link up" if host.link.up else "link down")


async def _spoil_the_disk(host: Host, fault: Fault) -> None:
    rng = host.dice(fault, host.lives)
    while True:
        await _pause(host, rng, 13)
        _spoil(host, fault, rng)
        host.note_health()
        await _pause(host, rng, rng.choice((0.3, 3)))
        host.note_health()
        host.drive.heal()
        host.tell("the disk is well")


async def _rot(host: Host) -> None:
    """A bit of the database flips under the running device, which may hold the page in memory or not."""
    rng = host.dice("rot", host.lives)
    while True:
        await _pause(host, rng, 40)
        if what := flip_database(host.drive, host.books, rng, running=True):
            host.met(Fault.FLIP_DATABASE)
            host.tell(f"while it runs {what}")


async def refuse_at_the_end(host: Host) -> None:
    """The disk takes nothing until the very moment of a stop: nobody looks any more whether it does again."""
    rng = host.dice("the end", host.lives)
    faults = [fault for fault in (Fault.DISK_FULL, Fault.DISK_READ_ONLY) if host.faces(fault)]
    if faults and rng.random() < 0.3:
        _spoil(host, rng.choice(faults), rng)
        host.note_health()
        await _pause(host, rng, 3)
        host.drive.heal()


def _spoil(host: Host, fault: Fault, rng: random.Random) -> None:
    drive = host.drive
    match fault:
        case Fault.DISK_FULL:
            drive.taken_bytes = max(0, drive.free_bytes - rng.choice((0, 0, 4_096, 60_000)))
        case Fault.DISK_READ_ONLY:
            drive.read_only = True
        case Fault.DISK_NO_SYNC:
            drive.sync_fails = True
        case Fault.JOURNAL_FAILS:
            drive.journal_fails = True
        case Fault.DISK_SLOW:
            drive.slow_s = rng.choice((0.05, 0.3))
            host.met(fault)
        case _:
            raise AssertionError(fault)
    host.tell(fault.value)


async def _move_the_clock(host: Host) -> None:
    rng = host.dice("clock jumps", host.lives)
    while True:
        await _pause(host, rng, 10)
        host.clock.off_s += rng.choice((-86_400.0, -30.0, 2.0, 3_600.0, YEAR_S))
        host.met(Fault.CLOCK_JUMP)
        host.tell("the clock jumps")


async def _set_the_clock_late(host: Host) -> None:
    await _pause(host, host.dice("time server", host.lives), 7)
    host.clock.set_right()
    host.tell("the clock is set right")
