"""The fleet as rows: which devices, in which order, and what is missing of each."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import attrs

from cloud.dashboard.asked import Asked, Order
from cloud.ledger import Device, StreamAudit
from cloud.presence import PRESENCES, Presence, presence_of

ROWS_MAX = 50
"""Devices on one page."""
REASONS_MAX = 3
"""Reasons that a row names; the others are summed up."""
REASON_CHARS_MAX = 40


@attrs.frozen
class Row:
    """One device. `awaited` numbers are not stored and have no reason, but the device reports a backlog that may hold
    them; `unexplained` are those beyond it, which an operator must look into.
    """

    device: Device
    state: Presence
    awaited: int
    unexplained: int

    @property
    def explained(self) -> int:
        """Missing numbers that have a reason."""
        return self.device.missing - self.device.unexplained

    @property
    def per_minute(self) -> float:
        """Predictions captured a minute, over the last hour."""
        return self.device.last_hour.total_predictions / 60


@attrs.frozen
class Fleet:
    """What the fleet comes to, and one page of it."""

    rows: tuple[Row, ...]
    found: int
    """Rows that the filter lets through, on all pages."""
    page: int
    pages: int
    devices: int
    states: dict[Presence, int]
    predictions_last_hour: int
    defects_last_hour: int
    backlog: int
    awaited: int
    unexplained: int


def row_of(device: Device, now: float) -> Row:
    """A device with its state and what is missing of it."""
    awaited = min(device.unexplained, device.pending or 0)
    return Row(device, presence_of(device, now), awaited, device.unexplained - awaited)


def fleet_of(devices: Iterable[Device], asked: Asked, now: float) -> Fleet:
    """The sums over all devices, and the page of rows that was asked for (the last one where there are fewer)."""
    rows = [row_of(device, now) for device in devices]
    text = asked.text.casefold()
    found = [
        row
        for row in rows
        if asked.state in (None, row.state) and (not text or text in row.device.edge_device_id.casefold())
    ]
    found.sort(key=_KEYS[asked.order])
    pages = max(-(-len(found) // ROWS_MAX), 1)
    page = min(asked.page, pages)
    return Fleet(
        rows=tuple(found[(page - 1) * ROWS_MAX : page * ROWS_MAX]),
        found=len(found),
        page=page,
        pages=pages,
        devices=len(rows),
        states={state: sum(row.state == state for row in rows) for state in PRESENCES},
        predictions_last_hour=sum(row.device.last_hour.total_predictions for row in rows),
        defects_last_hour=sum(row.device.last_hour.defects_detected for row in rows),
        backlog=sum(row.device.pending or 0 for row in rows),
        awaited=sum(row.awaited for row in rows),
        unexplained=sum(row.unexplained for row in rows),
    )


_TROUBLE: Mapping[Presence, int] = {"silent": 0, "late": 1, "live": 2}
_KEYS: Mapping[Order, Callable[[Row], tuple[object, ...]]] = {
    "attention": lambda row: (not row.unexplained, _TROUBLE[row.state], row.device.edge_device_id),
    "device": lambda row: (row.device.edge_device_id,),
    "seen": lambda row: (-row.device.last_seen_at, row.device.edge_device_id),
    "backlog": lambda row: (-(row.device.pending or 0), row.device.edge_device_id),
    "rate": lambda row: (-row.device.last_hour.total_predictions, row.device.edge_device_id),
    "defects": lambda row: (-row.device.last_hour.defect_rate, row.device.edge_device_id),
    "missing": lambda row: (-row.unexplained, -row.device.missing, row.device.edge_device_id),
}


def reasons_of(streams: Iterable[StreamAudit]) -> tuple[tuple[str, int], ...]:
    """Why numbers are missing, and how many, the largest first. `other` holds what is not listed, or not named."""
    numbers: Counter[str] = Counter()
    explained = 0
    for stream in streams:
        explained += stream.explained
        for gap in stream.gaps:
            if gap.reason is not None:
                numbers[short_reason(gap.reason)] += gap.to_seq - gap.from_seq + 1
    named = numbers.most_common(REASONS_MAX)
    other = explained - sum(number for _, number in named)
    return tuple([*named, ("other", other)] if other else named)


def short_reason(reason: str) -> str:
    """`rejected` of `rejected: detections[0].confidence: …`: the kind of loss, without its one record's story."""
    head = reason.partition(":")[0].strip() or reason
    return head if len(head) <= REASON_CHARS_MAX else head[: REASON_CHARS_MAX - 1] + "…"
