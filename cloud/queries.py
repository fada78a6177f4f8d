"""The parameters of what is asked, read strictly: a filter that is misspelt must not be ignored."""

import base64
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

import msgspec

from cloud.ledger import MINUTES_KEPT_S, ConflictCursor, ConflictQuery, Cursor, Query, SeriesQuery, StatsQuery
from cloud.ledger.rollups import BUCKETS_MAX, starts
from cloud.wire import SEQ_MAX, Name, Seq

LIMIT = 100
LIMIT_MAX = 1_000
MOMENT_MAX_S = 253_402_300_800.0
"""The year 10000; a larger number is no time that anybody means."""
SERIES_S = 86_400.0
"""How far back a series reaches that names no `since`."""
BUCKETS_S = (60, 300, 900, 3_600, 21_600, 86_400, 604_800)
BUCKETS = 150
"""How many buckets a series has at most that names no `bucket_s`, as long as a week each will do."""
Format = Literal["json", "jsonl", "csv"]
CONTENT_TYPES: dict[Format, str] = {
    "json": "application/json",
    "jsonl": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
}
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}
_TAKEN = (
    "edge_device_id", "model_name", "model_version", "defect_detected", "class", "since", "until", "limit", "cursor",
    "format",
)  # fmt: skip

_STATS_TAKEN = ("since", "until", "edge_device_id", "model_name")
_SERIES_TAKEN = (*_STATS_TAKEN, "bucket_s")


class QueryWrong(Exception):
    """A parameter that is not known or not understood; the text names it and what it takes."""


def read_query(args: Mapping[str, Sequence[str]]) -> Query:
    """The query of these parameters; `QueryWrong` for an unknown, repeated or unreadable one."""
    given = _given(args, _TAKEN)
    return _query(given, limit=_limit(given["limit"], LIMIT_MAX) if "limit" in given else LIMIT)


def read_export_query(args: Mapping[str, Sequence[str]]) -> tuple[Query, int | None]:
    """The same for an export, in the largest pages, and how many rows it may have (None: all)."""
    given = _given(args, _TAKEN)
    return _query(given, limit=LIMIT_MAX), _limit(given["limit"], SEQ_MAX) if "limit" in given else None


def read_conflict_query(device_id: str, args: Mapping[str, Sequence[str]]) -> ConflictQuery:
    """What `GET /devices/{id}/conflicts` is asked; `QueryWrong` as above."""
    given = _given(args, ("limit", "cursor"))
    return ConflictQuery(
        device_id,
        limit=_limit(given["limit"], LIMIT_MAX) if "limit" in given else LIMIT,
        cursor=decode_conflict_cursor(given["cursor"]) if "cursor" in given else None,
    )


def read_format(args: Mapping[str, Sequence[str]], accepted: str | None) -> Format:
    """The format that `?format=` asks for, else `accepted`, the best of the request's `Accept`, else JSON."""
    asked = args.get("format")
    if asked is None:
        return next((form for form in CONTENT_TYPES if accepted and CONTENT_TYPES[form].startswith(accepted)), "json")
    for form in CONTENT_TYPES:
        if asked == [form]:
            return form
    raise QueryWrong(f"format: takes {', '.join(CONTENT_TYPES)}")


def _query(given: Mapping[str, str], *, limit: int) -> Query:
    return Query(
        edge_device_id=given.get("edge_device_id"),
        model_name=given.get("model_name"),
        model_version=given.get("model_version"),
        defect_detected=_truth(given["defect_detected"]) if "defect_detected" in given else None,
        class_name=given.get("class"),
        since=_moment("since", given),
        until=_moment("until", given),
        limit=limit,
        cursor=decode_cursor(given["cursor"]) if "cursor" in given else None,
    )


def read_stats_query(args: Mapping[str, Sequence[str]]) -> StatsQuery:
    """What `GET /stats` is asked; `QueryWrong` as above."""
    given = _given(args, _STATS_TAKEN)
    return StatsQuery(
        since=_moment("since", given),
        until=_moment("until", given),
        edge_device_id=given.get("edge_device_id"),
        model_name=given.get("model_name"),
    )


