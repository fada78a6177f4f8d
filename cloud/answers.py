"""What the service says: JSON bodies made of the ledger's answers, and of what went wrong."""

from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import msgspec

from cloud.ledger import Bucket, ConflictPage, Device, Page, SeriesQuery, Stats, StoredPrediction, StreamAudit, Tally
from cloud.ledger.rollups import BOUNDS_MS, clock_wrong
from cloud.presence import presence_of
from cloud.queries import encode_conflict_cursor, encode_cursor

_encode = msgspec.json.Encoder().encode


def stats_json(stats: Stats) -> bytes:
    """The body of `GET /stats`."""
    whole = stats.whole
    return _encode(
        {
            **_tally(stats.total),
            "since": stats.since,
            "until": stats.until,
            "late": whole.late,
            "clock_wrong": whole.clock_wrong,
            "lateness_s": {"mean": whole.lateness_mean_s, "max": whole.lateness_max_s},
            "inference_ms": {
                "mean": whole.inference_mean_ms,
                "p50": whole.inference_p50_ms,
                "p95": whole.inference_p95_ms,
                "up_to": BOUNDS_MS,
                "counts": stats.inference_histogram,
            },
            "by_edge_device": _tallies(stats.by_edge_device),
            "by_model": _tallies(stats.by_model),
        }
    )


def series_json(query: SeriesQuery, buckets: Iterable[Bucket]) -> bytes:
    """The body of `GET /series`."""
    return _encode({"bucket_s": query.bucket_s, "buckets": [attrs.asdict(bucket) for bucket in buckets]})


def page_json(page: Page) -> bytes:
    """The body of `GET /predictions`."""
    cursor = None if page.next_cursor is None else encode_cursor(page.next_cursor)
    return _encode({"predictions": [prediction_json(item) for item in page.items], "next_cursor": cursor})


def devices_json(devices: Iterable[Device], now: float) -> bytes:
    """The body of `GET /devices`; `state` is that of the moment `now`."""
    return _encode(
        {
            "devices": [
                {
                    "edge_device_id": device.edge_device_id,
                    "state": presence_of(device, now),
                    "first_seen_at": device.first_seen_at,
                    "last_seen_at": device.last_seen_at,
                    "last_was_late": device.last_was_late,
                    "pending": device.pending,
                    "last_lateness_s": device.last_lateness_s,
                    "missing": device.missing,
                    "unexplained": device.unexplained,
                    **_tally(device.tally),
                    "last_hour": _tally(device.last_hour),
                }
                for device in devices
            ]
        }
    )


def audit_json(device_id: str, streams: Iterable[StreamAudit]) -> bytes:
    """The body of `GET /devices/{id}/audit`: sums over the device, then each stream."""
    listed = [_stream(stream) for stream in streams]
    summed = ("stored", "unnumbered", "duplicates", "conflicts", "rejected", "missing", "explained", "unexplained")
    sums = {key: sum(stream[key] for stream in listed) for key in summed}
    return _encode({"edge_device_id": device_id, **sums, "streams": listed})


def _stream(stream: StreamAudit) -> dict[str, Any]:
    return {
        "stream_id": stream.stream_id,
        "first_seq": 1,
        "last_seq": stream.last_seq,
        "stored": stream.stored,
        "unnumbered": stream.unnumbered,
        "duplicates": stream.duplicates,
        "conflicts": stream.conflicts,
        "rejected": stream.rejected,
        "missing": stream.missing,
        "explained": stream.explained,
        "unexplained": stream.unexplained,
        "gaps": [attrs.asdict(gap) for gap in stream.gaps],
        "gaps_total": stream.gaps_total,
    }


def conflicts_json(device_id: str, page: ConflictPage) -> bytes:
    """The body of `GET /devices/{id}/conflicts`."""
    cursor = None if page.next_cursor is None else encode_conflict_cursor(page.next_cursor)
    listed = [
        {
            "stream_id": item.stream_id,
            "seq": item.seq,
            "received_at": item.received_at,
            "stored": None if item.stored is None else msgspec.Raw(item.stored.encode()),
            "received": msgspec.Raw(item.received.encode()),
        }
        for item in page.items
    ]
    return _encode({"edge_device_id": device_id, "conflicts": listed, "next_cursor": cursor})


class _Stamped(msgspec.Struct):
    timestamp: float


_stamp_decoder = msgspec.json.Decoder(_Stamped)


def prediction_json(item: StoredPrediction) -> msgspec.Raw:
    """The payload as it was received, with what the ledger knows of it as its last keys (the last of equals wins).

    `clock_wrong` marks a capture time that can't be right, as of a device that woke up in 1970.
    """
    known = _encode(
        {
            "edge_device_id": item.edge_device_id,
            "stream_id": item.stream_id,
            "received_at": item.received_at,
            "late": item.late,
            "clock_wrong": clock_wrong(_stamp_decoder.decode(item.payload).timestamp, item.received_at),
        }
    )
    return msgspec.Raw(item.payload.rstrip()[:-1].encode() + b"," + known[1:])


def _tally(tally: Tally) -> dict[str, object]:
    return {
        "total_predictions": tally.total_predictions,
        "defects_detected": tally.defects_detected,
        "defect_rate": tally.defect_rate,
    }


def _tallies(tallies: Mapping[str, Tally]) -> dict[str, dict[str, object]]:
    return {name: _tally(tally) for name, tally in tallies.items()}
