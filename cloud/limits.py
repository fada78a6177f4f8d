"""What one client may cost: how fast a device may ask, how slow a body may be, how much may be held at once.

Overload is answered at once, before anything is read; nothing ever queues up for room.
"""

import math
from collections import OrderedDict
from collections.abc import AsyncIterable, Iterator
from contextlib import contextmanager

import attrs
import trio

from cloud import wire
from cloud.ledger import LedgerBusy

DEVICE_REQUESTS_PER_S = 200.0
BURST_S = 2.0
"""A device that was quiet may send what it has in one go: so many seconds' worth."""
DEVICES_MAX = 10_000
"""How many devices' rates are remembered; the one that was quiet longest is forgotten first."""
REQUESTS_MAX = 256
"""How many batches may be on their way in at once."""
BODIES_BYTES_MAX = 64 * 1024 * 1024
"""How much of bodies may be held at once, as received."""
BODY_GRACE_S = 10.0
BODY_BYTES_PER_S_MIN = 1_000
BODY_S_MAX = 60.0
RETRY_AFTER_S = 1


class BodyTooSlow(Exception):
    """The body came slower than anything but an attack."""


class TooManyRequests(Exception):
    """A device asks faster than it may; it may come back after `wait_s`."""

    def __init__(self, per_s: float, wait_s: float) -> None:
        super().__init__(f"edge_device_id: more than {per_s:g} requests a second for a while")
        self.wait_s = wait_s


@attrs.frozen
class Limits:
    """What an operator may set; the rest are constants."""

    device_requests_per_s: float = DEVICE_REQUESTS_PER_S
    requests_max: int = REQUESTS_MAX


@attrs.define
class Rates:
    """A token bucket for each device: `per_s` tokens a second, up to `BURST_S` seconds' worth."""

    per_s: float
    _buckets: OrderedDict[str, tuple[float, float]] = attrs.field(init=False, factory=OrderedDict)
    """Each device's tokens and the moment they were counted, oldest question first."""

    def take(self, device_id: str, now: float) -> None:
        """Let one request of that device through at `now` (seconds, monotonic), or raise `TooManyRequests`."""
        full = max(1.0, self.per_s * BURST_S)
        tokens, counted_at = self._buckets.pop(device_id, (full, now))
        tokens = min(full, tokens + (now - counted_at) * self.per_s)
        enough = tokens >= 1
        self._buckets[device_id] = (tokens - enough, now)
        if len(self._buckets) > DEVICES_MAX:
            self._buckets.popitem(last=False)
        if not enough:
            raise TooManyRequests(self.per_s, (1 - tokens) / self.per_s)


@attrs.define
class Room:
    """How much is on its way in: batches from their first byte to their commit, and the bytes of their bodies."""

    requests_max: int = REQUESTS_MAX
    bytes_max: int = BODIES_BYTES_MAX
    requests: int = 0
    held: int = 0
    """Bytes of bodies."""

    @contextmanager
    def hold(self) -> Iterator["Place"]:
        """A place for one batch; `LedgerBusy` at once where there is none."""
        if self.requests >= self.requests_max or self.held >= self.bytes_max:
            raise LedgerBusy(RETRY_AFTER_S)
        self.requests += 1
        place = Place(self)
        try:
            yield place
        finally:
            self.requests -= 1
            self.held -= place.taken


@attrs.define
class Place:
    """One batch's share of the room."""

    _room: Room
    taken: int = 0
    """Bytes of its body so far."""

    async def read(self, body: AsyncIterable[bytes]) -> bytes:
        """The whole body. `LedgerBusy`, `wire.BodyTooLarge` or `BodyTooSlow` where it is not to be had."""
        began = trio.current_time()
        pieces: list[bytes] = []
        with trio.CancelScope(deadline=began + body_s_max(0)) as scope:
            async for piece in body:
                if self._room.held + len(piece) > self._room.bytes_max:
                    raise LedgerBusy(RETRY_AFTER_S)
                self.taken += len(piece)
                self._room.held += len(piece)
                if self.taken > wire.BODY_BYTES_MAX:
                    raise wire.BodyTooLarge(f"body: more than {wire.BODY_BYTES_MAX} bytes")
                pieces.append(piece)
                scope.deadline = began + body_s_max(self.taken)
        if scope.cancelled_caught:
            raise BodyTooSlow(
                f"body: {self.taken} bytes in {trio.current_time() - began:.0f} s;"
                f" at least {BODY_BYTES_PER_S_MIN} a second are needed"
            )
        return b"".join(pieces)


def body_s_max(received: int) -> float:
    """How long a body may have taken of which so many bytes are here."""
    return min(BODY_S_MAX, BODY_GRACE_S + received / BODY_BYTES_PER_S_MIN)


def retry_after(wait_s: float) -> str:
    """The value of `Retry-After`: whole seconds, never too early."""
    return str(max(1, math.ceil(wait_s)))
