"""One HTTP exchange: its end is always told to the server, and what it came to is told to the log and the metrics.

When an answer's last piece is sent, the server reports the client's side as closed before it has put the connection
back to idle, and quart-trio then cancels the very task that is still sending. Hypercorn's idle timer would never start:
idle connections would stay for ever, and hold up every shutdown. So the last piece is sent behind a shield.
"""

import re
import secrets
from collections.abc import Callable
from functools import cached_property

import attrs
import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent
from quart.wrappers import Request
from quart_trio.asgi import TrioASGIHTTPConnection, TrioASGIWebsocketConnection
from quart_trio.wrappers import TrioRequest

from cloud.keys import Key

LAST_PIECE_S_MAX = 10.0
CLIENT_GONE = 499
"""The status in log and metrics where the client left before the answer (nginx's number)."""
OBSERVER = "holdfast_observer"
_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


class AnswerBroken(Exception):
    """An answer that has begun can't be finished: the connection is closed, so that nobody takes the half for all."""


class CloudRequest(TrioRequest):
    """A request, and what is found out about it on the way."""

    key: Key | None = None
    device_id: str | None = None

    @cached_property
    def request_id(self) -> str:
        """The caller's `X-Request-Id` if it is a sane one, else one of ours."""
        given = str(self.headers.get("X-Request-Id", ""))
        return given if _SANE_ID.fullmatch(given) else secrets.token_hex(8)

    @property
    def route(self) -> str:
        """The pattern of the path: one of few, whatever a stranger asks for."""
        return "unmatched" if self.url_rule is None else str(self.url_rule.rule)


@attrs.frozen
class Ended:
    """An exchange that is over."""

    request: CloudRequest
    status: int
    seconds: float
    bytes_sent: int


Observer = Callable[[Ended], None]


class NoWebsocket(TrioASGIWebsocketConnection):
    """There is no websocket here: whoever asks for one gets a 403, before any route or key is looked at."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Close it before it is open."""
        await receive()
        await send({"type": "websocket.close", "code": 1000, "reason": None})


class Exchange(TrioASGIHTTPConnection):
    """quart-trio's exchange with a last piece that can't be cut off, and an observer (`app.extensions[OBSERVER]`)."""

    async def handle_request(  # type: ignore[override]  # quart-trio adds the nursery, too
        self, nursery: trio.Nursery, request: Request, send: ASGISendCallable
    ) -> None:
        """Answer `request`; the last send may take `LAST_PIECE_S_MAX` whatever is cancelled around it."""
        assert isinstance(request, CloudRequest)
        began = trio.current_time()
        status = CLIENT_GONE
        bytes_sent = 0

        async def send_whole(event: ASGISendEvent) -> None:
            nonlocal status, bytes_sent
            if event["type"] == "http.response.start":
                status = event["status"]
            if event["type"] != "http.response.body":
                await send(event)
                return
            bytes_sent += len(event["body"])
            if event.get("more_body", False):
                await send(event)
            else:
                with trio.move_on_after(LAST_PIECE_S_MAX, shield=True):
                    await send(event)

        try:
            await super().handle_request(nursery, request, send_whole)
        except AnswerBroken:
            nursery.cancel_scope.cancel()
        finally:
            observer: Observer = self.app.extensions[OBSERVER]
            observer(Ended(request, status, trio.current_time() - began, bytes_sent))
