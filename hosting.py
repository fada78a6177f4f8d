"""How the cloud's and the device's HTTP is hosted: hypercorn's protocols, on connections that end when they are over.

Hypercorn's own connections stay until their idle timer ends although the client has closed them, and read nothing more,
for ever, where a second request came before the answer that closes the connection.
"""

import socket
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf
from typing import Any

import attrs
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config, Sockets
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import (
    AppWrapper,
    ASGIFramework,
    ASGIReceiveCallable,
    ASGIReceiveEvent,
    ASGISendCallable,
    ASGISendEvent,
    ConnectionState,
    LifespanState,
    Scope,
)
from hypercorn.utils import parse_socket_addr, repr_socket_addr
from quart.wrappers import Request
from quart_trio.asgi import TrioASGIHTTPConnection

LAST_PIECE_S_MAX = 10.0
READ_BYTES_MAX = 64 * 1024


class Exchange(TrioASGIHTTPConnection):
    """quart-trio's exchange with a last piece that can't be cut off by its own end.

    When that piece is sent, hypercorn reports the client's side as closed before it has put the connection back to
    idle, and quart-trio then cancels the very task that is still sending: the connection would never be idle again.
    """

    async def handle_request(  # type: ignore[override]  # quart-trio adds the nursery, too
        self, nursery: trio.Nursery, request: Request, send: ASGISendCallable
    ) -> None:
        """Answer `request`; the last send may take `LAST_PIECE_S_MAX` whatever is cancelled around it."""

        async def send_whole(event: ASGISendEvent) -> None:
            if event["type"] == "http.response.body" and not event.get("more_body", False):
                with trio.move_on_after(LAST_PIECE_S_MAX, shield=True):
                    await send(event)
            else:
                await send(event)

        await super().handle_request(nursery, request, send_whole)


class Hosting(Config):
    """Hypercorn's configuration: where to listen, what is bounded before the app is asked, and nothing else of ours."""

    def __init__(self, bind: str, *, grace_s: float, keep_alive_s: float, stalled_s: float | None) -> None:
        """`bind` is HOST:PORT, or fd://N for a socket that listens already.

        `grace_s`: how long requests under way may take once a stop has come. `keep_alive_s`: how long an idle
        connection stays open. `stalled_s`: how long a client may take nothing of its answer; None where clients do not
        come by TCP.
        """
        super().__init__()
        self.bind = [bind]
        self.graceful_timeout = grace_s
        self.keep_alive_timeout = keep_alive_s
        self.stalled_s = stalled_s
        self.include_server_header = False
        self.loglevel = "WARNING"

    def create_sockets(self) -> Sockets:
        """The listening sockets; what they accept gives up on a client that takes nothing.

        An answer is sent behind a shield without a deadline: such a client would hold up a stop for ever.
        """
        sockets: Sockets = super().create_sockets()
        if self.stalled_s is not None and hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux has it.
            for listening in sockets.insecure_sockets:
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(self.stalled_s * 1_000))
        return sockets


@attrs.define(eq=False)
class Host:
    """An app, and the connections to it."""

    app: ASGIFramework
    config: Config
    state: LifespanState = attrs.field(factory=dict)
    _context: WorkerContext = attrs.field(init=False, factory=partial(WorkerContext, None))
    _open: set["_Connection"] = attrs.field(init=False, factory=set)

    async def handle(self, stream: trio.SocketStream) -> None:
        """Answer one client until it goes, says nothing for a while, or a stop finds it idle."""
        connection = _Connection(self.config, self._context, stream)
        self._open.add(connection)
        try:
            await connection.run(ASGIWrapper(self.app), self.state)
        finally:
            self._open.remove(connection)

    async def stop(self) -> None:
        """Let go of who is idle, and of the rest once they are answered."""
        await self._context.terminated.set()
        for connection in self._open:
            connection.stop()


