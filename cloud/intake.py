"""From the body of a POST to a checked batch: what is wrong with one record never touches its neighbours."""

import functools
import itertools
from collections.abc import Sequence

import attrs
import msgspec
from msgspec import UNSET

from cloud import wire
from cloud.ledger import Batch, Record

RECORDS_MAX = wire.RECORDS_TAKEN_MAX
SURELY_TAKEN_CHARS = wire.RECORD_BYTES_MAX // 4
"""A payload of so many characters is not too large, however many bytes each of them takes."""
FEW_CLASSES = 4
"""More classes in one image are not remembered: a thousand of the longest would take hundreds of megabytes."""
ERROR_CHARS_MAX = 300
"""An error may quote what was sent; longer ones are cut."""


class BodyMalformed(Exception):
    """The body is no JSON, or its compression is damaged."""


class EnvelopeInvalid(Exception):
    """The body is JSON, but not the envelope of a batch; the text names the field."""


class BatchTooLarge(Exception):
    """More records than one POST may carry."""


class _Numbered(msgspec.Struct):
    seq: wire.Seq


_numbered_decoder = msgspec.json.Decoder(_Numbered)


@attrs.frozen
class Opened:
    """A POST whose envelope is good and whose records are still unread."""

    envelope: wire.Envelope
    plain: bytes

    @property
    def device_id(self) -> str:
        """Who says that it sent this."""
        return self.envelope.edge_device_id


def open_body(body: bytes, encoding: str) -> Opened:
    """What a POST's body holds, at the least cost that tells whose it is.

    `wire.EncodingUnknown`, `wire.BodyTooLarge`, `BodyMalformed`, `EnvelopeInvalid` or `BatchTooLarge` where nothing of
    it can be taken.
    """
    try:
        plain = wire.decompress(body, encoding.strip().lower())
    except (wire.EncodingUnknown, wire.BodyTooLarge):
        raise
    except wire.WireError as exc:
        raise BodyMalformed(_cut(str(exc))) from exc
    envelope = _open_envelope(plain)
    if len(envelope.predictions) > RECORDS_MAX:
        raise BatchTooLarge(
            f"predictions: {len(envelope.predictions)} records, at most {RECORDS_MAX} are taken at once"
        )
    if envelope.losses and envelope.stream_id is None:
        raise EnvelopeInvalid("losses: numbers belong to a stream, and stream_id is missing")
    return Opened(envelope, plain)


def check_batch(opened: Opened, received_at: float) -> Batch:
    """The batch with each record checked; those that do not keep the contract are told apart, and why."""
    envelope = opened.envelope
    records, rejected = _check_records(opened)
    return Batch(
        device_id=envelope.edge_device_id,
        stream_id=envelope.stream_id,
        records=tuple(records),
        rejected=tuple(rejected),
        losses=tuple(envelope.losses),
        late=envelope.late,
        pending=None if envelope.pending is None else min(envelope.pending, wire.SEQ_MAX),
        received_at=received_at,
        bytes_plain=len(opened.plain),
        session_id=envelope.session_id,
    )


def _open_envelope(plain: bytes) -> wire.Envelope:
    try:
        return wire.open_envelope(plain)
    except wire.WireError as exc:
        failed = EnvelopeInvalid if isinstance(exc.__cause__, msgspec.ValidationError) else BodyMalformed
        raise failed(_cut(str(exc))) from exc


def _check_records(opened: Opened) -> tuple[list[Record], list[wire.Rejection]]:
    """All at once where all are good, which is the rule, else one by one."""
    envelope = opened.envelope
    numbered = envelope.stream_id is not None
    try:
        payloads = [str(raw, "utf-8") for raw in envelope.predictions]
        if max(map(len, payloads), default=0) <= SURELY_TAKEN_CHARS:
            predictions = wire.check_payloads(opened.plain)
            return [*map(_record, predictions, payloads, itertools.repeat(numbered))], []
    except (wire.WireError, UnicodeDecodeError):
        pass
    return _check_each(envelope, numbered=numbered)


def _check_each(envelope: wire.Envelope, *, numbered: bool) -> tuple[list[Record], list[wire.Rejection]]:
    records: list[Record] = []
    rejected: list[wire.Rejection] = []
    for index, raw in enumerate(envelope.predictions):
        try:
            records.append(_record(wire.check_payload(raw), _text(raw), numbered))
        except wire.WireError as exc:
            error = str(exc)
            error = f"record: {error.removeprefix('body: ')}" if error.startswith("body: ") else error
            rejected.append(wire.Rejection(index=index, error=_cut(error), seq=_number_of(raw)))
    return records, rejected


def _text(raw: msgspec.Raw) -> str:
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError as exc:
        raise wire.WireError(f"record: {exc}") from exc


def _record(prediction: wire.Prediction, payload: str, numbered: bool) -> Record:
    seq, boxes = prediction.seq, prediction.detections
    # As a tuple: a record's own constructor costs as much again.
    return tuple.__new__(
        Record,
        (
            seq if numbered and seq is not UNSET else None,
            payload,
            prediction.timestamp,
            prediction.inference_time_ms,
            prediction.model_name,
            prediction.model_version,
            prediction.defect_detected,
            _classes(boxes) if boxes else None,
        ),
    )


def _classes(boxes: Sequence[wire.Detection]) -> str:
    """The distinct classes of some boxes."""
    if len(boxes) == 1:
        return _one_class(boxes[0].class_name)
    names = tuple({box.class_name for box in boxes})
    return _few_classes(names) if len(names) <= FEW_CLASSES else _spell(names)


def _spell(names: tuple[str, ...]) -> str:
    return msgspec.json.encode(sorted(names)).decode()


_few_classes = functools.lru_cache(maxsize=1024)(_spell)


@functools.lru_cache(maxsize=1024)
def _one_class(name: str) -> str:
    return _spell((name,))


def _number_of(raw: msgspec.Raw) -> int | None:
    """The number of a record that is otherwise wrong, if at least that can be read."""
    try:
        return _numbered_decoder.decode(raw).seq
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _cut(text: str) -> str:
    return text if len(text) <= ERROR_CHARS_MAX else text[: ERROR_CHARS_MAX - 1] + "…"
