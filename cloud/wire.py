"""The contract of `POST /log`: the types, the codec and the limits that the device and the cloud share.

A payload is one prediction's JSON. The device encodes it once, when it accepts it; from then on the same bytes lie in
the journal, in the buffer, on the wire and in the ledger. A batch is therefore framed *around* stored payloads
(`frame_batch`), and the cloud takes the frame apart without decoding its neighbours (`open_envelope`, then
`check_payload` for each record), so that one bad record never refuses the others.
"""

import gzip
import threading
import zlib
from collections.abc import Sequence
from typing import Annotated, Literal, cast

import msgspec
import zstandard
from msgspec import UNSET, Meta, Struct, UnsetType, field

WIRE_VERSION = 1
"""What the cloud says of itself in `Holdfast-Wire` of every answer; it grows when an older device would not do."""
RECORD_BYTES_MAX = 256 * 1024
"""One prediction's JSON. A thousand boxes are about 80 KB."""
BATCH_BYTES_MAX = 1024 * 1024
"""What the device puts into one POST before compression; a single record always fits."""
BATCH_RECORDS_MAX = 1_000
"""Predictions in one POST that every version of the cloud takes."""
RECORDS_TAKEN_MAX = 4_000
"""What this one takes, and says in `Holdfast-Batch-Max` of every answer: the more, the less each prediction costs."""
BODY_BYTES_MAX = 8 * 1024 * 1024
"""What the cloud takes in one POST, before and after decompression."""
LOSSES_MAX = 1_000
"""Ranges of given-up numbers that one POST may carry."""
IDENTITY_BYTES_MAX = 512
"""Bodies up to this size travel uncompressed: compressing them gains nothing."""
SEQ_MAX = 2**63 - 1
SEQ_HEAD = b'{"seq":%d,'
"""How each payload that a device numbers begins."""

ENCODINGS_TAKEN = "zstd, gzip"
"""What the cloud says in `Accept-Encoding` of every answer (RFC 7694: a server may advertise so)."""

Name = Annotated[str, Meta(min_length=1, max_length=256)]
Seq = Annotated[int, Meta(ge=1, le=SEQ_MAX)]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Encoding = Literal["zstd", "gzip", "identity"]


class WireError(ValueError):
    """What was sent does not keep the contract; the text names the field, as in `detections[0].confidence: …`."""


class EncodingUnknown(WireError):
    """The body's `Content-Encoding` is none that the cloud takes."""


class BodyTooLarge(WireError):
    """The body is larger than the limit, as sent or once decompressed."""


class Detection(Struct, frozen=True, gc=False):
    """One box. `bbox` is `[x1, y1, x2, y2]` in pixels of the original image, x1 <= x2 and y1 <= y2."""

    class_name: Name = field(name="class")
    confidence: Fraction
    bbox: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        x1, y1, x2, y2 = self.bbox
        if x1 > x2 or y1 > y2:
            raise ValueError(f"bbox must be [x1, y1, x2, y2] with x1 <= x2 and y1 <= y2, not {list(self.bbox)}")


class Prediction(Struct, frozen=True, kw_only=True, gc=False):
    """What the model said of one image. `timestamp` is seconds since 1970 UTC; `seq` is set by the device alone."""

    image_id: Name
    timestamp: float
    model_version: Name
    model_name: Name
    inference_time_ms: Annotated[float, Meta(ge=0.0)]
    detections: Annotated[tuple[Detection, ...], Meta(max_length=2_000)]
    defect_detected: bool
    confidence_scores: Annotated[tuple[Fraction, ...], Meta(max_length=2_000)]
    seq: Seq | UnsetType = UNSET


class Loss(Struct, frozen=True):
    """A range of numbers, both ends included, that the device gave up, and why (`evicted`, `expired`, …)."""

    from_seq: Seq
    to_seq: Seq
    reason: Name

    def __post_init__(self) -> None:
        if self.from_seq > self.to_seq:
            raise ValueError(f"from_seq {self.from_seq} is after to_seq {self.to_seq}")


class Envelope(Struct, frozen=True, kw_only=True):
    """One POST, its predictions still unread JSON. Without `stream_id` the sender gets at-least-once only."""

    edge_device_id: Name
    predictions: list[msgspec.Raw]
    stream_id: Name | None = None
    session_id: Name | None = None
    """The life of the sending process: two that take turns under one device's id are two devices."""
    sent_at: float | None = None
    pending: Annotated[int, Meta(ge=0)] | None = None
    late: bool = False
    """True for a batch of the backlog, so that a reader can tell late from live."""
    losses: Annotated[list[Loss], Meta(max_length=LOSSES_MAX)] = []


