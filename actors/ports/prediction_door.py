"""`POST /predictions`: a program in any language on this device logs here, with the same durable answer as `log()`."""

import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import attrs
import msgspec
from quart import Request, Response, request
from quart_trio import QuartTrio

from actors.messages import PipelineClosed, Receipt
from cloud.wire import BATCH_BYTES_MAX, BATCH_RECORDS_MAX, Prediction, WireError, check_payload

BODY_BYTES_MAX = BATCH_BYTES_MAX
BODY_S_MAX = 10
"""How long a body may take to arrive."""
AT_ONCE_MAX = 32
"""Requests that may wait for the disk; all that wait share one fsync."""
RETRY_AFTER_S = 1
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
LOOPBACK_PEERS = ("127.0.0.1", "::1")

Log = Callable[[Sequence[Prediction]], Awaitable[Sequence[Receipt]]]


class Refused(Exception):
    """Why a request is not served, as RFC 9457 tells it."""

    def __init__(self, status: int, title: str, detail: str, remedy: str = "") -> None:
        super().__init__(detail)
        self.status = status
        self.title = title
        self.remedy = remedy

    def response(self) -> Response:
        """The answer, `application/problem+json`."""
        told = {"type": "about:blank", "title": self.title, "status": self.status, "detail": str(self)}
        remedy = {"remedy": self.remedy} if self.remedy else {}
        answer = Response(msgspec.json.encode(told | remedy), self.status, content_type="application/problem+json")
        if self.status == 503:
            answer.headers["Retry-After"] = str(RETRY_AFTER_S)
        return answer


@attrs.define
class Turnstile:
    """Lets so many in at once, and turns away the rest."""

    at_once_max: int
    inside: int = attrs.field(default=0, init=False)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Inside until the end of the block; `Refused` if too many are."""
        if self.inside >= self.at_once_max:
            raise Refused(503, "busy", f"{self.inside} requests are waiting already; nothing of this one was taken")
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


def name_asked(asked: Request) -> str:
    """By which name the device was asked: what `Host` says, without its port."""
    return re.sub(r":\d+$", "", asked.headers.get("Host", "")).lower()


def check_local(asked: Request) -> None:
    """`Refused` for whoever is not on this machine, or was sent here by a page from elsewhere.

    A name that some page's owner has pointed at this machine shows in Host.
    """
    if asked.remote_addr not in LOOPBACK_PEERS or name_asked(asked) not in LOOPBACK_HOSTS:
        raise Refused(403, "forbidden", "this is served to programs on the device itself, at 127.0.0.1")


def check_json(asked: Request) -> None:
    """`Refused` for a body that does not say it is JSON: that is what no form of a page from elsewhere can say."""
    if asked.mimetype != "application/json":
        said = asked.mimetype or "none"
        raise Refused(415, "not JSON", f"Content-Type: {said}", "send 'Content-Type: application/json'")


def read_predictions(body: bytes) -> tuple[list[Prediction], bool]:
    """The predictions in a body, and whether it was a list. `Refused` names the field; then none is taken."""
    if not body.lstrip(b" \t\r\n").startswith(b"["):
        return [_read(body, "")], False
    try:
        records = msgspec.json.decode(body, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Refused(400, "not JSON", f"body: {exc}") from exc
    if len(records) > BATCH_RECORDS_MAX:
        raise Refused(413, "too many", f"body: {len(records)} predictions, at most {BATCH_RECORDS_MAX} at once")
    return [_read(record, f"[{index}].") for index, record in enumerate(records)], True


def _read(record: bytes | msgspec.Raw, where: str) -> Prediction:
    try:
        prediction = check_payload(record)
    except WireError as exc:
        malformed = str(exc).startswith("body: ") and not str(exc).startswith("body: Object")
        raise Refused(400 if malformed else 422, "not a prediction", f"{where}{exc}") from exc
    if prediction.seq is not msgspec.UNSET:
        raise Refused(422, "not a prediction", f"{where}seq: the device numbers what it accepts", "leave it out")
    return prediction


def answer_of(receipts: Sequence[Receipt], *, as_list: bool) -> Response:
    """201: durable. 202: taken, but only memory holds it, because the disk refuses. `Refused` if a policy did."""
    if not all(receipt.accepted for receipt in receipts):
        raise Refused(503, "full", "the buffer is full and BUFFER_WHEN_FULL says drop_newest; none was taken")
    body = msgspec.json.encode({"receipts": receipts} if as_list else receipts[0])
    durable = all(receipt.durable for receipt in receipts)
    return Response(body, 201 if durable else 202, content_type="application/json")


def add_predictions(app: QuartTrio, log: Log) -> None:
    """The route. While the buffer is full under `block`, an answer waits as `log()` does."""
    app.config.update(MAX_CONTENT_LENGTH=BODY_BYTES_MAX, BODY_TIMEOUT=BODY_S_MAX)
    turnstile = Turnstile(AT_ONCE_MAX)

    @app.post("/predictions")
    async def take() -> Response:
        try:
            check_local(request)
            check_json(request)
            with turnstile.entered():
                body = await request.get_data(cache=False)
                assert isinstance(body, bytes)
                predictions, as_list = read_predictions(body)
                return answer_of(await log(predictions), as_list=as_list)
        except PipelineClosed:
            return Refused(503, "stopping", "the device is stopping; nothing was taken").response()
        except Refused as refused:
            return refused.response()
