"""`POST /log`: from a request's bytes to the ledger's answer, below Quart, which took a fifth of a small batch's cost.

Who is let in, how a problem is worded, what every answer says, what is counted and logged: all that is decided by the
functions that the routes in Quart use.
"""

import contextlib
from collections.abc import Callable

import attrs
import msgspec
import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope

from cloud import intake, wire
from cloud.connection import CLIENT_GONE, Ended, Observer, request_id_of
from cloud.guard import Gate, introduced
from cloud.keys import Key
from cloud.ledger import Ledger, LedgerBusy
from cloud.limits import RETRY_AFTER_S, Limits, Place, Rates, Room
from cloud.metrics import Metrics
from cloud.problems import CONTENT_TYPE as PROBLEM
from cloud.problems import DeviceOfAnotherKey, Problem, explain
from cloud.sharing import Sharing

METHOD, PATH = "POST", "/log"
AWAITED_BYTES_MAX = 16 * 1024
"""No commit waits for a body larger than this: there is little to gain, and who waits with a few predictions would have
its commit with thousands of others.
"""


class ClientGone(Exception):
    """The client closed before its request was whole."""


@attrs.define
class Post:
    """One request, and what is found out about it on the way."""

    scope: HTTPScope
    headers: dict[str, str]
    """By their names in small letters; the first of equals."""
    request_id: str
    key: Key | None = None
    device_id: str | None = None

    @classmethod
    def of(cls, scope: HTTPScope) -> "Post":
        """What its head says."""
        given = reversed(list(scope["headers"]))
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in given}
        return cls(scope, headers, request_id_of(headers.get("x-request-id", "")))

    @property
    def is_small(self) -> bool:
        """Whether its body is, as far as its head tells."""
        length = self.headers.get("content-length", "")
        return not length.isdecimal() or int(length) <= AWAITED_BYTES_MAX

    @property
    def peer(self) -> str:
        """Where it came from."""
        client = self.scope["client"]
        return str(client[0]) if client else "<local>"


@attrs.define
class Body:
    """A request's body, piece by piece; `ClientGone` where it ends early."""

    _receive: ASGIReceiveCallable
    whole: bool = False

    def __aiter__(self) -> "Body":
        return self

    async def __anext__(self) -> bytes:
        if self.whole:
            raise StopAsyncIteration
        event = await self._receive()
        if event["type"] != "http.request":
            raise ClientGone
        self.whole = not event.get("more_body", False)
        return event.get("body", b"")

    async def drop(self) -> None:
        """Take what still comes: hypercorn can't close a request whose pieces nobody takes."""
        try:
            async for _ in self:
                pass
        except ClientGone:
            pass


@attrs.define(eq=False)
class Ingest:
    """What all batches share: where they go, who may send them, and what is counted."""

    ledger: Callable[[], Ledger]
    gate: Gate
    observe: Observer
    metrics: Metrics
    now: Callable[[], float]
    limits: Limits
    _room: Room = attrs.field(init=False)
    _rates: Rates = attrs.field(init=False)
    _sharing: Sharing = attrs.field(init=False, factory=Sharing)

    def __attrs_post_init__(self) -> None:
        self._room = Room(self.limits.requests_max)
        self._rates = Rates(self.limits.device_requests_per_s)

    async def __call__(self, scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Answer one request."""
        post, body = Post.of(scope), Body(receive)
        began = trio.current_time()
        status, bytes_sent = CLIENT_GONE, 0
        try:
            try:
                answer: wire.Answer | Problem = await self._take(post, body)
            except ClientGone:
                return
            except Exception as error:  # noqa: BLE001 - whatever it is, the client is told, and the log if it is ours
                answer = explain(error, request_id=post.request_id, path=PATH)
            status, content, headers = _shown(answer, post.request_id)
            bytes_sent = len(content)
            await _send(send, body, status, headers, content)
        finally:
            seconds = trio.current_time() - began
            self.observe(
                Ended(
                    post.request_id,
                    METHOD,
                    PATH,
                    PATH,
                    post.peer,
                    post.key,
                    post.device_id,
                    status,
                    seconds,
                    bytes_sent,
                )
            )

    async def _take(self, post: Post, body: Body) -> wire.Answer | Problem:
        post.key, refusal = self.gate.admit(
            PATH,
            peer=post.peer,
            host=post.headers.get("host", ""),
            authorization=post.headers.get("authorization", ""),
        )
        if refusal:
            return refusal
        ledger = self.ledger()
        if ledger.busy:
            raise LedgerBusy(RETRY_AFTER_S)
        with self._room.hold() as place, ledger.expect() if post.is_small else contextlib.nullcontext():
            received = await _read(post, place, body)
            self.metrics.received_bytes.inc(len(received))
            opened = intake.open_body(received, post.headers.get("content-encoding", ""))
            post.device_id = opened.device_id
            if post.key and not post.key.may_speak_for(opened.device_id):
                raise DeviceOfAnotherKey(post.key)
            self._rates.take(opened.device_id, trio.current_time())
            batch = intake.check_batch(opened, self.now())
            with self.metrics.committing():
                answer = await ledger.ingest(batch)
            self.metrics.count(batch, answer)
            if self._sharing.note(batch.device_id, batch.session_id, trio.current_time()):
                answer = msgspec.structs.replace(answer, shared=True)
            return answer


async def _read(post: Post, place: Place, body: Body) -> bytes:
    length = post.headers.get("content-length", "")
    if length.isdecimal() and int(length) > wire.BODY_BYTES_MAX:
        raise wire.BodyTooLarge(f"body: more than {wire.BODY_BYTES_MAX} bytes")
    return await place.read(body)


def _shown(answer: wire.Answer | Problem, request_id: str) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    """Status, body, and headers."""
    if isinstance(answer, Problem):
        content, kind, more = answer.json(request_id), PROBLEM, answer.headers
        status = answer.status
    else:
        content, kind, more, status = wire.encode_answer(answer), "application/json", {}, 200
    given = {"content-type": kind, "content-length": str(len(content)), **more}
    return status, content, introduced(given, request_id)


async def _send(
    send: ASGISendCallable, body: Body, status: int, headers: list[tuple[bytes, bytes]], content: bytes
) -> None:
    async def tell() -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content, "more_body": False})

    if body.whole:
        await tell()
        return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(body.drop)
        await tell()
        nursery.cancel_scope.cancel()
