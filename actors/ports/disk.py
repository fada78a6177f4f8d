"""The store behind its lane: opened late, rebuilt when damaged, so that its owner only hears of `DiskTrouble`."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import attrs
import structlog
import trio

from actors.ports.lane import RunSync
from actors.ports.opening import DiskTrouble
from actors.ports.sqlite import BufferDamaged
from actors.ports.store import Store

P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger()


@attrs.define
class Disk:
    """Gives work to the store, one piece at a time. `store` is None until the disk lets it open."""

    store: Store | None
    open_store: Callable[[], Store]
    run_sync: RunSync
    answered_at: float = attrs.field(factory=trio.current_time, init=False)
    """When a piece of work last came back, done or refused (seconds of the monotonic clock); a disk that hangs stays
    behind here."""

    async def do(self, work: Callable[[Store], T]) -> T:
        """`work(store)` in the store's lane. `DiskTrouble`, or what the work itself raises.

        A database that turns out to be damaged is replaced, and the work done again: it must bear that.
        """
        if self.store is None:
            raise DiskTrouble("the buffer is not open yet")
        if self.store.needs_rebuild:
            await self._in_lane(self.store.rebuild)
        try:
            return await self._in_lane(work, self.store)
        except BufferDamaged as exc:
            log.error("buffer_damaged", error=str(exc), then="it is set aside and a new one filled")  # noqa: TRY400
            await self._in_lane(self.store.rebuild)
            return await self._in_lane(work, self.store)

    async def open(self) -> bool:
        """Try to open a store that did not open so far; True if it has just come. `DiskTrouble`, `StoreLocked`."""
        if self.store is not None:
            return False
        self.store = await self._in_lane(self.open_store)
        log.info("buffer_opened", summary=str(self.store.recovered))
        return True

    async def close(self) -> None:
        """Flush and close, if there is something to close."""
        if self.store is not None:
            await self._in_lane(self.store.close)

    async def _in_lane(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await self.run_sync(work, *args, **kwargs)
        finally:
            self.answered_at = trio.current_time()
