"""Watch one source: read it to its end or for ever, open it again when it fails, and note what is durable."""

import math
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import attrs
import structlog
import trio
from trio_util import AsyncValue

from actors.backoff import backoff_s
from actors.messages import Receipt, Unread, Vision
from actors.ports.detector import DetectorError
from actors.ports.frames import Abandonable, Frame, FrameUnreadable, NoFrameYet, Resumable, Source, SourceDown
from actors.ports.lane import RunSync
from actors.reply import Reply
from actors.settling import Ledger, Slot
from cloud.wire import WireError

RESTART_MULTIPLIER = 2.0
FAILURES_IN_A_ROW_MAX = 10
"""Frames one after another on which the model fails: then it is the model, and the process ends loudly."""
GARBAGE_IN_A_ROW_MAX = 30
"""Frames one after another that a live source can't make sense of: then it is opened again."""
UNREADABLE_NAMED_MAX = 1_000
"""A name is logged once; so many are remembered for it."""
UNREADABLE_SHOWN_MAX = 20
IDLE_S = 1.0
"""How long a source that has nothing now is left alone."""
SETTLE_S = 2.0
"""How long an end waits for receipts; a frame whose receipt comes later is compared with the buffer at the start."""
CLOSE_S = 5.0
"""How long the closing of a source may hold up the end."""

log = structlog.get_logger()

T = TypeVar("T")
See = Callable[[Frame, Reply[tuple[Receipt, ...]] | None], Awaitable[object]]
"""Look at a frame and hand its prediction on; raises `DetectorError` or `WireError` if nothing can be said of it."""


