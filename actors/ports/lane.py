"""The seam between the loop and blocking work: one call at a time, in a worker thread or, in tests, inline."""

import os
import threading
import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from queue import SimpleQueue
from typing import ParamSpec, Protocol, TypeVar, cast

import outcome
import trio

P = ParamSpec("P")
T = TypeVar("T")


class RunSync(Protocol):
    """Runs `function(*args)` away from the loop and returns what it returns. Calls never overlap."""

    def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        """Run it; cancelled, one that has not begun is skipped, and one that has is left only where that is said."""
        ...


def thread_lane(*, leaves: bool = False) -> RunSync:
    """A lane with a thread of its own, which lives as long as the lane and never keeps the process from ending.

    With `leaves` a call that is cancelled is left behind in its thread; the next one has a fresh one.
    """
    return _ThreadLane(leaves=leaves)


class _ThreadLane:
    """One thread that waits for work, and a pipe by which it wakes the loop.

    A call through `trio.to_thread` costs three times as much: it looks for a thread, takes a context along, and comes
    back by way of the queue that all threads share. An fsync of a fast disk is shorter than that.
    """

    def __init__(self, *, leaves: bool) -> None:
        self._leaves = leaves
        self._turn = trio.Lock()
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._results: SimpleQueue[outcome.Outcome[object]] = SimpleQueue()
        self._wake = -1
        self._busy = False

    async def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            self._turn.acquire_nowait()  # `acquire` would give up a turn of the loop even where nobody is before us
        except trio.WouldBlock:
            await self._turn.acquire()
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._wake < 0:
                self._start()
            if self._busy:  # a KeyboardInterrupt has torn the last caller away from it
                await self._result()
            self._busy = True
            self._work.put(partial(function, *args, **kwargs))
            return cast("T", (await self._result()).unwrap())
        finally:
            self._turn.release()

    async def _result(self) -> outcome.Outcome[object]:
        """What the call that has begun made of it. Who is cancelled meanwhile hears of that at his next checkpoint.

        A shield around every call would cost a quarter of the loop's part in it.
        """
        try:
            await trio.lowlevel.wait_readable(self._wake)
        except trio.Cancelled:
            if self._leaves:
                self._leave()
                raise
            with trio.CancelScope(shield=True):
                await trio.lowlevel.wait_readable(self._wake)
        os.read(self._wake, 1)
        self._busy = False
        return self._results.get()

    def _leave(self) -> None:
        """Let the thread end by itself, after what it does, with its queues and its pipe."""
        self._work.put(None)
        self._work, self._results = SimpleQueue(), SimpleQueue()
        self._wake, self._busy = -1, False

    def _start(self) -> None:
        self._wake, done = os.pipe()
        arguments = (self._work, self._results, self._wake, done)
        threading.Thread(target=_serve, args=arguments, name="lane", daemon=True).start()
        weakref.finalize(self, self._work.put, None).atexit = False


def _serve(
    work: "SimpleQueue[Callable[[], object] | None]",
    results: "SimpleQueue[outcome.Outcome[object]]",
    wake: int,
    done: int,
) -> None:
    """The thread: it knows the lane's queues and not the lane, which may go when nobody holds it any more."""
    while call := work.get():
        results.put(outcome.capture(call))
        del call
        os.write(done, b".")
    os.close(wake)
    os.close(done)


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
