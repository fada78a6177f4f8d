"""The seam between the loop and blocking work: one call at a time, in a worker thread or, in tests, inline."""

from collections.abc import Awaitable, Callable
from typing import ParamSpec, Protocol, TypeVar

import trio

P = ParamSpec("P")
T = TypeVar("T")


class RunSync(Protocol):
    """Runs `function(*args)` away from the loop and returns what it returns. Calls never overlap."""

    def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        """Run it; a call that has begun is never abandoned, one that has not begun is skipped when cancelled."""
        ...


def thread_lane() -> RunSync:
    """A lane of its own: one worker thread at a time, but not always the same one."""
    limiter = trio.CapacityLimiter(1)

    async def run(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await trio.to_thread.run_sync(lambda: function(*args, **kwargs), limiter=limiter)

    return run


def leaving_lane(hung_max: int = 3) -> RunSync:
    """A lane for calls that may hang: one that is cancelled is left behind in its thread, and the next one goes on.

    At most `hung_max` threads are left behind; then a call waits until one of them comes back. Their results are lost.
    """
    limiter = trio.CapacityLimiter(1 + hung_max)

    async def run(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await trio.to_thread.run_sync(lambda: function(*args, **kwargs), limiter=limiter, abandon_on_cancel=True)

    return run


async def run_inline(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """The lane of tests on a virtual clock, where a thread would let the clock run away."""
    await trio.lowlevel.checkpoint()
    return function(*args, **kwargs)