def read_series_query(args: Mapping[str, Sequence[str]], now: float) -> SeriesQuery:
    """What `GET /series` is asked: without bounds the last day, in buckets of a fitting size; `QueryWrong` as above."""
    given = _given(args, _SERIES_TAKEN)
    until = _moment("until", given)
    until = now if until is None else until
    since = _moment("since", given)
    since = until - SERIES_S if since is None else since
    if since >= until:
        raise QueryWrong("since: takes a moment before until")
    by_minute = since >= now - MINUTES_KEPT_S
    bucket_s = _bucket_s(given["bucket_s"], by_minute=by_minute) if "bucket_s" in given else 0
    if not bucket_s:
        fitting = [size for size in BUCKETS_S if (by_minute or size % 3600 == 0) and (until - since) / size <= BUCKETS]
        bucket_s = fitting[0] if fitting else BUCKETS_S[-1]
    query = SeriesQuery(since, until, bucket_s, given.get("edge_device_id"), given.get("model_name"))
    if (until - since) / bucket_s > BUCKETS_MAX or len(starts(query)) > BUCKETS_MAX:
        raise QueryWrong(f"bucket_s: more than {BUCKETS_MAX} buckets; takes a larger one, or a shorter time")
    return query


def _bucket_s(text: str, *, by_minute: bool) -> int:
    unit = 60 if by_minute else 3600
    if not (text.isascii() and text.isdecimal() and len(text) < 12 and int(text) and int(text) % unit == 0):
        raise QueryWrong(
            f"bucket_s: takes a multiple of 3600 seconds, or of 60 for the last {MINUTES_KEPT_S / 3600:.0f} hours"
        )
    return int(text)


def _given(args: Mapping[str, Sequence[str]], taken: Sequence[str]) -> dict[str, str]:
    for name, values in args.items():
        if name not in taken:
            raise QueryWrong(f"{name[:64]}: no such parameter; takes {', '.join(taken)}")
        if len(values) != 1:
            raise QueryWrong(f"{name}: given {len(values)} times; takes one value")
    return {name: values[0] for name, values in args.items()}


def encode_cursor(cursor: Cursor) -> str:
    """A cursor as a word that a URL carries as it is."""
    return f"{cursor.timestamp!r}_{cursor.number}"


def decode_cursor(text: str) -> Cursor:
    """The cursor in such a word; `QueryWrong` if it is none of ours."""
    timestamp, _, number = text.partition("_")
    try:
        cursor = Cursor(float(timestamp), int(number))
    except ValueError:
        cursor = Cursor(math.nan, 0)
    if not (math.isfinite(cursor.timestamp) and 0 < cursor.number <= SEQ_MAX):
        raise QueryWrong("cursor: takes the next_cursor of an earlier answer")
    return cursor


def encode_conflict_cursor(cursor: ConflictCursor) -> str:
    """The same for a page of conflicts."""
    plain = msgspec.json.encode((cursor.stream_id, cursor.seq, cursor.digest))
    return base64.urlsafe_b64encode(plain).decode().rstrip("=")


def decode_conflict_cursor(text: str) -> ConflictCursor:
    """The cursor in such a word; `QueryWrong` if it is none of ours."""
    try:
        plain = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        return ConflictCursor(*_conflict_cursor_decoder.decode(plain))
    except (ValueError, msgspec.DecodeError):
        raise QueryWrong("cursor: takes the next_cursor of an earlier answer") from None


_conflict_cursor_decoder = msgspec.json.Decoder(tuple[Name, Seq, bytes])


def _truth(text: str) -> bool:
    try:
        return _TRUTHS[text.lower()]
    except KeyError:
        raise QueryWrong("defect_detected: takes true or false") from None


def _moment(name: str, given: Mapping[str, str]) -> float | None:
    """Seconds since 1970, or ISO 8601 (UTC where it names no zone); None where it is not given."""
    if name not in given:
        return None
    text = given[name]
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            seconds = math.nan
        else:
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not abs(seconds) <= MOMENT_MAX_S:
        raise QueryWrong(f"{name}: takes seconds since 1970 or ISO 8601, as in 2026-01-28T10:44:05Z")
    return seconds


def _limit(text: str, high: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and 1 <= int(text) <= high):
        raise QueryWrong(f"limit: takes a whole number from 1 to {high}")
    return int(text)
