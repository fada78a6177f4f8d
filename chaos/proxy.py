"""Proxy: a TCP wire between device and cloud that can be cut, silenced, slowed and healed while both ends are real.

In a program: `port = await nursery.start(proxy.serve)`, then `proxy.sever()`, `proxy.blackhole()`, `proxy.heal()`, each
in force when it returns. From a shell: `python -m chaos.proxy --target 127.0.0.1:8001`, then a command a line on stdin.
"""

import argparse
import contextlib
import enum
import math
import os
import socket
import struct
import sys
from collections.abc import AsyncGenerator
from typing import Final, NoReturn

import attrs
import trio

CHUNK_BYTES_MAX: Final = 64 * 1024
"""What each direction of a connection holds at most; beyond it the sender waits, as on a real wire."""
CONNECTIONS_MAX: Final = 256
"""Live connections; one more is reset at once."""
BACKLOG_MAX: Final = 128
LINE_BYTES_MAX: Final = 1_024
STDIN_FD: Final = 0
TEAR_AFTER_S: Final = 0.02
"""Half an answer gets so long to be read before the reset: a reset throws away what the reader has not taken."""
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing throws unsent bytes away and sends RST."""

COMMANDS: Final = ("sever", "blackhole", "one_way", "tear_requests", "tear_answers", "heal", "quit")


class Mode(enum.Enum):
    """What the wire does."""

    UP = "up"
    """Carries bytes both ways."""
    REFUSE = "refuse"
    """Nobody listens: a new connection is refused by the kernel, as by a cloud that is not there."""
    BLACKHOLE = "blackhole"
    """Connections open, everything sent is swallowed, nothing ever comes back: as a broken route or a dead firewall."""
    ONE_WAY = "one way"
    """Requests arrive, answers do not: the cloud stores, and the device can't know."""
    TEAR_REQUESTS = "tear requests"
    """Connections open; with the first bytes of a request the connection is reset, and the cloud has nothing of it."""
    TEAR_ANSWERS = "tear answers"
    """Requests arrive; of each answer the first half does, and then the connection is reset."""


@attrs.define(eq=False)
class _Connection:
    device: trio.SocketStream
    cloud: trio.SocketStream | None = None
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    def reset(self) -> None:
        """Both ends see a reset; what was under way is lost."""
        for stream in (self.device, self.cloud):
            if stream is not None and stream.socket.fileno() != -1:
                stream.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, RESET_ON_CLOSE)
                stream.socket.close()
        self.scope.cancel()


