"""The audit: the device's books against the cloud's, number range by number range. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from actors.ports.account import Account, Span


@attrs.frozen(kw_only=True)
class Finding:
    """Where every accepted number is. `stored` + `waiting` + `quarantined` + `given_up` + `missing` = `accepted`."""

    stream_id: str
    accepted: int
    stored: int
    duplicates_absorbed: int
    waiting: int
    quarantined: int
    given_up: int
    """Dropped or damaged, and explained."""
    missing: tuple[Span, ...]
    """Neither stored, nor on the device, nor explained by anybody."""
    conflicts: int

    @property
    def good(self) -> bool:
        """Whether nothing is missing, and nothing is stored that the device did not send."""
        return not self.missing and not self.conflicts

    def sentence(self) -> str:
        """The verdict in one line."""
        where = (
            f"accepted {self.accepted}, stored {self.stored}, duplicates absorbed {self.duplicates_absorbed},"
            f" waiting {self.waiting}, quarantined {self.quarantined}, given up {self.given_up},"
            f" missing {count(self.missing)}, conflicts {self.conflicts}"
        )
        if self.good:
            return f"{where}: nothing is missing"
        ranges = ", ".join(f"{first}-{last}" for first, last in self.missing[:20])
        return f"{where}: SOMETHING IS WRONG" + (f", missing are {ranges}" if ranges else "")


def compare(account: Account, audit: Mapping[str, Any]) -> Finding:
    """Hold an account against the cloud's answer to `GET /devices/{id}/audit` (an empty one: it knows no such device).

    `ValueError` if the cloud lists only a part of its gaps: then there is nothing to compare number by number.
    """
    streams: Iterator[Mapping[str, Any]] = (
        stream for stream in audit.get("streams", ()) if stream["stream_id"] == account.stream_id
    )
    unheard_of: Mapping[str, Any] = {"last_seq": 0, "gaps": [], "gaps_total": 0, "duplicates": 0, "conflicts": 0}
    stream = next(streams, unheard_of)
    if stream["gaps_total"] > len(stream["gaps"]):
        raise ValueError(f"the cloud lists {len(stream['gaps'])} of {stream['gaps_total']} gaps")
    gaps = [(gap["from_seq"], gap["to_seq"]) for gap in stream["gaps"]]
    gaps.append((stream["last_seq"] + 1, account.accepted))
    absent = subtract([(1, account.accepted)], subtract([(1, account.accepted)], gaps))
    explained = [(gap["from_seq"], gap["to_seq"]) for gap in stream["gaps"] if gap["reason"] is not None]
    given_up = [*explained, *((first, last) for first, last, _ in account.given_up)]
    after_waiting = subtract(absent, account.waiting)
    after_quarantine = subtract(after_waiting, account.quarantined)
    missing = subtract(after_quarantine, given_up)
    return Finding(
        stream_id=account.stream_id,
        accepted=account.accepted,
        stored=account.accepted - count(absent),
        duplicates_absorbed=stream["duplicates"],
        waiting=count(absent) - count(after_waiting),
        quarantined=count(after_waiting) - count(after_quarantine),
        given_up=count(after_quarantine) - count(missing),
        missing=tuple(missing),
        conflicts=stream["conflicts"],
    )


def subtract(spans: Iterable[Span], minus: Iterable[Span]) -> list[Span]:
    """The numbers of `spans` that are in none of `minus`, as ranges in order."""
    holes = sorted(minus)
    left: list[Span] = []
    for first, last in sorted(spans):
        at = first
        for hole_first, hole_last in holes:
            if hole_last < at:
                continue
            if hole_first > last:
                break
            if hole_first > at:
                left.append((at, hole_first - 1))
            at = max(at, hole_last + 1)
        if at <= last:
            left.append((at, last))
    return left


def count(spans: Sequence[Span]) -> int:
    """How many numbers these are."""
    return sum(last - first + 1 for first, last in spans)
