"""Rows move from the journal to SQLite in strokes beside the accepts, which wait for them only while they keep up."""

import attrs
import trio
from trio_util import AsyncValue

from actors.ports.disk import Disk
from actors.ports.opening import DiskTrouble
from actors.ports.store import Store

BEHIND_MAX = 4_000
"""Rows that the journal alone may hold before accepts wait for SQLite,"""
PATIENCE_S = 0.05
"""and for how long they then do, once."""
RETRY_S = 1.0
"""How long a stroke waits after SQLite took none (another process holds its lock, say): the journal carries on."""


@attrs.define
class Strokes:
    """Asked for by whoever has accepted, made by `run`."""

    disk: Disk
    _due: AsyncValue[bool] = attrs.field(factory=lambda: AsyncValue(False), init=False)
    _stuck: bool = attrs.field(default=False, init=False)
    """Whether the last stroke did not get through in time."""

    async def ask(self) -> None:
        """Let a stroke begin if enough waits for one, and wait a moment for it if too much does."""
        if self.disk.store is None:
            return
        self._due.value = self.disk.store.flush_due
        if self.disk.store.held_count > BEHIND_MAX and not self._stuck:
            with trio.move_on_after(PATIENCE_S) as patience:
                await self._due.wait_value(False)
            self._stuck = patience.cancelled_caught

    async def run(self) -> None:
        """Make them, one after another. Runs until cancelled."""
        while True:
            await self._due.wait_value(True)
            try:
                self._stuck = not await self.disk.do(Store.flush_if_writable)
            except DiskTrouble:
                self._stuck = True
            if self._stuck:
                await trio.sleep(RETRY_S)
            self._due.value = bool(self.disk.store and self.disk.store.flush_due)
