"""The parameters of `GET /predictions`, read strictly: a filter that is misspelt must not be ignored."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from cloud.ledger import Cursor, Query
from cloud.wire import SEQ_MAX

LIMIT = 100
LIMIT_MAX = 1_000
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}
_TAKEN = (
    "edge_device_id", "model_name", "model_version", "defect_detected", "class", "since", "until", "limit", "cursor",
)  # fmt: skip


class QueryWrong(Exception):
    """A parameter that is not known or not understood; the text names it and what it takes."""


def read_query(args: Mapping[str, Sequence[str]]) -> Query:
    """The query of these parameters; `QueryWrong` for an unknown, repeated or unreadable one."""
    for name, values in args.items():
        if name not in _TAKEN:
            raise QueryWrong(f"{name[:64]}: no such parameter; takes {', '.join(_TAKEN)}")
        if len(values) != 1:
            raise QueryWrong(f"{name}: given {len(values)} times; takes one value")
    given = {name: values[0] for name, values in args.items()}
    return Query(
        edge_device_id=given.get("edge_device_id"),
        model_name=given.get("model_name"),
        model_version=given.get("model_version"),
        defect_detected=_truth(given["defect_detected"]) if "defect_detected" in given else None,
        class_name=given.get("class"),
        since=_moment("since", given["since"]) if "since" in given else None,
        until=_moment("until", given["until"]) if "until" in given else None,
        limit=_limit(given["limit"]) if "limit" in given else LIMIT,
        cursor=decode_cursor(given["cursor"]) if "cursor" in given else None,
    )


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


def _truth(text: str) -> bool:
    try:
        return _TRUTHS[text.lower()]
    except KeyError:
        raise QueryWrong("defect_detected: takes true or false") from None


def _moment(name: str, text: str) -> float:
    """Seconds since 1970, or ISO 8601 (UTC where it names no zone)."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            seconds = math.nan
        else:
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(seconds):
        raise QueryWrong(f"{name}: takes seconds since 1970 or ISO 8601, as in 2026-01-28T10:44:05Z")
    return seconds


def _limit(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= LIMIT_MAX:
        raise QueryWrong(f"limit: takes a whole number from 1 to {LIMIT_MAX}")
    return int(text)
