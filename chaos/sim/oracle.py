"""The verdict: G1 to G7, checked against the workload's own books, on what the cloud answers and the disk holds."""

import contextlib
import json
import os
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import httpx

from actors.messages import Stream
from actors.pipeline import Pipeline
from actors.ports.names import read_names
from actors.settings import Settings, WhenFull
from actors.status import Status
from actors.streams import OTHER_STREAM, stream_of
from chaos.sim.books import Books, Made, Number, Violation
from chaos.sim.cloud import UNWANTED
from chaos.sim.coverage import Coverage
from chaos.sim.damage import peeked
from chaos.sim.drive import Drive
from chaos.sim.figures import check_device_metrics
from chaos.sim.link import Link
from chaos.sim.plan import Plan

ADDED = {"received_at", "late", "clock_wrong"}
"""What the cloud tells of a prediction beside what was sent."""


def handles_below(folder: object) -> list[str]:
    """The files below a folder that this process holds open."""
    found = []
    for fd in os.listdir("/proc/self/fd"):  # noqa: PTH208 - a folder of numbers
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
        except OSError:
            continue
        if target.startswith(f"{folder}/"):
            found.append(target)
    return found


def check_stopped(drive: Drive, books: Books, pipeline: Pipeline, lives: int) -> int:
    """What holds of every life that has stopped in order; how many accepted ones it says to have turned away later."""
    if leaked := handles_below(drive.folder):
        raise Violation(f"G6: handles are left open: {leaked}")
    aside = sorted(path.name for path in drive.folder.glob("buffer.db.corrupt-*"))
    if aside and not books.database_hit:
        raise Violation(f"G5: no bit of the database has flipped, and it was set aside: {aside}")
    mine = [made for made in books.made.values() if made.life == lives]
    away = sum(made.turned_away for made in mine)
    unsure = sum(made.in_memory or not made.answered for made in mine)
    told = pipeline.status()["turned_away"]
    if not away <= told <= away + unsure:
        raise Violation(f"G1: {told} are counted as turned away, {away} callers heard so, {unsure} can't know")
    return told - away


def check_flushed(drive: Drive, books: Books) -> None:
    """What holds, beside that, of a life that stopped on a disk that is well: the next one has nothing to replay.

    But where a bit that had flipped in the database was met, and the stop left word for the next start to replace it.
    """
    left = sorted(path.name for path in drive.folder.glob("buffer-journal/*.jsonl"))
    if left and not (books.database_hit and (drive.folder / "buffer.db.damaged").exists()):
        raise Violation(f"G6: a stop in order leaves segments behind: {left}")


def check_rest(books: Books, status: Status, settings: Settings, link: Link) -> None:
    """What holds of the disk and of the device's own account once it has converged and stopped."""
    wrong = {
        name: status[name]  # type: ignore[literal-required]
        for name, right in {"pending": 0, "in_memory": 0, "in_flight": 0, "trouble": "", "degraded": ""}.items()
        if status[name] != right  # type: ignore[literal-required]
    }
    if wrong:
        raise Violation(f"status after convergence: {wrong}")
    stream, rows, losses = read_rest(settings.buffer_db_path, books)
    streams = read_names(settings.buffer_db_path, Stream(stream, books.device))
    failed = ((seq, error or b"") for seq, state, _, error in rows if state == "failed")
    books.failed = {(stream_of(streams, seq).stream_id, seq): error.decode(errors="replace") for seq, error in failed}
    if books.database_hit:
        return
    for seq, state, payload, _ in rows:
        if state == "pending":
            raise Violation(f"G1: {seq} is pending on a disk that has converged")
        content = json.loads(payload)
        if content.pop("seq", None) != seq or content != books.made[content["image_id"]].content:
            raise Violation(f"G1: the buffer holds another prediction under {seq}")
    books.end = (stream, status["last_seq"])
    _check_counts(status, stream, rows, losses, link)


