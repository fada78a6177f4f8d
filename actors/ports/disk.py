"""The store behind its lane: opened late, rebuilt when damaged, so that its owner only hears of `DiskTrouble`."""

from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import attrs
import structlog
import trio

from actors.messages import Books, Entry, PageRequest
from actors.ports.lane import RunSync
from actors.ports.opening import DiskTrouble
from actors.ports.sqlite import BufferDamaged, BufferUnwritable
from actors.ports.store import Store
from actors.seqs import Payloads, Stored
from cloud.wire import Loss

P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger()


@attrs.define
class Disk:
    """Gives work to the store, one piece at a time; groups that the journal takes go beside it, in their own lane.

    `store` is None until the disk lets it open.
    """

    store: Store | None
    open_store: Callable[[], Store]
    run_sync: RunSync
    run_accepts: RunSync
    answered_at: float = attrs.field(factory=trio.current_time, init=False)
    """When a piece of work last came back, done or refused (seconds of the monotonic clock); a disk that hangs stays
    behind here."""

    async def do(self, work: Callable[[Store], T]) -> T:
        """`work(store)` in the store's lane. `DiskTrouble`, or what the work itself raises.

        A database that turns out to be damaged is replaced, and the work done again: it must bear that.
        """
        if self.store is None:
            raise DiskTrouble("the buffer is not open yet")
        return await self._in_lane(self.run_sync, _work_on, self.store, work)

    async def accept(self, entries: Sequence[Entry]) -> list[Stored]:
        """`Store.accept`, which waits for no page, mark or flush as long as the journal takes the group."""
        if self.store and not self.store.needs_rebuild:
            stored = await self._in_lane(self.run_accepts, self.store.accept_in_journal, entries)
            if stored is not None:
                return stored
        return await self.do(lambda store: store.accept(entries))

    async def open(self) -> bool:
        """Try to open a store that did not open so far; True if it has just come. `DiskTrouble`, `StoreLocked`."""
        if self.store is not None:
            return False
        self.store = await self._in_lane(self.run_sync, self.open_store)
        log.info("buffer_opened", summary=str(self.store.recovered))
        return True

    async def close(self) -> None:
        """Flush and close, if there is something to close."""
        if self.store is not None:
            await self._in_lane(self.run_sync, self.store.close)

    async def _in_lane(self, lane: RunSync, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await lane(work, *args, **kwargs)
        finally:
            self.answered_at = trio.current_time()


def _work_on(store: Store, work: Callable[[Store], T]) -> T:
    """In the lane, in one go: nobody else meets the damaged database between the finding and the replacing."""
    try:
        if store.needs_rebuild:
            store.rebuild()
        try:
            return work(store)
        except BufferDamaged as exc:
            log.error("buffer_damaged", error=str(exc), then="it is set aside and a new one filled")  # noqa: TRY400
            store.rebuild()
            return work(store)
    except BufferUnwritable as exc:  # a read that the disk refuses is no more a defect than a write
        raise DiskTrouble(str(exc)) from exc


def look_over(store: Store) -> tuple[Books, bool] | None:
    """A stroke of what is due; the account, and whether the cloud lacks a loss, once nothing more is due at once.

    All in one trip to the thread, which a device that does nothing else makes every second.
    """
    return None if store.tidy() else (store.books(), bool(store.losses()))


def look_up(request: PageRequest, store: Store) -> tuple[Payloads, list[Loss]]:
    """A page of pending predictions; the first of a pass, and one that met damage, brings what was given up as well."""
    before = store.damaged_count
    found = store.pending(request.after, request.records_max, request.bytes_max, newest=request.newest)
    told = request.after == 0 or store.damaged_count > before
    return found, store.losses() if told else []
