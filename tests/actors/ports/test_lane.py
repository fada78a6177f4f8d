"""The lane: calls never overlap, none that has begun is abandoned, and none keeps anything alive."""

import gc
import os
import threading
import time
from collections.abc import Callable

import pytest
import trio

from actors.ports.lane import thread_lane


async def test_result_and_error_come_back_to_whoever_called():
    lane = thread_lane()
    assert await lane(divmod, 7, 2) == (3, 1)
    assert await lane(int, "101", base=2) == 5
    with pytest.raises(ZeroDivisionError):
        await lane(divmod, 1, 0)
    assert await lane(threading.get_ident) != threading.get_ident()


async def test_loop_goes_on_while_a_call_blocks():
    lane, ticks = thread_lane(), 0
    release = threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lane, release.wait)
        for _ in range(50):
            await trio.lowlevel.checkpoint()
            ticks += 1
        release.set()
    assert ticks == 50


async def test_calls_never_overlap_and_keep_their_order():
    lane = thread_lane()
    inside: list[int] = []
    order: list[int] = []

    def call(number: int) -> None:
        inside.append(number)
        time.sleep(0.002)
        assert inside == [number], "two calls at once"
        inside.clear()
        order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(lane, call, number)
    assert sorted(order) == list(range(20))


async def test_cancelled_call_that_has_begun_ends_first_and_one_that_waits_is_skipped():
    """A write to the disk must not go on behind the back of the next one."""
    lane = thread_lane()
    begun, release = threading.Event(), threading.Event()
    done: list[str] = []

    def slow() -> None:
        begun.set()
        release.wait()
        done.append("slow")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lane, slow)
        await trio.to_thread.run_sync(begun.wait)
        nursery.start_soon(lane, done.append, "skipped")
        await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
        threading.Timer(0.02, release.set).start()
    assert done == ["slow"]
    await lane(done.append, "next")
    assert done == ["slow", "next"]


async def test_caller_who_is_cancelled_meanwhile_gets_the_result_and_is_cancelled_at_his_next_checkpoint():
    lane = thread_lane()
    begun, release = threading.Event(), threading.Event()
    got: list[str] = []

    def slow() -> str:
        begun.set()
        release.wait()
        return "done"

    async def caller() -> None:
        got.append(await lane(slow))
        await trio.lowlevel.checkpoint()
        got.append("went on")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller)
        await trio.to_thread.run_sync(begun.wait)
        nursery.cancel_scope.cancel()
        threading.Timer(0.02, release.set).start()
    assert got == ["done"]


async def test_cancelled_call_of_a_lane_that_leaves_goes_on_behind_and_the_next_one_has_a_thread_of_its_own():
    """Nothing that a model still does in its thread is of any use once the device ends."""
    lane = thread_lane(leaves=True)
    begun, release = threading.Event(), threading.Event()
    done: list[str] = []

    def slow() -> None:
        begun.set()
        release.wait()
        done.append("slow")

    before = set(threading.enumerate())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lane, slow)
        await trio.to_thread.run_sync(begun.wait)
        nursery.cancel_scope.cancel()
    left = [thread for thread in set(threading.enumerate()) - before if thread.name == "lane"]
    await lane(done.append, "next")
    assert done == ["next"]
    release.set()
    for thread in left:
        thread.join(timeout=5)
        assert not thread.is_alive()
    assert await lane(int, "7") == 7
    assert done == ["next", "slow"]


def after(release: threading.Event, call: Callable[[str], None], word: str) -> None:
    release.wait()
    call(word)


async def test_call_that_lost_its_caller_is_waited_for_before_the_next(monkeypatch):
    """A KeyboardInterrupt reaches even a shielded task."""
    lane = thread_lane()
    await lane(int)
    release = threading.Event()
    done: list[str] = []
    usual = trio.lowlevel.wait_readable

    async def torn_away(fd: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trio.lowlevel, "wait_readable", torn_away)
        with pytest.raises(KeyboardInterrupt):
            await lane(after, release, done.append, "first")
    assert trio.lowlevel.wait_readable is usual
    threading.Timer(0.02, release.set).start()
    await lane(done.append, "second")
    assert done == ["first", "second"]


async def test_thread_and_pipe_go_with_the_lane():
    before = set(threading.enumerate())
    lane = thread_lane()
    await lane(int)
    (thread,) = set(threading.enumerate()) - before
    wake = lane._wake  # type: ignore[attr-defined]
    os.fstat(wake)
    del lane
    gc.collect()
    thread.join(timeout=5)
    assert not thread.is_alive()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(wake)