class _Tasks(TaskGroup):
    """Hypercorn's, but for turns of the loop: what the app's queue has room for, and what lies in it, moves at once."""

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: Scope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Start the app on one request; what is returned puts events into its queue."""
        inlet, outlet = trio.open_memory_channel[ASGIReceiveEvent](config.max_app_queue_size)

        async def put(event: ASGIReceiveEvent) -> None:
            try:
                inlet.send_nowait(event)
            except trio.WouldBlock:
                await inlet.send(event)

        async def take() -> ASGIReceiveEvent:
            try:
                return outlet.receive_nowait()
            except trio.WouldBlock:
                return await outlet.receive()

        async def taking(
            scope: Scope,
            receive: ASGIReceiveCallable,  # noqa: ARG001 - the queue is ours
            send: ASGISendCallable,
            sync_spawn: Callable[..., Any],
            call_soon: Callable[..., Any],
        ) -> None:
            await app(scope, take, send, sync_spawn, call_soon)

        await super().spawn_app(taking, config, scope, send)
        return put


class _Connection:
    """One client. Its reader's scope is its life: whatever ends that cancels it, and its deadline is the idle timer."""

    def __init__(self, config: Config, context: WorkerContext, stream: trio.SocketStream) -> None:
        self._config = config
        self._context = context
        self._stream = stream
        self._sending = trio.Lock()
        self._reading = trio.CancelScope()
        self._idle = trio.Event()
        self._head: bytes | None = b""
        """Of an answer, until the first piece of its body is there to be sent with it; None once it is sent."""
        self._protocol: ProtocolWrapper

    async def run(self, app: ASGIWrapper, state: LifespanState) -> None:
        try:
            peer = self._stream.socket
            client = parse_socket_addr(peer.family, peer.getpeername())
            server = parse_socket_addr(peer.family, peer.getsockname())
            async with _Tasks() as tasks:
                self._protocol = ProtocolWrapper(
                    app, self._config, self._context, tasks, ConnectionState(state), False, client, server, self._send
                )  # fmt: skip
                await self._protocol.initiate()
                self._rest()
                with self._reading:
                    await self._read()
                await self._stream.aclose()
                await self._protocol.handle(Closed())
        except OSError:
            pass  # It was gone before anybody could ask who it was.
        finally:
            await self._stream.aclose()

    def stop(self) -> None:
        """Go, if nothing is under way; hypercorn closes what is, once it is answered."""
        if self._idle.is_set():
            self._reading.cancel()

    async def _read(self) -> None:
        """Take what comes until the client closes its side, and wait for the answer to what it has asked by then."""
        while True:
            try:
                data = await self._stream.receive_some(READ_BYTES_MAX)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            await self._protocol.handle(RawData(bytes(data)))
            if not data:
                break
        await self._idle.wait()

    async def _send(self, event: Event) -> None:
        """What the protocol wants done; as what it tells may cancel whoever calls, nothing but bytes is awaited."""
        match event:
            case RawData(data=data):
                await self._send_bytes(data)
            case Closed():
                self._reading.cancel()
            case Updated(idle=True):
                self._head = b""
                self._rest()
            case Updated():
                self._idle = trio.Event()
                self._reading.deadline = inf

    async def _send_bytes(self, data: bytes) -> None:
        if self._head is not None:
            if not self._head and data[:9] == b"HTTP/1.1 " and data[9:10] != b"1":
                self._head = data
                return
            if self._head:
                data, self._head = self._head + data, None
        if not data:
            return  # The end of an answer whose length was told: a turn of the loop for nothing.
        try:
            self._sending.acquire_nowait()
        except trio.WouldBlock:
            await self._sending.acquire()
        try:
            with trio.CancelScope(shield=True):
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._reading.cancel()
        finally:
            self._sending.release()

    def _rest(self) -> None:
        self._idle.set()
        self._reading.deadline = trio.current_time() + self._config.keep_alive_timeout
        if self._context.terminated.is_set():
            self._reading.cancel()


async def serve(
    app: ASGIFramework,
    config: Hosting,
    stopping: trio.Event,
    *,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `stopping` and its grace; `task_status` is told the URLs. `OSError`s where the port can't be had."""
    host = Host(app, config)
    lifespan = Lifespan(ASGIWrapper(app), config, host.state)
    async with trio.open_nursery() as living:
        await living.start(lifespan.handle_lifespan)
        await lifespan.wait_for_startup()
        async with trio.open_nursery() as answering:
            sockets = config.create_sockets().insecure_sockets
            for listening in sockets:
                listening.listen(config.backlog)
            listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listening)) for listening in sockets]
            async with trio.open_nursery() as accepting:
                accepting.start_soon(partial(trio.serve_listeners, host.handle, listeners, handler_nursery=answering))
                task_status.started([f"http://{repr_socket_addr(s.family, s.getsockname())}" for s in sockets])
                await stopping.wait()
                accepting.cancel_scope.cancel()
            await host.stop()
            answering.cancel_scope.deadline = trio.current_time() + config.graceful_timeout
        await lifespan.wait_for_shutdown()
        living.cancel_scope.cancel()