def read_rest(path: Path, books: Books) -> tuple[str, list[Any], list[Any]]:
    """The stream, the rows and the tombstones of a buffer at rest.

    What a flipped bit has hit may never have been read by the device again, which had nothing more to do with it: the
    numbers of rows that do not read are in doubt.
    """
    table = "SELECT id, status, CAST(prediction_data AS BLOB), CAST(last_error AS BLOB) FROM prediction_buffer"
    rows: dict[int, Any] = {}
    with peeked(path) as connection:
        try:
            stream = connection.execute("SELECT stream_id FROM buffer_metadata").fetchone()[0]
            rows = {row[0]: row for row in connection.execute(f"{table} NOT INDEXED")}
            losses = connection.execute("SELECT from_seq, to_seq, reason FROM buffer_losses").fetchall()
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            if not books.database_hit:
                raise
            stream, losses = books.streams[-1] if books.streams else "", []
            for order in ("ASC", "DESC"):
                with contextlib.suppress(sqlite3.DatabaseError, UnicodeDecodeError):
                    for row in connection.execute(f"{table} NOT INDEXED ORDER BY id {order}"):
                        rows.setdefault(row[0], row)
            books.doubted |= {number for number in books.given if number[1] not in rows}
    return stream, list(rows.values()), losses


def _check_counts(status: Status, stream: str, rows: list[Any], losses: list[Any], link: Link) -> None:
    """Counters are the truth: every number up to the last is sent, refused, or given up; and the metrics say so too."""
    lost = Counter[str]()
    for first, last, reason in losses:
        lost[reason] += last - first + 1
    failed = sum(state == "failed" for _, state, *_ in rows)
    truth = {
        "stream_id": stream,
        "failed": failed,
        "evicted": lost["evicted"],
        "sent": status["last_seq"] - failed - lost.total(),
        "posts": link.posts,
        "duplicates": link.duplicates,
    }
    told = {name: status[name] for name in truth}  # type: ignore[literal-required]
    if told != truth:
        raise Violation(f"status is {told}, the truth is {truth}")
    home = {"pending": 0, "in_flight": 0, "in_memory": 0, "last_seq": status["last_seq"]}
    check_device_metrics(status, home | {name: count for name, count in truth.items() if isinstance(count, int)})


# --- the cloud


@attrs.define
class Stored:
    """What the cloud has, by what it says when it is asked over HTTP."""

    numbered: dict[str, dict[Number, list[dict[str, Any]]]] = attrs.Factory(dict)
    """By device and number."""
    unnumbered: dict[str, list[dict[str, Any]]] = attrs.Factory(dict)
    audits: dict[str, list[dict[str, Any]]] = attrs.Factory(dict)
    stats: dict[str, Any] = attrs.Factory(dict)

    def of(self, device: str) -> dict[Number, list[dict[str, Any]]]:
        """One device's."""
        return self.numbered.get(device, {})

    @property
    def count(self) -> int:
        """All of them."""
        numbered = (len(found) for of_device in self.numbered.values() for found in of_device.values())
        return sum(numbered) + sum(len(found) for found in self.unnumbered.values())


async def ask_the_cloud(transport: httpx.AsyncBaseTransport, devices: list[str]) -> Stored:
    """Everything it has, page by page."""
    stored = Stored()
    async with httpx.AsyncClient(transport=transport, base_url="http://cloud.test") as client:
        params: dict[str, Any] = {"limit": 1000}
        while True:
            page = (await client.get("/predictions", params=params)).raise_for_status().json()
            for item in page["predictions"]:
                device = item.pop("edge_device_id")
                stream, seq = item.pop("stream_id", None), item.pop("seq", None)
                content = {name: item[name] for name in item.keys() - ADDED}
                if stream is None or seq is None:
                    stored.unnumbered.setdefault(device, []).append(content)
                else:
                    stored.numbered.setdefault(device, {}).setdefault((stream, seq), []).append(content)
            if not page.get("next_cursor"):
                break
            params["cursor"] = page["next_cursor"]
        for device in devices:
            answer = await client.get(f"/devices/{device}/audit")
            stored.audits[device] = answer.json()["streams"] if answer.status_code == 200 else []
        stored.stats = (await client.get("/stats")).raise_for_status().json()
    return stored


