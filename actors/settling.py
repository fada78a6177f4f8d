"""Between reading and the disk: the freshest frame of a camera, and the files whose receipts are awaited."""

from collections import deque
from collections.abc import Callable, Sequence

import attrs
import trio
from trio_util import AsyncValue

from actors.messages import Receipt, Vision
from actors.ports.cursors import Mark
from actors.ports.frames import Frame, Resumable, SourceDown
from actors.ports.lane import RunSync
from actors.reply import Reply

UNSETTLED_MAX = 128
"""Frames of one source that may wait for their receipts, two groups' worth: one gathers while the other is written. So
many at most are seen again after a crash, and none of those is durable twice."""
ALONG_WITHIN_S = 1.0
"""How long receipts wait for the source's next read, which takes them along, at most."""


@attrs.define(eq=False)
class Slot:
    """Room for one frame, the freshest; a frame that was replaced unseen is counted as skipped."""

    vision: AsyncValue[Vision]
    down: SourceDown | None = None
    _frame: Frame | None = attrs.field(default=None, init=False)
    _ended: bool = attrs.field(default=False, init=False)
    _news: trio.Event = attrs.field(factory=trio.Event, init=False)

    def put(self, frame: Frame) -> None:
        """The freshest frame."""
        if self._frame is not None:
            self.vision.value = attrs.evolve(self.vision.value, skipped=self.vision.value.skipped + 1)
        self._frame = frame
        self._news.set()

    def end(self) -> None:
        """No frame will come any more."""
        self._ended = True
        self._news.set()

    async def take(self) -> Frame | None:
        """The freshest frame as soon as there is one that was not taken; None at the end."""
        while self._frame is None and not self._ended:
            self._news = trio.Event()
            await self._news.wait()
        frame, self._frame = self._frame, None
        return frame


@attrs.define(eq=False)
class Ledger:
    """Frames of a source that wait for their receipts; durable ones are told to the source in the order of reading."""

    source: Resumable
    lane: RunSync
    _open: deque[tuple[Mark, Reply[tuple[Receipt, ...]]]] = attrs.field(factory=deque, init=False)
    _telling: bool = attrs.field(default=False, init=False)
    _ending: bool = attrs.field(default=False, init=False)
    _untold: int = attrs.field(default=0, init=False)
    """Frames that were expected and not told of yet. A count and an event: a semaphore would cost each frame more."""
    _room: trio.Event = attrs.field(factory=trio.Event, init=False)
    _news: trio.Event = attrs.field(factory=trio.Event, init=False)
    _nobody_reads: trio.Event = attrs.field(factory=trio.Event, init=False)
    """The reader waits for room, or has come to its end."""
    _empty: trio.Event = attrs.field(factory=trio.Event, init=False)

    async def expect(self, mark: Mark) -> Reply[tuple[Receipt, ...]]:
        """The reply that a frame's receipt will come in; waits while too many wait. For one reader."""
        while self._untold >= UNSETTLED_MAX:
            self._room = trio.Event()
            self._nobody_reads.set()
            await self._room.wait()
        reply: Reply[tuple[Receipt, ...]] = Reply()  # an alias that is called costs more than the reply
        if not self._open:
            self._news.set()
        self._open.append((mark, reply))
        self._untold += 1
        return reply

    def next_read(self) -> Callable[[], Frame | None]:
        """The source's `read`, which on its way tells the source what is durable by now: a trip to its thread less."""
        due = self._take()
        if not due:
            return self.source.read
        self._untold -= len(due)  # told before this read gives a frame that could take the place of one of them

        def read() -> Frame | None:
            self._tell(due)
            return self.source.read()

        return read

    async def settled(self) -> None:
        """All frames that were expected have their receipts, and the durable ones are noted. Nothing is read since."""
        self._ending = True
        self._nobody_reads.set()
        while self._open or self._telling:
            self._empty = trio.Event()
            await self._empty.wait()

    async def run(self) -> None:
        """Tell the source what no read takes along. Runs until cancelled."""
        while True:
            if not self._open:
                self._empty.set()
                self._news = trio.Event()
                await self._news.wait()
            with trio.move_on_after(ALONG_WITHIN_S):
                await self._nobody_reads.wait()
                if self._open:  # a read may have taken them all along meanwhile
                    await self._open[0][1].wait()
            if due := self._take():
                self._telling = True
                await self.lane(self._tell, due)
                self._telling = False
                self._untold -= len(due)
                self._room.set()
            if not (self._ending or self._room.statistics().tasks_waiting):
                self._nobody_reads = trio.Event()

    def _take(self) -> list[tuple[Mark, tuple[Receipt, ...]]]:
        """Those at the front that have their receipts."""
        due = []
        while self._open and self._open[0][1].given:
            mark, reply = self._open.popleft()
            due.append((mark, reply.answer))
        return due

    def _tell(self, due: Sequence[tuple[Mark, tuple[Receipt, ...]]]) -> None:
        durable = [mark for mark, receipts in due if _durable(receipts)]
        passed = [mark for mark, receipts in due if not receipts]
        if durable or passed:
            self.source.accepted(durable, passed)


def _durable(receipts: tuple[Receipt, ...]) -> bool:
    return bool(receipts) and all(receipt.durable and receipt.seq is not None for receipt in receipts)