class _Predictions(Struct, frozen=True):
    predictions: list[Prediction]


class Rejection(Struct, frozen=True, omit_defaults=True):
    """A record that the cloud refused for good: its place in the batch, its number where it has one, and why."""

    index: int
    error: str
    seq: int | None = None


class Answer(Struct, frozen=True, kw_only=True):
    """The cloud's word on a batch, given after its own commit.

    `accepted` + `duplicates` + `conflicts` + the rejected ones = the records sent. A conflict is a number seen before
    with another payload: kept aside and shown in the audit. `delivery` is `at-least-once` for a sender without stream
    or numbers, since its repeats can't be told from new predictions.
    """

    accepted: int
    duplicates: int = 0
    conflicts: int = 0
    conflicting: list[int] | UnsetType = UNSET
    """The numbers of the conflicts, where there are any: the device sends these predictions again under new ones."""
    rejected: list[Rejection] = []
    shared: bool | UnsetType = UNSET
    """True where another process speaks under this device's id at the same time."""
    delivery: Literal["exactly-once", "at-least-once"] = "exactly-once"

    def counts(self) -> int:
        """How many records this answer speaks of."""
        return self.accepted + self.duplicates + self.conflicts + len(self.rejected)


_ENCODED_AT_ONCE = 32
"""What decoding makes of so many, and is dropped, lies in memory together."""

_of_thread = threading.local()
_encoder = msgspec.json.Encoder()
_prediction_decoder = msgspec.json.Decoder(Prediction)
_predictions_decoder = msgspec.json.Decoder(_Predictions)
_envelope_decoder = msgspec.json.Decoder(Envelope)
_answer_decoder = msgspec.json.Decoder(Answer)


def encode_prediction(prediction: Prediction) -> bytes:
    """The JSON of a prediction, checked against the contract; `WireError` where it does not keep it."""
    try:
        body = _encoder.encode(prediction)
    except (OverflowError, TypeError, UnicodeEncodeError) as exc:
        raise WireError(f"record: it can't be written as JSON ({exc})") from exc
    _check(body, len(body))
    return body


def encode_predictions(predictions: Sequence[Prediction]) -> list[bytes]:
    """`encode_prediction` of each, in order, a fifth cheaper; `WireError` is that of the first which is wrong."""
    bodies: list[bytes] = []
    for start in range(0, len(predictions), _ENCODED_AT_ONCE):
        some = predictions[start : start + _ENCODED_AT_ONCE]
        made = _encode_lines(some)
        bodies += made or [encode_prediction(one) for one in some]
    return bodies


def _encode_lines(predictions: Sequence[Prediction]) -> list[bytes]:
    """Their JSON; none where any of them can't be taken."""
    try:
        lines = _encoder.encode_lines(predictions)
        _prediction_decoder.decode_lines(lines)
    except (msgspec.DecodeError, OverflowError, TypeError, UnicodeError, RecursionError):
        return []
    bodies = lines.split(b"\n")[:-1]
    return bodies if max(map(len, bodies)) <= RECORD_BYTES_MAX else []


def number_payload(seq: int, body: bytes) -> bytes:
    """The payload: `body` (the JSON object of a prediction that has no number yet) with `seq` as its first key."""
    return SEQ_HEAD % seq + body[1:]


def check_payload(payload: bytes | msgspec.Raw) -> Prediction:
    """The prediction in one record's JSON; `WireError` with the path of the field that is wrong."""
    return _check(payload, memoryview(payload).nbytes)


def _check(payload: bytes | msgspec.Raw, size: int) -> Prediction:
    if size > RECORD_BYTES_MAX:
        raise WireError(f"record: {size} bytes of JSON, at most {RECORD_BYTES_MAX} are taken")
    try:
        return _prediction_decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise WireError(_explain(exc)) from exc


def check_payloads(body: bytes) -> list[Prediction]:
    """All predictions in the body of a POST, at a third of what each one on its own costs; `WireError` where any is
    wrong. How large each one's JSON is, `check_payload` alone looks at.
    """
    try:
        return _predictions_decoder.decode(body).predictions
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise WireError(_explain(exc)) from exc