def check_cloud(plan: Plan, books: Books, stored: Stored, coverage: Coverage) -> None:
    """G1, G2 and G3 of one device."""
    mine = stored.of(books.device)
    gaps = _gaps(stored.audits[books.device])
    _check_receipts(books, mine, gaps)
    _check_stored(books, mine)
    _check_unnumbered(books, stored.unnumbered.get(books.device, []))
    for number, reason in gaps.items():
        _check_reason(plan, books, number, reason)
        coverage("outcome: loss explained")
    for stream in stored.audits[books.device]:
        if stream["conflicts"] and not books.database_hit:
            raise Violation(f"G2: a number was sent with two payloads: {stream}")
    _check_sums(books, stored)


def _gaps(audit: list[dict[str, Any]]) -> dict[Number, str | None]:
    """Every number that the cloud misses, and the reason that it knows."""
    found: dict[Number, str | None] = {}
    for stream in audit:
        for gap in stream["gaps"]:
            if gap["to_seq"] - gap["from_seq"] > 100_000:
                continue  # a damaged counter has jumped; no receipt lies so far out
            for seq in range(gap["from_seq"], gap["to_seq"] + 1):
                found[stream["stream_id"], seq] = gap["reason"]
    return found


def _check_sums(books: Books, stored: Stored) -> None:
    """What the cloud has counted as it came is what there is."""
    mine, unnumbered = stored.of(books.device), stored.unnumbered.get(books.device, [])
    there = [content for found in mine.values() for content in found] + unnumbered
    have = (len(there), sum(content["defect_detected"] for content in there))
    sums = stored.stats["by_edge_device"].get(books.device, {"total_predictions": 0, "defects_detected": 0})
    told = (sums["total_predictions"], sums["defects_detected"])
    if told != have:
        raise Violation(f"/stats tells of {told} predictions and defects of {books.device}, there are {have}")
    numbered = Counter(stream_id for stream_id, _ in mine)
    last_seqs = {stream["stream_id"]: stream["last_seq"] for stream in stored.audits[books.device]}
    for stream in stored.audits[books.device]:
        reasons = sum(gap["to_seq"] - gap["from_seq"] + 1 for gap in stream["gaps"] if gap["reason"] is not None)
        counted = {"stored": numbered[stream["stream_id"]], "explained": reasons}
        if counted != {name: stream[name] for name in counted}:
            raise Violation(f"the audit says {stream}, the truth is {counted}")
    if sum(stream["unnumbered"] for stream in stored.audits[books.device]) != len(unnumbered):
        raise Violation(f"the audit knows of other predictions without a number than the {len(unnumbered)} there are")
    if books.end is not None:
        stream_id, last_seq = books.end
        known = [last_seqs.get(stream_id, 0), *(seq for name, seq in books.failed if name == stream_id)]
        if max(known) != last_seq:
            raise Violation(f"the device says that {stream_id} ends at {last_seq}, and it ends at {max(known)}")


def _check_receipts(books: Books, stored: dict[Number, list[dict[str, Any]]], gaps: dict[Number, str | None]) -> None:
    """What got a durable receipt is stored exactly once, as it was, or has a reason."""
    for number, made in books.given.items():
        found = stored.get(number, [])
        if len(found) > 1:
            raise Violation(f"G2: {number} is stored {len(found)} times")
        if found and found[0] != made.content and number not in books.unchecked:
            raise Violation(f"G2: {number} was accepted for {made.image_id}, stored is {found[0]}")
        if not found and number not in gaps and number not in books.failed and number not in books.doubted:
            raise Violation(f"G1: {number} was accepted for {made.image_id}; it is not stored, and nobody says why")


