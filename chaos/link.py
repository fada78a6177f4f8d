"""A link that can be cut and that lies: an httpx transport with faults, on the way to the real cloud app."""

import enum
import random

import attrs
import httpx
import trio


class Fault(enum.Enum):
    """What can befall one request."""

    LOSE_REQUEST = "lose request"
    """Refused before the cloud saw anything."""
    LOSE_REPLY = "lose reply"
    """The cloud acted, the answer never came: the duplicate maker."""
    DOUBLE = "double"
    """The network delivers the request twice."""
    BLACKHOLE = "blackhole"
    """Connected but silent: only the client's own deadline ends it."""
    BUSY = "busy"
    """503 with Retry-After."""
    ERROR = "error"
    """A 500 of something between device and cloud."""
    PORTAL = "portal"
    """200 with the HTML of a captive portal."""
    CORRUPT = "corrupt"
    """The cloud acted, the answer is damaged."""


@attrs.define(eq=False)
class FaultyLink(httpx.AsyncBaseTransport):
    """`inner`, behind a link. While `up` is False nothing passes, in either direction."""

    inner: httpx.AsyncBaseTransport
    rng: random.Random
    latency_s: float = 0.05
    """The mean of each direction's delay."""
    faults: tuple[Fault, ...] = ()
    fault_rate: float = 0.0
    up: bool = True
    hits: dict[str, int] = attrs.field(factory=dict)
    """How often each fault was really met."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One exchange, with whatever befalls it."""
        fault = self.rng.choice(self.faults) if self.faults and self.rng.random() < self.fault_rate else None
        await trio.sleep(self.rng.expovariate(1 / self.latency_s))
        if not self.passes():
            raise httpx.ConnectError("severed", request=request)
        if fault is not None:
            self._count(fault.value)
        if fault is Fault.LOSE_REQUEST:
            raise httpx.ConnectError("severed", request=request)
        if (made_up := _made_up(fault)) is not None:
            return made_up
        if fault is Fault.BLACKHOLE:
            await trio.sleep_forever()
        if fault is Fault.DOUBLE:
            await self.inner.handle_async_request(request)
        response = await self.inner.handle_async_request(request)
        await trio.sleep(self.rng.expovariate(1 / self.latency_s))
        if not self.passes() or fault is Fault.LOSE_REPLY:
            raise httpx.ReadError("severed before the reply", request=request)
        if fault is Fault.CORRUPT:
            return answer(response.status_code, b'{"acc', {"Holdfast-Wire": "1"})
        return response

    def heal(self) -> None:
        """No more faults."""
        self.up = True
        self.faults = ()

    def passes(self) -> bool:
        """Whether the link is up at this moment; a request that finds it cut is counted."""
        if not self.up:
            self._count("severed")
        return self.up

    def _count(self, name: str) -> None:
        self.hits[name] = self.hits.get(name, 0) + 1


def answer(status: int, body: bytes, headers: dict[str, str]) -> httpx.Response:
    """A response whose body has not been read yet, as a transport gives it."""
    return httpx.Response(status, headers=headers, stream=httpx.ByteStream(body))


def _made_up(fault: Fault | None) -> httpx.Response | None:
    """The answer of somebody between device and cloud."""
    match fault:
        case Fault.BUSY:
            return answer(503, b"", {"Retry-After": "3"})
        case Fault.ERROR:
            return answer(500, b"bad gateway", {})
        case Fault.PORTAL:
            return answer(200, b"<html>Please log in to the guest network</html>", {"Content-Type": "text/html"})
        case _:
            return None
