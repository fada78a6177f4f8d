"""The clock is wrong: a day back, a year ahead, 1970, and right again."""

import signal

import trio

from chaos.machine import fake_clock_libraries
from chaos.stage import Stage

NEEDS = ("fake clock",)
CLOCKS = ("", "-1d", "+365d", "1970-01-01 00:00:10", "")
"""As libfaketime takes them; the monotonic clock goes on as it does when somebody sets the time."""


def told_the_time(clock: str) -> tuple[str, ...]:
    """The start of a command line that lets a process believe the clock."""
    library = fake_clock_libraries()[0]
    return ("env", "FAKETIME_DONT_FAKE_MONOTONIC=1", f"LD_PRELOAD={library}", f"FAKETIME={clock}")


async def play(stage: Stage) -> None:
    """A life in each of these times, some of them offline; numbers rule, not clocks."""
    async with stage.cloud():
        for number, clock in enumerate(CLOCKS):
            stage.wrappers = told_the_time(clock) if clock else ()
            (stage.proxy.sever if number % 2 else stage.proxy.heal)()
            stage.tell(f"a life in a time that is {clock or 'right'}")
            async with stage.device() as device:
                await trio.sleep(1.0 if stage.short else 10.0)
                await device.end(signal.SIGTERM)
        stage.wrappers = ()
        stage.proxy.heal()
        async with stage.device(tasks=0) as device:
            await stage.finish(device)