@attrs.define(eq=False)
class Watch:
    """One source. Others never notice what happens here. After `run`, `ended` says whether it came to its end."""

    source: Source
    lane: RunSync
    see: See
    vision: AsyncValue[Vision]
    stopping: trio.Event
    rng: random.Random
    restart_after_s: float
    restart_max_s: float
    stall_s: float
    ended: bool = attrs.field(default=False, init=False)
    _attempt: int = attrs.field(default=0, init=False)
    _frames: int = attrs.field(default=0, init=False)
    _model_failures: int = attrs.field(default=0, init=False)
    _garbage: int = attrs.field(default=0, init=False)
    _named: set[str] = attrs.field(factory=set, init=False)

    async def run(self) -> None:
        """Until the source has ended, or `stopping`."""
        try:
            while not (self.ended or self.stopping.is_set()):
                try:
                    await self._open()
                    await (self._see_freshest() if self.source.live else self._see_all())
                except SourceDown as exc:
                    with trio.move_on_after(CLOSE_S):
                        await self.lane(self.source.close)
                    await self._pause(str(exc))
        finally:
            with trio.move_on_after(CLOSE_S, shield=True):
                await self.lane(self.source.close)
        log.info("source_ended", source=self.source.name, frames=self._frames, by_itself=self.ended)

    async def _open(self) -> None:
        """Open the source; a live one that is being opened when the end comes is left behind, like one that hangs."""
        if not self.source.live:
            await self._call(self.source.open)
            return
        down: SourceDown | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_at_the_end, nursery.cancel_scope)
            try:
                await self._call(self.source.open)
            except SourceDown as exc:  # raised outside of the nursery
                down = exc
            nursery.cancel_scope.cancel()
        if down is not None:
            raise down

    async def _cancel_at_the_end(self, scope: trio.CancelScope) -> None:
        await self.stopping.wait()
        scope.cancel()

    # --- files: every frame, and what is durable is noted

    async def _see_all(self) -> None:
        ledger = Ledger(self.source, self.lane) if isinstance(self.source, Resumable) else None
        async with trio.open_nursery() as nursery:
            if ledger is not None:
                nursery.start_soon(ledger.run)
            down: SourceDown | None = None
            try:
                await self._each(ledger)
            except SourceDown as exc:  # raised when what was read before is noted, and outside of the nursery
                down = exc
            if ledger is not None:
                with trio.move_on_after(SETTLE_S if self.stopping.is_set() else math.inf) as patience:
                    nursery.start_soon(self._hurry, patience)
                    await ledger.settled()
            nursery.cancel_scope.cancel()
        if down is not None:
            raise down

    async def _each(self, ledger: "Ledger | None") -> None:
        due = trio.current_time()
        while not await self._stopped_before(due):
            due = max(due + self.source.period_s, trio.current_time())
            try:
                frame = await self._read(self.source.read if ledger is None else ledger.next_read())
            except NoFrameYet:
                self._mark_up()
                due = trio.current_time() + IDLE_S
                continue
            if isinstance(frame, Frame):
                reply = await ledger.expect(frame.mark) if ledger is not None and frame.mark is not None else None
                if not await self._see(frame, reply) and reply is not None:
                    reply.put(())
            elif frame is None:
                self.ended = True
                return

    async def _hurry(self, patience: trio.CancelScope) -> None:
        await self.stopping.wait()
        patience.deadline = min(patience.deadline, trio.current_time() + SETTLE_S)

    # --- cameras: the freshest frame, while another task keeps reading

    async def _see_freshest(self) -> None:
        slot = Slot(self.vision)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_into, slot)
            nursery.start_soon(self._stop_slot, slot)
            while (frame := await slot.take()) is not None and not self.stopping.is_set():
                await self._see(frame, None)
            nursery.cancel_scope.cancel()
        if slot.down is not None:
            raise slot.down
        self.ended = not self.stopping.is_set()

    async def _read_into(self, slot: "Slot") -> None:
        due = trio.current_time()
        try:
            while not await self._stopped_before(due):
                due = max(due + self.source.period_s, trio.current_time())
                try:
                    frame = await self._read(self.source.read)
                except NoFrameYet:
                    due = trio.current_time() + IDLE_S
                    continue
                if frame is None:
                    break
                if isinstance(frame, Frame):
                    slot.put(frame)
        except SourceDown as exc:
            slot.down = exc
        slot.end()

    async def _stop_slot(self, slot: "Slot") -> None:
        await self.stopping.wait()
        slot.end()

    # --- both

    async def _read(self, read: Callable[[], Frame | None]) -> Frame | FrameUnreadable | None:
        """The next frame, or why it can't be read; `SourceDown` when too many can't."""
        try:
            frame = await self._call(read)
        except FrameUnreadable as exc:
            self._turn_away(exc.path, exc.reason)
            self._garbage += 1
            if self.source.live and self._garbage >= GARBAGE_IN_A_ROW_MAX:
                self._garbage = 0
                raise SourceDown(f"{self._named_garbage()} ({exc.reason})") from exc
            return exc
        self._garbage = 0
        self._mark_up()
        return frame

    def _named_garbage(self) -> str:
        return f"source {self.source.name} gives garbage, {GARBAGE_IN_A_ROW_MAX} frames in a row"

    async def _call(self, function: Callable[[], T]) -> T:
        """Run one of the source's calls; a live source that does not come back in time is left behind."""
        if not self.source.live:
            return await self.lane(function)
        with trio.move_on_after(self.stall_s):
            try:
                return await self.lane(function)
            except trio.Cancelled:
                if isinstance(self.source, Abandonable):
                    self.source.abandon()
                raise
        raise SourceDown(f"source {self.source.name} is stuck: nothing came for {self.stall_s:g} s")

    async def _stopped_before(self, due: float) -> bool:
        if self.source.live or due > trio.current_time():  # a scope for each of a folder's frames adds up
            with trio.move_on_at(due):
                await self.stopping.wait()
        return self.stopping.is_set()

    async def _see(self, frame: Frame, reply: Reply[tuple[Receipt, ...]] | None) -> bool:
        try:
            await self.see(frame, reply)
        except (DetectorError, WireError) as exc:
            self._model_failures += 1
            self._turn_away(frame.image_id, str(exc))
            if self._model_failures >= FAILURES_IN_A_ROW_MAX:
                raise
            return False
        self._model_failures = 0
        self._frames += 1
        return True

    async def _pause(self, reason: str) -> None:
        pause_s = self.restart_after_s + backoff_s(
            self._attempt, multiplier=RESTART_MULTIPLIER, rng=self.rng, max_s=self.restart_max_s
        )
        self._attempt += 1
        down = sorted({*self.vision.value.cameras_down, self.source.name})
        self._note(cameras_down=tuple(down))
        log.warning("source_down", source=self.source.name, reason=reason, again_in_s=round(pause_s, 1))
        with trio.move_on_after(pause_s):
            await self.stopping.wait()

    def _mark_up(self) -> None:
        if self._attempt:
            self._attempt = 0
            down = (name for name in self.vision.value.cameras_down if name != self.source.name)
            self._note(cameras_down=tuple(down))
            log.info("source_up", source=self.source.name)

    def _turn_away(self, name: str, reason: str) -> None:
        shown = listed(self.vision.value.unreadable_last, Unread(name, reason))
        self._note(unreadable=self.vision.value.unreadable + 1, unreadable_last=shown)
        if name not in self._named and len(self._named) < UNREADABLE_NAMED_MAX:
            self._named.add(name)
            log.warning("frame_unreadable", source=self.source.name, frame=name, reason=reason)

    def _note(self, **changes: object) -> None:
        self.vision.value = attrs.evolve(self.vision.value, **changes)


def listed(shown: tuple[Unread, ...], new: Unread) -> tuple[Unread, ...]:
    """The list of unreadable images with a new one at its end: each name once, and never more than are shown."""
    return (*(one for one in shown if one.name != new.name), new)[-UNREADABLE_SHOWN_MAX:]
