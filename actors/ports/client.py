"""The door to the cloud: one POST or one probe at a time, bounded in time and size, every failure under one name."""

import errno
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import attrs
import httpx
import structlog
import trio

from actors.ports.lane import RunSync, thread_lane
from actors.ports.tls import Tls, causes, explain
from actors.values import MASK
from cloud import wire

ANSWER_BYTES_MAX = 8 * 1024 * 1024
"""What is read of an answer; that to the largest batch stays below, whatever the cloud says of each of its records."""
INLINE_BYTES_MAX = 64 * 1024
"""Bodies up to this size are compressed on the loop: that takes less time than a thread's hop."""
CONNECTIONS_MAX = 16
KEEPALIVE_S = 4.0
"""Shorter than the 5 s after which common servers hang up, so that a POST rarely meets a closing connection."""
NOBODY_ERRNOS = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ETIMEDOUT)
HEADERS_KEPT = ("content-type", "date", "location", "retry-after", "holdfast-wire", "holdfast-batch-max")

log = structlog.get_logger()


class Unreachable(Exception):
    """No answer, or not a whole one; `reason` says why, in words fit for a log (never a secret in it).

    `silent`: nobody was met at all, not even one who refused: no name, no way there, or no answer in time.
    """

    def __init__(self, reason: str, *, silent: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.silent = silent


@attrs.frozen
class CloudAnswer:
    """What came back: the status, the few headers that mean something (lower case), at most 8 MiB of body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@attrs.define
class ApiKey:
    """The API key: a value, or a file that is read again whenever it changes. Never shows itself."""

    value: str = attrs.field(default="", repr=False)
    file: Path | None = None
    _seen: tuple[int, int, int] | None = attrs.field(default=None, init=False, repr=False)

    def read(self) -> str:
        """The key as of now; empty if there is none. A file that can't be read leaves the last key in force."""
        if self.file is not None:
            try:
                self._reread(self.file)
            except (OSError, UnicodeDecodeError) as exc:
                log.warning("api_key_unreadable", file=str(self.file), error=type(exc).__name__)
        return self.value

    def _reread(self, file: Path) -> None:
        stat = os.stat(file)  # noqa: PTH116 - follows the link that Kubernetes swaps, in one call
        seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if seen == self._seen:
            return
        key = file.read_text(encoding="utf-8").strip()
        self._seen = seen
        if key.isascii() and key.isprintable():
            self.value = key
        else:
            # Sent as it is, it would show in the HTTP library's error.
            log.error("api_key_unusable", file=str(file), error="not one line of printable ASCII")


class _Whole(httpx.AsyncByteStream):
    """A body in one piece. httpx's own is a generator, which a connection that breaks leaves unfinished."""

    def __init__(self, content: bytes) -> None:
        self._left = [content]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


@attrs.define(eq=False)
class _Line:
    """A pool of connections of one TLS context, and how many requests are on it."""

    transport: httpx.AsyncBaseTransport
    requests: int = 0


class CloudClient:
    """Speaks HTTP to one endpoint. Use as `async with CloudClient(...) as client`.

    `endpoint` is the URL of `POST /log`; the probe goes to `health` beside it. `timeout_s` bounds a whole POST, from
    the name's resolution to the answer's last byte. `transport` replaces the network in tests, where `run_sync` is
    the inline lane.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        timeout_s: float,
        key: ApiKey | None = None,
        run_sync: RunSync | None = None,
        tls: Tls | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`ValueError`: the endpoint is no http(s) URL, or the key none that a header can carry. `TlsUnusable`."""
        self._log_url = _endpoint_url(endpoint)
        self._health_url = self._log_url.join("health")
        self._timeout_s = timeout_s
        self._key = key or ApiKey()
        if not (self._key.value.isascii() and (self._key.value.isprintable())):
            raise ValueError("the API key must be one line of printable ASCII")
        self._run_sync = run_sync or thread_lane()
        self._tls = tls or Tls()
        self._line = _Line(transport or _transport(self._tls.context()))
        self._taken: frozenset[str] = frozenset({"gzip"})
        self._refused: frozenset[str] = frozenset()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._line.transport.aclose()

    def change_key(self, key: ApiKey) -> None:
        """Use another key from the next request on."""
        self._key = key

    async def post(self, body: bytes) -> CloudAnswer:
        """The cloud's answer to `body`, compressed as the cloud likes it. `Unreachable` within `timeout_s`.

        A coding that is answered with 415 is not used again, and the body goes out once more without it.
        """
        try:
            with trio.fail_after(self._timeout_s):
                while True:
                    encoding = _choose_encoding(len(body), self._taken, self._refused)
                    answer = await self._exchange("POST", self._log_url, await self._packed(body, encoding), encoding)
                    if answer.status != 415 or encoding == "identity":
                        return answer
                    self._refused |= {encoding}
                    log.warning("encoding_refused", encoding=encoding)
        except trio.TooSlowError as exc:
            raise Unreachable(f"no answer within {self._timeout_s:g} s") from exc

    async def probe(self, *, timeout_s: float) -> CloudAnswer:
        """The answer to `HEAD health`. `Unreachable` within `timeout_s`."""
        try:
            with trio.fail_after(timeout_s):
                return await self._exchange("HEAD", self._health_url)
        except trio.TooSlowError as exc:
            raise Unreachable(f"no answer within {timeout_s:g} s", silent=True) from exc

    async def audit(self, device_id: str) -> CloudAnswer:
        """The answer to `GET devices/{device_id}/audit`. `Unreachable` within `timeout_s`."""
        try:
            with trio.fail_after(self._timeout_s):
                return await self._exchange("GET", self._log_url.join(f"devices/{quote(device_id, safe='')}/audit"))
        except trio.TooSlowError as exc:
            raise Unreachable(f"no answer within {self._timeout_s:g} s") from exc

    @asynccontextmanager
    async def _current_line(self) -> AsyncIterator[httpx.AsyncBaseTransport]:
        """The connections for one request: new ones once a certificate file has changed, and what is under way on the
        ones before ends there in peace.
        """
        if self._tls.files and (context := await self._run_sync(self._tls.reread)):
            before, self._line = self._line, _Line(_transport(context))
            if not before.requests:
                await before.transport.aclose()
        line = self._line
        line.requests += 1
        try:
            yield line.transport
        finally:
            line.requests -= 1
            if line is not self._line and not line.requests:
                await line.transport.aclose()

    async def _packed(self, body: bytes, encoding: wire.Encoding) -> bytes:
        if encoding == "identity" or len(body) <= INLINE_BYTES_MAX:
            return wire.compress(body, encoding)
        return await self._run_sync(wire.compress, body, encoding)

    async def _exchange(
        self, method: str, url: httpx.URL, content: bytes = b"", encoding: wire.Encoding = "identity"
    ) -> CloudAnswer:
        headers = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "holdfast"}
        if method == "POST":
            headers["content-type"] = "application/json"
            if encoding != "identity":
                headers["content-encoding"] = encoding
        key = ""
        if method != "HEAD":
            key = self._key.read() if self._key.file is None else await self._run_sync(self._key.read)
            if key:
                headers["authorization"] = f"Bearer {key}"
        request = httpx.Request(method, url, headers=headers, content=content)
        request.stream = _Whole(content)
        try:
            async with self._current_line() as transport:
                response = await transport.handle_async_request(request)
                try:
                    body = await _read_bounded(response)
                finally:
                    await response.aclose()
        except httpx.TransportError as exc:
            reason = explain(exc) or str(exc) or "the connection broke off"
            raise Unreachable(f"{type(exc).__name__}: {reason}", silent=_nobody_met(exc)) from exc
        if taken := response.headers.get("accept-encoding"):
            self._taken = _parse_accept(taken)
        kept = {name: response.headers[name] for name in HEADERS_KEPT if name in response.headers}
        answer = CloudAnswer(response.status_code, kept, _plain(body, response.headers.get("content-encoding", "")))
        return _without(key, answer) if key else answer


