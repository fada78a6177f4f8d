"""The answer to one request."""

from typing import Generic, TypeVar

import trio
from msgspec import UNSET, Struct, UnsetType

T = TypeVar("T")


class Reply(Struct, Generic[T], eq=False):
    """A channel for exactly one message, carried inside a request: whoever is asked puts the answer in, never blocking.

    **Synopsis:** `reply = Reply[Page]()`; the asker `await reply.wait()`s; the asked one calls `reply.put(page)`.
    """

    _answer: T | UnsetType = UNSET
    _asker: trio.lowlevel.Task | None = None

    def put(self, value: T) -> None:
        """Give the answer; a second one is a defect in the caller."""
        assert self._answer is UNSET, "a Reply takes one answer"
        self._answer = value
        if self._asker is not None:
            trio.lowlevel.reschedule(self._asker)
            self._asker = None

    @property
    def given(self) -> bool:
        """Whether the answer is there."""
        return self._answer is not UNSET

    @property
    def answer(self) -> T:
        """The answer that was given."""
        assert self._answer is not UNSET, "there is no answer yet"
        return self._answer

    async def wait(self) -> T:
        """The answer, as soon as it is there. One may wait, and again if that was cancelled."""
        if self._answer is UNSET:
            assert self._asker is None, "a Reply has one asker"
            self._asker = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._leave)
        else:
            await trio.lowlevel.checkpoint()
        return self.answer

    def _leave(self, _: object) -> trio.lowlevel.Abort:
        self._asker = None
        return trio.lowlevel.Abort.SUCCEEDED
