"""A reply reaches its asker, whoever comes first."""

import gc
import weakref

import pytest
import trio

from actors.reply import Reply


async def test_an_answer_waits_for_its_asker():
    reply, empty = Reply[str](), Reply[str]()
    reply.put("yes")
    assert (reply.given, empty.given) == (True, False)
    assert reply.answer == "yes"
    assert await reply.wait() == "yes"


async def test_an_asker_waits_for_the_answer(autojump_clock):
    reply = Reply[str]()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _answer() -> None:
            await trio.sleep(3)
            reply.put("later")

        assert await reply.wait() == "later"
        assert trio.current_time() == 3


async def test_an_answer_to_an_asker_who_was_cancelled_disturbs_nobody(autojump_clock):
    reply = Reply[str]()
    with trio.move_on_after(1) as patience:
        await reply.wait()
    assert patience.cancelled_caught
    reply.put("late")
    await trio.sleep(1)  # whatever else this task waits for is not cut short by the answer
    assert trio.current_time() == 2
    assert await reply.wait() == "late"


async def test_an_asker_who_was_cancelled_may_ask_again(autojump_clock):
    reply = Reply[str]()
    with trio.move_on_after(1):
        await reply.wait()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 0)
        nursery.start_soon(_put_later, reply)
        assert await reply.wait() == "again"


async def _put_later(reply: Reply[str]) -> None:
    await trio.sleep(2)
    reply.put("again")


async def test_a_second_answer_and_a_second_asker_are_defects(autojump_clock):
    reply = Reply[str]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reply.wait)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(AssertionError, match="one asker"):
            await reply.wait()
        reply.put("first")
        with pytest.raises(AssertionError, match="one answer"):
            reply.put("second")


class _Refused(Exception):
    """An answer that is raised where it was asked for, and so refers to its reply by way of the traceback."""


async def test_an_answer_that_was_raised_is_not_kept_for_ever():
    async def ask() -> None:
        reply = Reply[Exception]()
        reply.put(refused())
        raise await reply.wait()

    seen: list[weakref.ref[Exception]] = []

    def refused() -> Exception:
        error = _Refused()
        seen.append(weakref.ref(error))
        return error

    with pytest.raises(_Refused):
        await ask()
    gc.collect()
    assert seen[0]() is None
