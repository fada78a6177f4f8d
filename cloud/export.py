"""Predictions as JSON lines or CSV, written while they are read: a page in memory, however many there are.

An export that can't be finished ends in a broken connection, never in a shorter file that looks whole.
"""

import csv
import io
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing

import attrs
import msgspec
import structlog

from cloud.answers import prediction_json
from cloud.connection import AnswerBroken
from cloud.ledger import Ledger, LedgerBusy, LedgerUnavailable, Query, StoredPrediction
from cloud.ledger.rollups import clock_wrong
from cloud.limits import RETRY_AFTER_S
from cloud.queries import Format

COLUMNS = (
    "edge_device_id", "stream_id", "seq", "timestamp", "received_at", "late", "clock_wrong", "image_id", "model_name",
    "model_version", "inference_time_ms", "defect_detected", "detections",
)  # fmt: skip
"""`detections` is their JSON."""
EXPORTS_MAX = 8
"""How many exports may run at once: each holds a page."""
log = structlog.get_logger()


class _Row(msgspec.Struct):
    """What a CSV row shows of a payload."""

    timestamp: float
    image_id: str
    model_name: str
    model_version: str
    inference_time_ms: float
    defect_detected: bool
    detections: msgspec.Raw
    seq: int | None = None


_row_decoder = msgspec.json.Decoder(_Row)


@attrs.define
class Exports:
    """The exports that run now."""

    running: int = 0

    async def start(self, ledger: Ledger, query: Query, form: Format, rows_max: int | None) -> AsyncGenerator[bytes]:
        """The pieces of an export whose first page is read already, so that trouble is still a status.

        `LedgerBusy` where too many run, `LedgerUnavailable` where the store does not answer.
        """
        if self.running >= EXPORTS_MAX:
            raise LedgerBusy(RETRY_AFTER_S)
        chunks = ledger.export(query)
        try:
            first = await anext(chunks)
        except StopAsyncIteration:
            first = ()
        return self._run(first, chunks, form, rows_max)

    async def _run(
        self,
        first: tuple[StoredPrediction, ...],
        chunks: AsyncGenerator[tuple[StoredPrediction, ...]],
        form: Format,
        rows_max: int | None,
    ) -> AsyncGenerator[bytes]:
        encode: Callable[[Iterable[StoredPrediction]], bytes] = _csv if form == "csv" else _lines
        left = rows_max
        self.running += 1
        try:
            async with aclosing(chunks):
                if form == "csv":
                    yield _csv_line(COLUMNS)
                yield encode(first[:left])
                left = None if left is None else left - len(first)
                async for chunk in chunks:
                    if left is not None and left <= 0:
                        break
                    yield encode(chunk[:left])
                    left = None if left is None else left - len(chunk)
        except (LedgerBusy, LedgerUnavailable) as exc:
            log.warning("export_broken", error=str(exc))
            raise AnswerBroken from exc
        finally:
            self.running -= 1


def _lines(items: Iterable[StoredPrediction]) -> bytes:
    # A payload is one record's JSON as it was sent, and JSON may be written over several lines.
    return b"".join(bytes(prediction_json(item)).replace(b"\n", b" ").replace(b"\r", b" ") + b"\n" for item in items)


def _csv(items: Iterable[StoredPrediction]) -> bytes:
    return b"".join(map(_csv_row, items))


def _csv_row(item: StoredPrediction) -> bytes:
    row = _row_decoder.decode(item.payload)
    wrong = clock_wrong(row.timestamp, item.received_at)
    return _csv_line(
        (
            _safe(item.edge_device_id), _safe(item.stream_id or ""), row.seq, row.timestamp, item.received_at,
            _truth(item.late), _truth(wrong), _safe(row.image_id), _safe(row.model_name), _safe(row.model_version),
            row.inference_time_ms, _truth(row.defect_detected), bytes(row.detections).decode(),
        )
    )  # fmt: skip


def _csv_line(values: Iterable[object]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(values)
    return line.getvalue().encode("utf-8", "replace")


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _safe(text: str) -> str:
    """A spreadsheet takes what starts like this for a formula and runs it; an apostrophe makes it text."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