def _without(key: str, answer: CloudAnswer) -> CloudAnswer:
    """An answer that does not tell the key: whoever answers may repeat what he was asked, and answers get into logs."""
    headers = {name: value.replace(key, MASK) for name, value in answer.headers.items()}
    return CloudAnswer(answer.status, headers, answer.body.replace(key.encode(), MASK.encode()))


def _nobody_met(error: BaseException) -> bool:
    """Whether the connection failed before anybody could refuse it, at every address of the name."""
    told = [cause for cause in causes(error) if isinstance(cause, OSError) and cause.errno is not None]
    return bool(told) and all(isinstance(one, socket.gaierror) or one.errno in NOBODY_ERRNOS for one in told)


def _transport(context: ssl.SSLContext) -> httpx.AsyncHTTPTransport:
    """Not httpx's client: no cookies, no redirects, no proxies or keys out of the environment."""
    limits = httpx.Limits(max_connections=CONNECTIONS_MAX, keepalive_expiry=KEEPALIVE_S)
    return httpx.AsyncHTTPTransport(verify=context, trust_env=False, limits=limits)


def _endpoint_url(endpoint: str) -> httpx.URL:
    try:
        url = httpx.URL(endpoint)
    except httpx.InvalidURL as exc:
        raise ValueError(f"the endpoint is no URL: {exc}") from exc
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("the endpoint must be a URL like http://host:port/log")
    if not all(0 < len(label) < 64 for label in url.host.removesuffix(".").split(".")):
        raise ValueError("the endpoint's host is no name: a part of it is empty or longer than 63 characters")
    if url.userinfo:
        raise ValueError("the endpoint must not carry a user or password; give the API key instead")
    return url


def _choose_encoding(size: int, taken: frozenset[str], refused: frozenset[str]) -> wire.Encoding:
    """The coding for a body of `size` bytes; gzip is what any server is thought to take until it says otherwise."""
    if size <= wire.IDENTITY_BYTES_MAX:
        return "identity"
    if "zstd" in taken - refused:
        return "zstd"
    return "gzip" if "gzip" in taken - refused else "identity"


def _parse_accept(header: str) -> frozenset[str]:
    """The codings that an `Accept-Encoding` header names and does not exclude with `q=0`."""
    taken = set()
    for item in header.lower().split(","):
        name, _, weight = (part.strip() for part in item.partition(";"))
        if name and not re.fullmatch(r"q\s*=\s*0(\.0*)?", weight):
            taken.add(name)
    return frozenset(taken)


async def _read_bounded(response: httpx.Response) -> bytes:
    """The answer's raw bytes, at most ANSWER_BYTES_MAX of them: the rest is not read, the connection not reused."""
    body = bytearray()
    # Cancelled and not broken out of: that ends each of the generators below, a break would leave them hanging.
    with trio.CancelScope() as enough:
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) >= ANSWER_BYTES_MAX:
                enough.cancel()
    return bytes(body[:ANSWER_BYTES_MAX])


def _plain(body: bytes, encoding: str) -> bytes:
    """The body without the coding that nobody asked for; as it came if it can't be undone."""
    try:
        return wire.decompress(body, encoding.strip().lower(), ANSWER_BYTES_MAX)
    except wire.WireError:
        return body
