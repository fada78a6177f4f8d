"""The audit: the device's books against the cloud's, number range by number range. Pure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import attrs

from actors.ports.account import Account, Span
from actors.verdict import MARK, judge

KEY_REMEDY = "set CLOUD_LOGGING_API_KEY_FILE (or _KEY) to a key that the cloud knows for this device; `doctor` tries it"
WAY_REMEDY = "`doctor` looks at each step of the way to the cloud"


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
    """Numbers that came with two payloads; after a fork each of ours is stored under another number."""
    forked: bool = False
    ahead: int = 0
    """How far beyond this buffer's last number the cloud knows its stream: the buffer was restored, or has a double."""
    unheard: bool = False
    """The cloud has never heard of any stream of this buffer: all that was sent went elsewhere, or it has lost it."""

    @property
    def good(self) -> bool:
        """Whether nothing is missing, and nothing is stored that the device did not send."""
        return not (self.missing or self.ahead) and (self.forked or not self.conflicts)

    def sentence(self) -> str:
        """The verdict in one line."""
        where = (
            f"accepted {self.accepted}, stored {self.stored}, duplicates absorbed {self.duplicates_absorbed},"
            f" waiting {self.waiting}, quarantined {self.quarantined}, given up {self.given_up},"
            f" missing {count(self.missing)}, conflicts {self.conflicts}"
        )
        if self.ahead:
            where += (
                f", and the cloud has {self.ahead} numbers that this buffer never gave out (restored, or a double?)"
            )
        if self.good:
            return f"{where}: nothing is missing"
        ranges = ", ".join(f"{first}-{last}" for first, last in self.missing[:20])
        told = f"{where}: SOMETHING IS WRONG" + (f", missing are {ranges}" if ranges else "")
        return f"{told}; the cloud has never heard of this device, is it the right one?" if self.unheard else told


def heard(status: int, headers: Mapping[str, str], body: bytes) -> Mapping[str, Any] | None:
    """The cloud's answer to `GET /devices/{id}/audit`; None: it has never heard of the device.

    `ValueError` with what came instead and what to do: anybody can say 404, and that is no proof that all is missing.
    """
    if MARK in headers and status == 404:
        return None
    if MARK in headers and status == 200:
        try:
            audit: Mapping[str, Any] = json.loads(body)
        except ValueError as exc:
            raise ValueError(f"the cloud's answer is damaged ({exc}); try again") from exc
        return audit
    said = judge(status, headers, body, records=0, now=0.0).reason or str(status)
    stranger = "" if MARK in headers or "not from our cloud" in said else ", but not from our cloud"
    raise ValueError(f"it was answered {said}{stranger}; {KEY_REMEDY if status in (401, 403) else WAY_REMEDY}")


def compare(account: Account, audits: Mapping[str, Mapping[str, Any]], *, given_out: int | None = None) -> Finding:
    """Hold an account against the cloud's answers to `GET /devices/{id}/audit`, by device (none: it knows no such one).

    `given_out` is the highest number by the time of the answers, where the device ran on since the account was read.
    `ValueError` if the cloud lists only a part of its gaps: then there is nothing to compare number by number.
    """
    told = {(device, one["stream_id"]): one for device, audit in audits.items() for one in audit.get("streams", ())}
    unheard_of: Mapping[str, Any] = {"last_seq": 0, "gaps": [], "gaps_total": 0, "duplicates": 0, "conflicts": 0}
    absent: list[Span] = []
    explained: list[Span] = []
    seen: list[Mapping[str, Any]] = []
    ends = [after.first_seq - 1 for _, after in pairwise(account.streams)] + [account.accepted]
    for stream, last in zip(account.streams, ends, strict=True):
        its = told.get((stream.device_id, stream.stream_id), unheard_of)
        if its["gaps_total"] > len(its["gaps"]):
            raise ValueError(f"the cloud lists {len(its['gaps'])} of {its['gaps_total']} gaps")
        gaps = [(gap["from_seq"], gap["to_seq"]) for gap in its["gaps"]]
        gaps.append((its["last_seq"] + 1, last))
        mine = [(stream.first_seq, last)]
        absent += subtract(mine, subtract(mine, gaps))
        explained += [(gap["from_seq"], gap["to_seq"]) for gap in its["gaps"] if gap["reason"] is not None]
        seen.append(its)
    ahead = max(0, seen[-1]["last_seq"] - max(account.accepted, given_out or 0))
    given_up = [*explained, *((first, last) for first, last, _ in account.given_up)]
    after_waiting = subtract(absent, account.waiting)
    after_quarantine = subtract(after_waiting, account.quarantined)
    missing = subtract(after_quarantine, given_up)
    return Finding(
        stream_id=account.streams[-1].stream_id,
        accepted=account.accepted,
        stored=account.accepted - count(absent),
        duplicates_absorbed=sum(its["duplicates"] for its in seen),
        waiting=count(absent) - count(after_waiting),
        quarantined=count(after_waiting) - count(after_quarantine),
        given_up=count(after_quarantine) - count(missing),
        missing=tuple(missing),
        conflicts=sum(its["conflicts"] for its in seen),
        forked=len(account.streams) > 1,
        ahead=ahead,
        unheard=all(one is unheard_of for one in seen),
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