@attrs.define(eq=False)
class Proxy:
    """A listening port on the device's side, a target on the cloud's side, and the wire between them."""

    target_host: str
    target_port: int
    mode: Mode = attrs.field(default=Mode.UP, init=False)
    delay_s: float = attrs.field(default=0.0, init=False)
    """How long what was read waits before it is carried on, in each direction."""
    bytes_per_s: float = attrs.field(default=math.inf, init=False)
    """How fast each direction of a connection carries."""
    port: int = attrs.field(default=0, init=False)
    """Where it listens; 0 until `serve` has started."""
    connections: int = attrs.field(default=0, init=False)
    """Connections taken since the start."""
    resets: int = attrs.field(default=0, init=False)
    """Live connections that `sever` or `heal` has torn."""
    bytes_up: int = attrs.field(default=0, init=False)
    """Bytes carried from the device to the cloud."""
    bytes_down: int = attrs.field(default=0, init=False)
    bytes_swallowed: int = attrs.field(default=0, init=False)
    _keeper: socket.socket | None = attrs.field(default=None, init=False)
    _listener: trio.SocketListener | None = attrs.field(default=None, init=False)
    _opened: trio.Event = attrs.field(factory=trio.Event, init=False)
    _live: list[_Connection] = attrs.field(factory=list, init=False)

    async def serve(
        self,
        *,
        listen_host: str = "127.0.0.1",
        listen_port: int = 0,
        task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Carry connections until cancelled; reports its port when it listens. OSError if the port is not to be had.

        A second socket, bound but never listening, keeps the port while it is severed, so that it can't be lost.
        """
        with _bind(listen_host, listen_port) as self._keeper:
            self.port = self._keeper.getsockname()[1]
            self._listen()
            task_status.started(self.port)
            try:
                async with trio.open_nursery() as nursery:
                    while True:
                        await self._opened.wait()
                        await self._accept(nursery)
            finally:
                self._unlisten()
                self._reset_all()

    def sever(self) -> None:
        """Cut the wire: live connections are reset, new ones refused."""
        self.mode = Mode.REFUSE
        self._unlisten()
        self._reset_all()

    def blackhole(self) -> None:
        """Silence the wire: live and new connections stay open and carry nothing."""
        self.mode = Mode.BLACKHOLE
        self._listen()

    def one_way(self) -> None:
        """Requests arrive, answers are swallowed."""
        self.mode = Mode.ONE_WAY
        self._listen()

    def tear_requests(self) -> None:
        """Each request's connection is reset before anything of it has arrived."""
        self.mode = Mode.TEAR_REQUESTS
        self._listen()

    def tear_answers(self) -> None:
        """Each answer's connection is reset in the middle of it."""
        self.mode = Mode.TEAR_ANSWERS
        self._listen()

    def slow(self, *, delay_s: float, bytes_per_s: float) -> None:
        """Carry late and slowly, as a satellite does. Loss can't be had here: TCP below us repeats what is lost."""
        self.delay_s, self.bytes_per_s = delay_s, bytes_per_s

    def heal(self) -> None:
        """Carry again, at full speed. Connections whose bytes were swallowed are reset: some of theirs are missing."""
        if self.mode in (Mode.BLACKHOLE, Mode.ONE_WAY):
            self._reset_all()
        self.slow(delay_s=0.0, bytes_per_s=math.inf)
        self.mode = Mode.UP
        self._listen()

    def turn_to(self, port: int) -> None:
        """Lead to another port of the target's host from now on; live connections are reset."""
        self.target_port = port
        self._reset_all()

    def _listen(self) -> None:
        if self._listener is not None:
            return
        assert self._keeper is not None, "the proxy is not being served"
        bound = _bind(*self._keeper.getsockname()[:2])
        bound.listen(BACKLOG_MAX)
        self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound))
        self._opened.set()

    def _unlisten(self) -> None:
        if self._listener is not None:
            self._listener.socket.close()
            self._listener = None
            self._opened = trio.Event()

    def _reset_all(self) -> None:
        self.resets += len(self._live)
        for connection in self._live:
            connection.reset()
        self._live.clear()

    async def _accept(self, nursery: trio.Nursery) -> None:
        """Take connections until the listener is closed by `sever`."""
        with contextlib.suppress(trio.ClosedResourceError):
            while self._listener is not None:
                device = await self._listener.accept()
                connection = _Connection(device)
                if self.mode is Mode.REFUSE or len(self._live) >= CONNECTIONS_MAX:
                    connection.reset()  # accepted in the very moment of the cut, or one too many
                    continue
                self.connections += 1
                self._live.append(connection)
                nursery.start_soon(self._carry, connection)

    async def _carry(self, connection: _Connection) -> None:
        """One connection's life: dial the cloud, carry both ways, and let an end or a reset of one side pass on."""
        with connection.scope:
            try:
                if self.mode is Mode.BLACKHOLE:
                    await self._swallow(connection.device)
                connection.cloud = await trio.open_tcp_stream(self.target_host, self.target_port)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, connection, connection.device, connection.cloud)
                    nursery.start_soon(self._pump, connection, connection.cloud, connection.device)
                await trio.aclose_forcefully(connection.device)
                await trio.aclose_forcefully(connection.cloud)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                connection.reset()
        if connection in self._live:
            self._live.remove(connection)

    async def _pump(self, connection: _Connection, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        """Carry one direction to its end; what is swallowed is swallowed with its end."""
        upwards = source is connection.device
        try:
            while data := await source.receive_some(CHUNK_BYTES_MAX):
                if self.delay_s or self.bytes_per_s < math.inf:
                    await trio.sleep(self.delay_s + len(data) / self.bytes_per_s)
                if self._swallows(upwards=upwards):
                    self.bytes_swallowed += len(data)
                    continue
                if self.mode is Mode.TEAR_REQUESTS and upwards:
                    connection.reset()
                    return
                if self.mode is Mode.TEAR_ANSWERS and not upwards:
                    await sink.send_all(data[: len(data) // 2])
                    await trio.sleep(TEAR_AFTER_S)
                    connection.reset()
                    return
                await sink.send_all(data)
                if upwards:
                    self.bytes_up += len(data)
                else:
                    self.bytes_down += len(data)
            if self._swallows(upwards=upwards):
                await trio.sleep_forever()
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            connection.reset()

    def _swallows(self, *, upwards: bool) -> bool:
        return self.mode is Mode.BLACKHOLE or (self.mode is Mode.ONE_WAY and not upwards)

    async def _swallow(self, source: trio.SocketStream) -> NoReturn:
        """The life of a connection made in a blackhole: it ends when it is reset."""
        while data := await source.receive_some(CHUNK_BYTES_MAX):
            self.bytes_swallowed += len(data)
        await trio.sleep_forever()


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket that others of ours may share its port with."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


async def _lines(fd: int) -> AsyncGenerator[str, None]:
    """Lines of a pipe, a terminal or a file, without a thread that would outlive us."""
    held = b""
    while True:
        with contextlib.suppress(PermissionError):  # epoll refuses plain files, which are always readable
            await trio.lowlevel.wait_readable(fd)
        data = os.read(fd, LINE_BYTES_MAX)
        *lines, held = (held + data).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
        if not data or len(held) > LINE_BYTES_MAX:
            yield held.decode(errors="replace")
            return


async def _obey(proxy: Proxy, fd: int) -> None:
    """Do as each line says, and answer it with the mode and the counts; the end of the input is `quit`."""
    async with contextlib.aclosing(_lines(fd)) as lines:
        async for line in lines:
            command = line.strip()
            if command == "quit":
                return
            if command in COMMANDS:
                getattr(proxy, command)()
                print(f"{proxy.mode.value} connections={proxy.connections} resets={proxy.resets}", flush=True)
            elif command:
                print(f"unknown command {command!r}; one of: {', '.join(COMMANDS)}", flush=True)


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r}; it takes HOST:PORT")
    return host.strip("[]"), int(port)


async def _main(listen: tuple[str, int], target: tuple[str, int]) -> None:
    proxy = Proxy(*target)
    async with trio.open_nursery() as nursery:

        async def serve(*, task_status: trio.TaskStatus[int]) -> None:
            await proxy.serve(listen_host=listen[0], listen_port=listen[1], task_status=task_status)

        port = await nursery.start(serve)
        print(f"listening on {listen[0]}:{port}", flush=True)
        await _obey(proxy, STDIN_FD)
        nursery.cancel_scope.cancel()


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m chaos.proxy", description=__doc__.splitlines()[0])
    parser.add_argument("--listen", type=_address, default=("127.0.0.1", 0), metavar="HOST:PORT", help="0: a free port")
    parser.add_argument("--target", type=_address, required=True, metavar="HOST:PORT")
    options = parser.parse_args(arguments)
    code = 0
    try:
        trio.run(_main, options.listen, options.target)
    except* OSError as errors:
        print(f"cannot listen on {options.listen[0]}:{options.listen[1]}: {errors.exceptions[0]}", file=sys.stderr)
        code = 1
    except* KeyboardInterrupt:
        code = 130
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
