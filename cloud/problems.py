"""What went wrong, as the problem document of RFC 9457 that a client gets: what, where, and what to do about it.

The text may name what was sent, but never more of it than a bounded, printable excerpt.
"""

from http import HTTPStatus

import attrs
import msgspec
import structlog
from werkzeug.exceptions import HTTPException

from cloud import intake, wire
from cloud.keys import Key
from cloud.ledger import LedgerBusy, LedgerUnavailable
from cloud.limits import BodyTooSlow, TooManyRequests, retry_after
from cloud.queries import QueryWrong

CONTENT_TYPE = "application/problem+json"
DETAIL_CHARS_MAX = 400
log = structlog.get_logger()
RENAMED = {413: "Content Too Large", 422: "Unprocessable Content"}
"""As RFC 9110 names them; Python's own list does so from 3.13 on."""
_encode = msgspec.json.Encoder().encode
# A page that shows the document without escaping it must not run what somebody else had sent.
_ESCAPED = ((b"<", b"\\u003c"), (b">", b"\\u003e"), (b"&", b"\\u0026"))


@attrs.frozen
class Problem:
    """An error: its status, one sentence that names the field, what to do about it, and headers that go with it."""

    status: int
    detail: str
    remedy: str | None = None
    headers: dict[str, str] = attrs.field(factory=dict)

    def json(self, request_id: str = "") -> bytes:
        """`{"type", "title", "status", "detail", "remedy", "request_id"}`; the last two where there are any."""
        title = RENAMED.get(self.status) or HTTPStatus(self.status).phrase
        document = {"type": "about:blank", "title": title, "status": self.status, "detail": excerpt(self.detail)}
        if self.remedy:
            document["remedy"] = self.remedy
        if request_id:
            document["request_id"] = request_id
        body = _encode(document)
        for char, escaped in _ESCAPED:
            body = body.replace(char, escaped)
        return body


def excerpt(text: str, chars_max: int = DETAIL_CHARS_MAX) -> str:
    """The start of a text that may quote a stranger: printable, on one line, at most `chars_max` characters."""
    cut = text if len(text) <= chars_max else text[: chars_max - 1] + "…"
    return "".join(char if char.isprintable() else "�" for char in cut)


class DeviceOfAnotherKey(Exception):
    """The key is bound to one device, and this is another."""

    def __init__(self, key: Key) -> None:
        super().__init__(f"edge_device_id: this key speaks for {key.device_id!r} alone")


_STATUSES: dict[type[Exception], tuple[int, str | None]] = {
    intake.BodyMalformed: (400, "send the batch as JSON, compressed as Content-Encoding says"),
    intake.EnvelopeInvalid: (422, None),
    intake.BatchTooLarge: (413, "split the batch"),
    wire.EncodingUnknown: (415, None),
    wire.BodyTooLarge: (413, "split the batch"),
    BodyTooSlow: (408, None),
    DeviceOfAnotherKey: (403, "use the key of that device"),
    QueryWrong: (400, None),
}


def problem_of(error: Exception) -> Problem | None:
    """What an error that a route raised means for the client; None for a defect of ours."""
    match error:
        case LedgerBusy() | LedgerUnavailable():
            return Problem(
                503, str(error), "nothing was stored; send it again", {"Retry-After": str(error.retry_after_s)}
            )
        case TooManyRequests():
            return Problem(429, str(error), "ask less often", {"Retry-After": retry_after(error.wait_s)})
        case HTTPException():
            return _of_framework(error)
    if type(error) not in _STATUSES:
        return None
    status, remedy = _STATUSES[type(error)]
    return Problem(status, str(error), remedy)


def explain(error: Exception, *, request_id: str, path: str) -> Problem:
    """What the client is told of an error; a defect of ours goes to the log, under the request's id."""
    problem = problem_of(error)
    if problem is None:
        log.error("request_failed", request_id=request_id, path=excerpt(path, 200), exc_info=error)
        problem = Problem(500, "internal error", "the service's log has the cause under this request_id")
    return problem


def _of_framework(error: HTTPException) -> Problem:
    """What the framework refuses: unknown paths and methods, bodies that are too large or too slow."""
    match error.code or 500:
        case 413:
            return Problem(413, f"body: more than {wire.BODY_BYTES_MAX} bytes", "split the batch")
        case 404 | 405 as status:
            allowed = {key: value for key, value in error.get_headers() if key.lower() == "allow"}
            what = "no such path" if status == 404 else "this path does not take that method"
            return Problem(status, what, "GET / lists the endpoints", allowed)
        case status:
            return Problem(status, error.name.lower())
