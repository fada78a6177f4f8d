"""A server that says the same to everybody, to stand in for a cloud that is broken or is not the cloud at all."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

from chaos.stage import Failed

REQUEST_BYTES_MAX = 64 * 1024
CONNECTIONS_MAX = 64


@attrs.define(eq=False)
class Liar:
    """It answers whatever arrives with `answer`, and hangs up."""

    answer: bytes
    port: int = 0
    answers: int = 0

    async def serve(self, task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen on a free loopback port until cancelled."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=CONNECTIONS_MAX)
        self.port = listeners[0].socket.getsockname()[1]
        await trio.serve_listeners(self._lie, listeners, task_status=task_status)

    async def _lie(self, stream: trio.SocketStream) -> None:
        try:
            async with stream:
                await stream.receive_some(REQUEST_BYTES_MAX)
                await stream.send_all(self.answer)
                self.answers += 1
        except trio.BrokenResourceError:
            return

    def must_have_lied(self) -> None:
        """`Failed` if nobody asked: then the fault was never met."""
        if not self.answers:
            raise Failed("nobody asked the stand-in: the fault was never met")


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[Liar]:
    """A liar for the time of the block."""
    liar = Liar(answer)
    async with trio.open_nursery() as nursery:
        await nursery.start(liar.serve)
        yield liar
        nursery.cancel_scope.cancel()
