"""How hypercorn hosts our endpoints: clients that say nothing more, or take nothing of an answer, are let go."""

import socket

import attrs
import trio
from hypercorn.config import Config, Sockets
from hypercorn.typing import ASGISendCallable, ASGISendEvent
from quart.wrappers import Request
from quart_trio.asgi import TrioASGIHTTPConnection

LAST_PIECE_S_MAX = 5.0


class Exchange(TrioASGIHTTPConnection):
    """quart-trio's exchange with a last piece that can't be cut off by its own end.

    When that piece is sent, hypercorn reports the client's side as closed before it has put the connection back to
    idle, and quart-trio then cancels the task that is still sending: the idle timer would never start.
    """

    async def handle_request(  # type: ignore[override]  # quart-trio adds the nursery, too
        self, nursery: trio.Nursery, request: Request, send: ASGISendCallable
    ) -> None:
        """Answer `request`."""

        async def send_whole(event: ASGISendEvent) -> None:
            if event["type"] == "http.response.body" and not event.get("more_body", False):
                with trio.move_on_after(LAST_PIECE_S_MAX, shield=True):
                    await send(event)
            else:
                await send(event)

        await super().handle_request(nursery, request, send_whole)


@attrs.define
class Hosting(Config):
    """Hypercorn's configuration, with sockets that give up on a client that takes nothing for `stalled_s`.

    Hypercorn sends behind a shield without a deadline: such a client would hold up a stop for ever.
    """

    stalled_s: float

    def create_sockets(self) -> Sockets:
        """The listening sockets; what they accept inherits the option."""
        sockets: Sockets = super().create_sockets()
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux has it
            for listening in sockets.insecure_sockets:
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(self.stalled_s * 1_000))
        return sockets
