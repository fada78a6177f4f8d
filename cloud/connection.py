"""One HTTP exchange, whose end is always told to the server.

When an answer's last piece is sent, the server reports the client's side as closed before it has put the connection
back to idle, and quart-trio then cancels the very task that is still sending. Hypercorn's idle timer would never start:
idle connections would stay for ever, and hold up every shutdown. So the last piece is sent behind a shield.
"""

import trio
from hypercorn.typing import ASGISendCallable, ASGISendEvent
from quart.wrappers import Request
from quart_trio.asgi import TrioASGIHTTPConnection

LAST_PIECE_S_MAX = 10.0


class Exchange(TrioASGIHTTPConnection):
    """quart-trio's exchange with a last piece that can't be cut off."""

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