def join_payloads(payloads: Sequence[bytes]) -> bytes:
    """Payloads as `frame_batch` takes them, commas between."""
    return b",".join(payloads)


def frame_batch(
    device_id: str,
    stream_id: str,
    payloads: bytes,
    *,
    sent_at: float,
    pending: int,
    late: bool = False,
    losses: Sequence[Loss] = (),
    session_id: str = "",
) -> bytes:
    """The body of one POST around joined payloads as they are stored: nothing is decoded or encoded again.

    An empty `stream_id` says that there is none yet (no disk, so no numbers): the cloud then promises at-least-once.
    """
    stream = {"stream_id": stream_id} if stream_id else {}
    stream |= {"session_id": session_id} if session_id else {}
    head = _encoder.encode(
        {"edge_device_id": device_id, **stream, "sent_at": sent_at, "pending": pending, "late": late}
    )
    tail = b',"losses":' + _encoder.encode(losses) if losses else b""
    return b"".join((head[:-1], b',"predictions":[', payloads, b"]", tail, b"}"))


def open_envelope(body: bytes) -> Envelope:
    """The envelope of a POST, its records still unread; `WireError` where the envelope itself is unusable."""
    try:
        return _envelope_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise WireError(_explain(exc)) from exc


def encode_answer(answer: Answer) -> bytes:
    """The JSON of the cloud's answer."""
    return _encoder.encode(answer)


def read_answer(body: bytes) -> Answer:
    """The cloud's answer; `WireError` if it is not one (a captive portal, another service)."""
    try:
        return _answer_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise WireError(_explain(exc)) from exc


def compress(body: bytes, encoding: Encoding) -> bytes:
    """`body` in the given content coding, at the level that costs an edge processor least (1)."""
    match encoding:
        case "zstd":
            return _compressor().compress(body)
        case "gzip":
            return gzip.compress(body, compresslevel=1, mtime=0)
        case "identity":
            return body


def _compressor() -> zstandard.ZstdCompressor:
    """A thread's own, made once: its tables cost more than a small body."""
    if not hasattr(_of_thread, "compressor"):
        _of_thread.compressor = zstandard.ZstdCompressor(level=1)
    return cast("zstandard.ZstdCompressor", _of_thread.compressor)


def decompress(body: bytes, encoding: str, size_max: int = BODY_BYTES_MAX) -> bytes:
    """The plain body, never inflating past `size_max` bytes.

    `EncodingUnknown`, `BodyTooLarge` (a bomb, or simply too much) or `WireError` (damaged data).
    """
    if encoding in ("", "identity"):
        plain = body
    elif encoding == "zstd":
        plain = _inflate_zstd(body, size_max)
    elif encoding == "gzip":
        plain = _inflate_gzip(body, size_max)
    else:
        raise EncodingUnknown(f"Content-Encoding: {encoding!r} is not taken; send one of {ENCODINGS_TAKEN}, identity")
    if len(plain) > size_max:
        raise BodyTooLarge(f"body: more than {size_max} bytes")
    return plain


def _inflate_zstd(body: bytes, size_max: int) -> bytes:
    try:
        size = zstandard.frame_content_size(body)
        if size > size_max:
            raise BodyTooLarge(f"body: more than {size_max} bytes")
        if size > 0:
            return zstandard.ZstdDecompressor(max_window_size=size_max).decompress(body)
        # Who compresses piece by piece does not say how much it will be.
        with zstandard.ZstdDecompressor(max_window_size=size_max).stream_reader(body) as reader:
            return reader.read(size_max + 1)
    except zstandard.ZstdError as exc:
        raise WireError(f"body: not valid zstd ({exc})") from exc


def _inflate_gzip(body: bytes, size_max: int) -> bytes:
    inflater = zlib.decompressobj(wbits=31)
    try:
        plain = inflater.decompress(body, size_max + 1)
    except zlib.error as exc:
        raise WireError(f"body: not valid gzip ({exc})") from exc
    if len(plain) <= size_max and not inflater.eof:
        raise WireError("body: gzip data ends early")
    return plain


def _explain(error: Exception) -> str:
    """msgspec's message with the path first: `detections[0].confidence: Expected `float` <= 1.0`."""
    if isinstance(error, RecursionError):
        return "body: nested too deep"
    text, found, path = str(error).rpartition(" - at `$")
    if not found:
        return f"body: {error}"
    return f"{path.rstrip('`').lstrip('.') or 'body'}: {text}"
