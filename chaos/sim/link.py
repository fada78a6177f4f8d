"""The way from one device to the cloud, which can be cut and which lies: an httpx transport with faults."""

import contextlib
import random
import re
from collections.abc import Callable

import attrs
import httpx
import trio

from actors.verdict import MARK
from chaos.sim.books import Number, Violation
from chaos.sim.older import older_answer, older_request
from chaos.sim.plan import MIB, Fault
from cloud import wire

_SEQ = re.compile(rb'\{"seq":(\d+),')
LATENCY_S = 0.05
"""The mean of each direction's delay."""
SLOW_S = 4.0
BODY_BYTES_MAX = MIB
"""More than any batch of a scaled-down device has."""
LATE_S = 40.0
"""How long the network may hold a request back before it delivers it once more."""


@attrs.define(eq=False)
class Link(httpx.AsyncBaseTransport):
    """`inner`, behind a link. While `up` is False nothing passes, in either direction."""

    inner: httpx.AsyncBaseTransport
    nursery: trio.Nursery
    """Where delayed requests wait: they outlive the device that sent them."""
    rng: random.Random
    met: Callable[[str], None]
    faults: tuple[Fault, ...] = ()
    fault_rate: float = 0.0
    up: bool = True
    older: bool = False
    """The device is of the last release."""
    posts: int = 0
    """Begun since the device's process started."""
    duplicates: int = 0
    """Those that answers spoke of since then, as far as they reached the device."""
    _under_way: set[Number] = attrs.field(factory=set, init=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One exchange. `Violation` where one of its predictions is under way in another one of the same device."""
        carried = _carried(request)
        twice = self._under_way & carried
        if twice:
            raise Violation(f"G2: on two lanes at once: {sorted(twice)}")
        self._under_way |= carried
        self.posts += request.method == "POST"
        try:
            response = await (self._exchange_as_before(request) if self.older else self._exchange(request))
            if request.method == "POST" and response.status_code == 200:
                response = await self._count(response)
            return response
        finally:
            self._under_way -= carried

    async def _count(self, response: httpx.Response) -> httpx.Response:
        body = await response.aread()
        with contextlib.suppress(wire.WireError):
            self.duplicates += wire.read_answer(body).duplicates
        return _answer(response.status_code, body, dict(response.headers))

    async def _exchange_as_before(self, request: httpx.Request) -> httpx.Response:
        """What the last release did not say is not said, and what it did not read is not there."""
        response = await self._exchange(older_request(request, BODY_BYTES_MAX))
        body = older_answer(request, await response.aread())
        headers = {key: value for key, value in response.headers.items() if key != "content-length"}
        return _answer(response.status_code, body, headers)

    async def _exchange(self, request: httpx.Request) -> httpx.Response:
        """With whatever befalls it."""
        fault = self.rng.choice(self.faults) if self.faults and self.rng.random() < self.fault_rate else None
        slow_s = SLOW_S if fault is Fault.SLOW_LINK else LATENCY_S
        await trio.sleep(self.rng.expovariate(1 / slow_s))
        if not self._passes():
            raise httpx.ConnectError("severed", request=request)
        if fault is not None:
            self.met(f"fault: {fault.value}")
        if fault is Fault.LOSE_REQUEST:
            raise httpx.ConnectError("severed", request=request)
        if fault in _MADE_UP:
            return _answer(*_MADE_UP[fault])
        if fault is Fault.BLACKHOLE:
            await trio.sleep_forever()
        if fault is Fault.DOUBLE:
            await self.inner.handle_async_request(request)
        if fault is Fault.LATE_DOUBLE:
            self.nursery.start_soon(self._once_more, request, self.rng.expovariate(1 / LATE_S))
        response = await self.inner.handle_async_request(request)
        await trio.sleep(self.rng.expovariate(1 / slow_s))
        if not self._passes() or fault is Fault.LOSE_REPLY:
            raise httpx.ReadError("severed before the reply", request=request)
        if fault is Fault.CORRUPT:
            return _answer(response.status_code, b'{"acc', {"Holdfast-Wire": "1"})
        return response

    async def _once_more(self, request: httpx.Request, after_s: float) -> None:
        await trio.sleep(after_s)
        try:
            await self.inner.handle_async_request(request)
        except httpx.TransportError:
            return

    def heal(self) -> None:
        """No more faults."""
        self.up = True
        self.faults = ()

    def _passes(self) -> bool:
        if not self.up:
            self.met(f"fault: {Fault.OUTAGE.value}")
        return self.up


def _carried(request: httpx.Request) -> set[Number]:
    """The numbers in a POST."""
    if request.method != "POST":
        return set()
    try:
        encoding = request.headers.get("content-encoding", "")
        envelope = wire.open_envelope(wire.decompress(request.content, encoding, BODY_BYTES_MAX))
    except wire.WireError:
        return set()  # a payload that a flipped bit has damaged: no JSON any more
    numbers = (_SEQ.match(bytes(record)) for record in envelope.predictions)
    return {(envelope.stream_id or "", int(number[1])) for number in numbers if number}


def _answer(status: int, body: bytes, headers: dict[str, str]) -> httpx.Response:
    """A response whose body has not been read yet, as a transport gives it."""
    return httpx.Response(status, headers=headers, stream=httpx.ByteStream(body))


_MADE_UP: dict[Fault | None, tuple[int, bytes, dict[str, str]]] = {
    Fault.BUSY: (503, b"", {"Retry-After": "3"}),
    Fault.ERROR: (500, b"bad gateway", {}),
    Fault.PORTAL: (200, b"<html>Please log in to the guest network</html>", {"Content-Type": "text/html"}),
    Fault.REDIRECT: (302, b"", {"Location": "http://portal.test/"}),
    Fault.KEY_REFUSED: (401, b'{"error":"a key is needed"}', {"Content-Type": "application/json", MARK: "1"}),
    Fault.TOO_LARGE: (413, b"too large", {"Content-Type": "text/plain"}),
}
"""The answers of somebody between device and cloud, or of a cloud that is not itself."""
