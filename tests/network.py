"""Real HTTP without sockets, under a virtual clock: httpx, httpcore, memory streams, our hosting, an ASGI app.

    async with trio.open_nursery() as nursery:
        network = Network(nursery, app)
        async with CloudClient("http://10.0.0.1/log", transport=network.transport(), ...) as client:
            ...
            network.sever()     # cuts what is open, and refuses what comes
            network.heal()
        nursery.cancel_scope.cancel()

The app's handlers may call `cut()` themselves, before or after they acted, or in the middle of an answer.
"""
# ruff: noqa: ASYNC109 - the timeouts are httpcore's interface

import socket
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx
import trio
import trio.testing
from hypercorn.config import Config
from trio.testing import MemoryReceiveStream, MemorySendStream

from hosting import Host

Pair = trio.StapledStream[MemorySendStream, MemoryReceiveStream]


class _Peer:
    """What hypercorn asks of a socket, and no more."""

    family = socket.AF_INET

    def getsockname(self) -> tuple[str, int]:
        return "10.0.0.1", 80

    def getpeername(self) -> tuple[str, int]:
        return "10.0.0.2", 1234


def socketed_pair() -> tuple[Pair, Any]:
    """A client's end, and a server's that hosting takes for a socket's."""
    ours, theirs = trio.testing.memory_stream_pair()
    theirs.socket = _Peer()  # type: ignore[attr-defined]
    return ours, theirs


class _Stream(httpcore.AsyncNetworkStream):
    """The client's end of a connection, spoken to in httpcore's words."""

    def __init__(self, stream: Pair) -> None:
        self._stream = stream
        self.hung_up = False
        """The server's end is closed: what a real socket shows by being readable while idle."""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            with trio.fail_after(float("inf") if timeout is None else timeout):
                return bytes(await self._stream.receive_some(max_bytes))
        except trio.TooSlowError as exc:
            raise httpcore.ReadTimeout from exc
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise httpcore.ReadError("connection reset") from exc

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:
            return
        try:
            await self._stream.send_all(buffer)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise httpcore.WriteError("connection reset") from exc

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self.hung_up if info == "is_readable" else None


class Network(httpcore.AsyncNetworkBackend):
    """Every connection ends at `app`. Starts up; `nursery` runs the server's side, so cancel it at the end."""

    def __init__(self, nursery: trio.Nursery, app: Any, config: Config | None = None) -> None:
        self._nursery = nursery
        config = config or Config()
        config.errorlog = None
        self._host = Host(app, config)
        self._open: list[tuple[_Stream, Pair, Pair]] = []
        self.up = True
        self.swallows = False
        """A black hole: connections are asked for and nothing ever comes back."""
        self.connects = 0

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        await trio.lowlevel.checkpoint()
        self.connects += 1
        if self.swallows:
            await trio.sleep_forever()
        if not self.up:
            raise httpcore.ConnectError("connection refused")
        ours, theirs = socketed_pair()
        stream = _Stream(ours)

        tell_the_end = theirs.send_stream.close_hook
        assert tell_the_end is not None

        def hang_up() -> None:
            stream.hung_up = True
            tell_the_end()

        theirs.send_stream.close_hook = hang_up
        self._open.append((stream, ours, theirs))
        self._nursery.start_soon(self._host.handle, theirs)
        return stream

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    def cut(self) -> None:
        """Reset every open connection, in the middle of whatever it carries; new ones are still taken."""
        for stream, ours, theirs in self._open:
            stream.hung_up = True
            for half in (ours.send_stream, ours.receive_stream, theirs.send_stream, theirs.receive_stream):
                half.close()
        self._open.clear()

    def sever(self) -> None:
        """Cut, and refuse new connections until `heal()`."""
        self.up = False
        self.cut()

    def heal(self) -> None:
        """All is well again, for new connections."""
        self.up = True
        self.swallows = False

    def transport(self) -> httpx.AsyncHTTPTransport:
        """What to give to an HTTP client so that it speaks over this network."""
        transport = httpx.AsyncHTTPTransport(verify=False)
        # httpx has no public door for a network backend.
        transport._pool = httpcore.AsyncConnectionPool(network_backend=self, keepalive_expiry=4.0, max_connections=16)
        return transport
