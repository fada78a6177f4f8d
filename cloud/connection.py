"""One HTTP exchange: what it came to is told to the log and the metrics."""

import re
import secrets
from collections.abc import Callable
from functools import cached_property
from urllib.parse import urlsplit

import attrs
import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, HTTPScope
from quart.wrappers import Request
from quart_trio.asgi import TrioASGIWebsocketConnection
from quart_trio.wrappers import TrioRequest

import hosting
from cloud.keys import Key

CLIENT_GONE = 499
"""The status in log and metrics where the client left before the answer (nginx's number)."""
OBSERVER = "holdfast_observer"
BELOW = "holdfast_below"
"""The ASGI apps that answer a method and a path instead of Quart."""
_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


class AnswerBroken(Exception):
    """An answer that has begun can't be finished: the connection is closed, so that nobody takes the half for all."""


def request_id_of(given: str) -> str:
    """The caller's `X-Request-Id` if it is a sane one, else one of ours."""
    return given if _SANE_ID.fullmatch(given) else secrets.token_hex(8)


class CloudRequest(TrioRequest):
    """A request, and what is found out about it on the way."""

    key: Key | None = None
    device_id: str | None = None

    @cached_property
    def request_id(self) -> str:
        """By which the log and the client know it."""
        return request_id_of(str(self.headers.get("X-Request-Id", "")))

    @property
    def route(self) -> str:
        """The pattern of the path: one of few, whatever a stranger asks for."""
        return "unmatched" if self.url_rule is None else str(self.url_rule.rule)


@attrs.frozen
class Ended:
    """An exchange that is over."""

    request_id: str
    method: str
    path: str
    route: str
    peer: str | None
    key: Key | None
    device_id: str | None
    status: int
    seconds: float
    bytes_sent: int


Observer = Callable[[Ended], None]


def path_in(scope: HTTPScope) -> str:
    """The path that is asked for, as Quart understands it."""
    path = scope["path"] if scope["path"].startswith("/") else urlsplit(scope["path"]).path
    return path.removeprefix(scope.get("root_path", ""))


class NoWebsocket(TrioASGIWebsocketConnection):
    """There is no websocket here: whoever asks for one gets a 403, before any route or key is looked at."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Close it before it is open."""
        await receive()
        await send({"type": "websocket.close", "code": 1000, "reason": None})


class Exchange(hosting.Exchange):
    """An exchange with an observer (`app.extensions[OBSERVER]`), unless it is for a route below Quart (`BELOW`)."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Answer one request."""
        route = self.app.extensions[BELOW].get((self.scope["method"], path_in(self.scope)))
        if route is None:
            await super().__call__(receive, send)
        else:
            await route(self.scope, receive, send)

    async def handle_request(  # type: ignore[override]  # quart-trio adds the nursery
        self, nursery: trio.Nursery, request: Request, send: ASGISendCallable
    ) -> None:
        """Answer `request`, and tell the observer what it came to."""
        assert isinstance(request, CloudRequest)
        began = trio.current_time()
        status = CLIENT_GONE
        bytes_sent = 0

        async def send_counted(event: ASGISendEvent) -> None:
            nonlocal status, bytes_sent
            if event["type"] == "http.response.start":
                status = event["status"]
            elif event["type"] == "http.response.body":
                bytes_sent += len(event["body"])
            await send(event)

        try:
            await super().handle_request(nursery, request, send_counted)
        except AnswerBroken:
            nursery.cancel_scope.cancel()
        finally:
            observer: Observer = self.app.extensions[OBSERVER]
            observer(
                Ended(
                    request.request_id,
                    request.method,
                    request.path,
                    request.route,
                    request.remote_addr,
                    request.key,
                    request.device_id,
                    status,
                    trio.current_time() - began,
                    bytes_sent,
                )
            )
