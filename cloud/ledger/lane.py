"""The seam between the loop and the database: one call at a time, in a worker thread or, in tests, inline."""

from collections.abc import Awaitable, Callable
from typing import ParamSpec, Protocol, TypeVar

import trio

P = ParamSpec("P")
T = TypeVar("T")


class RunSync(Protocol):
    """Runs `function(*args)` away from the loop and returns what it returns. Calls never overlap."""

    def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        """Run it. Cancelled, a call that has not begun is skipped; one that has begun goes on, its result is lost."""
        ...


def thread_lane(calls_max: int = 1) -> RunSync:
    """A lane of its own: so many worker threads at a time, but not always the same ones.

    A call that is cancelled is left behind in its thread, since a store may hang for ever. It keeps its place until it
    is over: with one place calls never overlap.
    """
    limiter = trio.CapacityLimiter(calls_max)

    async def run(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await trio.to_thread.run_sync(lambda: function(*args, **kwargs), limiter=limiter, abandon_on_cancel=True)

    return run


async def run_inline(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """The lane of tests on a virtual clock, where a thread would let the clock run away."""
    await trio.lowlevel.checkpoint()
    return function(*args, **kwargs)