def _check_stored(books: Books, stored: dict[Number, list[dict[str, Any]]]) -> None:
    """Nothing is stored that nobody made, and nothing under two numbers."""
    seen: dict[str, Number] = {}
    for number, found in stored.items():
        made = books.made.get(found[0]["image_id"])
        if number in books.unchecked or _is_changed_copy(found[0], number, books):
            continue
        if made is None or made.content != found[0]:
            raise Violation(f"G2: {number} holds what nobody made: {found[0]}")
        if number in books.doubted:
            continue
        if made.image_id in seen:
            raise Violation(f"G2: {made.image_id} is stored as {number} and as {seen[made.image_id]}")
        seen[made.image_id] = number
        if made.number not in (None, number):
            raise Violation(f"G2: {made.image_id} is stored as {number}, its receipt said {made.number}")
        if made.turned_away:
            raise Violation(f"G1: {made.image_id} was turned away, and is stored all the same")


def _is_changed_copy(content: dict[str, Any], number: Number, books: Books) -> bool:
    """Whether this may be one of those that may be delivered changed, out under another number.

    The cloud had it already, so the changed one was in conflict with it. A bit changes one value, or the name of one.
    """
    if number in books.given:
        return False
    originals = [books.given[one].content for one in books.unchecked if one in books.given]
    changed = [sum(one.get(key) != content.get(key) for key in one | content) for one in originals]
    return any(1 <= count <= 2 for count in changed)


def _check_unnumbered(books: Books, stored: list[dict[str, Any]]) -> None:
    """The same of what memory delivered, without a number."""
    for content in stored:
        made = books.made.get(content["image_id"])
        if made is None or made.content != content:
            raise Violation(f"G2: what nobody made is stored: {content}")
        if made.number is not None or made.turned_away:
            raise Violation(f"G2: {made.image_id} is stored without a number; its receipt said {made.number}")


def _check_reason(plan: Plan, books: Books, number: Number, reason: str | None) -> None:
    """A gap has a reason, and the right one."""
    made = books.given.get(number)
    if reason is None:
        if number in books.doubted and number not in books.failed:
            return
        if number not in books.failed:
            raise Violation(f"G3: {number} is missing, and nobody says why")
        if UNWANTED in books.failed[number]:
            raise Violation(f"G3: the cloud rejected {number}, and does not say so")
        reason = f"rejected: {books.failed[number]}"
    right = False
    match reason.partition(":")[0]:
        case "evicted":
            right = plan.when_full is WhenFull.DROP_OLDEST
        case "bad_sector":
            right = number in books.damaged or number in books.doubted or (made is None and number in books.torn)
        case "rejected":
            right = made is None or _is_bad(made) or number in books.unchecked
        case told if told == OTHER_STREAM:  # a changed one was in conflict with what the cloud has
            right = made is None and bool(books.unchecked)
        case _:
            right = number in books.doubted  # the tombstone's own text was hit
    if not right:
        raise Violation(f"G3: {number} is said to be lost: {reason!r}; its books say {made}")


def _is_bad(made: Made) -> bool:
    return made.refused or made.poison


def check_memory(books: Books, stored: Stored) -> None:
    """What only memory held in a life that stopped in order is delivered, or on the disk, or told to be given up.

    On the disk it has a number that no receipt told: of those as many as are explained may be missing here.
    """
    there = {content["image_id"] for found in stored.of(books.device).values() for content in found}
    there |= {content["image_id"] for content in stored.unnumbered.get(books.device, [])}
    gaps = _gaps(stored.audits[books.device])
    explained = sum(number not in books.given for number in gaps)
    for life, given_up in books.stopped.items():
        lost = [
            made.image_id
            for made in books.made.values()
            if made.in_memory and made.life == life and made.image_id not in there and not _is_bad(made)
        ]
        if len(lost) > given_up + explained:
            told = f"{given_up} were told to be given up, {explained} more are explained"
            raise Violation(f"G1: memory kept these in life {life}, {told}, and they are nowhere: {lost}")
