"""What an answer of the cloud, or the lack of one, means for the predictions of a batch and for the link. Pure."""

import enum
import itertools
from collections.abc import Generator, Mapping, Sequence
from email.utils import parsedate_to_datetime

import attrs
import msgspec

from actors.messages import Sign
from actors.seqs import NO_SEQS, Payloads, Seqs, Stored, payloads_of, seqs_of
from cloud import wire

RETRY_AFTER_MAX_S = 300.0
"""The cloud may ask for more; we come back after this."""
RETRY_AFTER_DEFAULT_S = 5.0
REASON_CHARS_MAX = 300
ENVELOPE_AT_FAULT = "the cloud refuses even an empty batch: its version and ours may not fit together"
MARK = "holdfast-wire"
"""The header that our cloud sets on every answer."""
BATCH_MAX = "holdfast-batch-max"
"""The one in which it says how many predictions it takes at once."""


class Sense(enum.Enum):
    """What the cloud says of a piece of a batch."""

    STORED = "stored"
    BUSY = "busy"
    TOO_LARGE = "too large"
    UNUSABLE = "unusable"
    """400 or 422: something in it is wrong; which record is for us to find."""
    FAILED = "failed"
    REFUSED = "refused"


@attrs.frozen
class Verdict:
    """What became of one POST; `reason` is in words fit for a log and for `last_error`."""

    sense: Sense
    reason: str = ""
    retry_after_s: float = 0.0
    answer: wire.Answer | None = None
    ours: bool = False
    """The answer bears the cloud's mark, or at least is JSON: not a portal's or a proxy's page."""

    @property
    def sign(self) -> Sign:
        """What it says of the link."""
        return {Sense.FAILED: Sign.FAILED, Sense.REFUSED: Sign.REFUSED}.get(self.sense, Sign.ALIVE)


def no_answer(reason: str) -> Verdict:
    """The verdict on a connect error, a timeout, a reset or half an answer."""
    return Verdict(Sense.FAILED, reason)


def judge(
    status: int, headers: Mapping[str, str], body: bytes, *, records: int, now: float, empty: bool = False
) -> Verdict:
    """The verdict on an answer to `records` predictions; `now` (seconds since 1970) is for dates in Retry-After.

    `empty`: the batch had nothing in it, so what the cloud finds wrong is the envelope itself.
    """
    if status in (200, 201):
        return _judge_success(status, headers, body, records)
    if 300 <= status < 400:
        return Verdict(Sense.REFUSED, _redirected(status, headers))
    ours = _is_ours(headers)
    wait_s = _retry_after_s(headers.get("retry-after"), now)
    sense = _sense(status, ours=ours, says_when=wait_s is not None)
    reason = f"{status}: {_said(headers, body)}".rstrip(": ")
    if sense is Sense.UNUSABLE and empty:
        return Verdict(Sense.REFUSED, f"{ENVELOPE_AT_FAULT}; {reason}"[:REASON_CHARS_MAX], ours=ours)
    if sense is not Sense.BUSY:
        return Verdict(sense, reason, ours=ours)
    return Verdict(sense, reason, RETRY_AFTER_DEFAULT_S if wait_s is None else wait_s, ours=ours)


def _sense(status: int, *, ours: bool, says_when: bool) -> Sense:
    match status:
        case 429:
            return Sense.BUSY
        case 503 if says_when:
            return Sense.BUSY
        case 413:
            return Sense.TOO_LARGE
        case 400 | 422 if ours:
            return Sense.UNUSABLE
        case _ if status >= 500 or status == 408:
            return Sense.FAILED
        case _:
            return Sense.REFUSED


def judge_probe(status: int, headers: Mapping[str, str]) -> tuple[Sign, str]:
    """What the answer to `HEAD /health` says of the link, and why."""
    if 300 <= status < 400:
        return Sign.REFUSED, f"probe: {_redirected(status, headers)}"
    if MARK in headers:
        if status in (200, 204, 429, 503):
            return Sign.ALIVE, f"probe: {status}"
        return (Sign.FAILED if status >= 500 else Sign.REFUSED), f"probe: {status}"
    if status >= 500 or status == 429:
        return Sign.FAILED, f"probe: {status}"
    return Sign.REFUSED, f"probe: {status}, but not from our cloud ({headers.get('content-type', 'no content type')})"


def _redirected(status: int, headers: Mapping[str, str]) -> str:
    return f"{status}: redirected to {headers.get('location', 'nowhere')}"[:REASON_CHARS_MAX]


def _judge_success(status: int, headers: Mapping[str, str], body: bytes, records: int) -> Verdict:
    """Believed only if it speaks of exactly the records that were sent: anybody can say 200."""
    try:
        answer = wire.read_answer(body)
    except wire.WireError:
        if MARK in headers:
            return Verdict(
                Sense.FAILED, f"{status}: the answer is damaged: {_excerpt(body)}"[:REASON_CHARS_MAX], ours=True
            )
        kind = headers.get("content-type", "no content type")
        return Verdict(Sense.REFUSED, f"{status}, but not from our cloud ({kind}): {_excerpt(body)}"[:REASON_CHARS_MAX])
    indexes = [rejection.index for rejection in answer.rejected]
    if (
        answer.counts() != records
        or min(answer.accepted, answer.duplicates, answer.conflicts) < 0
        or len(set(indexes)) != len(indexes)
        or not all(0 <= index < records for index in indexes)
    ):
        return Verdict(Sense.REFUSED, f"{status}, but it speaks of {answer.counts()} predictions; {records} were sent")
    return Verdict(Sense.STORED, answer=answer, ours=True)


def _is_ours(headers: Mapping[str, str]) -> bool:
    kind = _kind(headers)
    return MARK in headers or kind == "application/json" or kind.endswith("+json")


def _kind(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _retry_after_s(header: str | None, now: float) -> float | None:
    """Seconds to wait, within bounds; None where the header is missing or means nothing."""
    if header is None:
        return None
    try:
        wait_s = float(header) if header.isdecimal() else parsedate_to_datetime(header).timestamp() - now
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, wait_s), RETRY_AFTER_MAX_S)


class _Problem(msgspec.Struct):
    """What a person wants of a problem document (RFC 9457): what is wrong, and our cloud's own word on what to do."""

    detail: str
    remedy: str = ""


def _said(headers: Mapping[str, str], body: bytes) -> str:
    """What an answer says, in its own words where it is a problem document."""
    if _kind(headers) != "application/problem+json":
        return _excerpt(body)
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _excerpt(body)
    return _excerpt("; ".join(filter(None, (problem.detail, problem.remedy))).encode())


def _excerpt(body: bytes) -> str:
    """The start of an answer as one line of printable text."""
    text = body[: REASON_CHARS_MAX * 4].decode("utf-8", errors="replace")
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:REASON_CHARS_MAX]


# --- taking a batch apart


@attrs.frozen
class Piece:
    """What one POST carries of a batch."""

    records: Payloads = attrs.field(converter=payloads_of)
    losses: tuple[wire.Loss, ...] = ()
    doubted: bool = False
    """Known to hold a bad record if the piece before it turns out good."""

    @property
    def size(self) -> int:
        """Bytes of payload."""
        return self.records.size


@attrs.define
class Room:
    """How much the cloud takes at once, shared by both lanes: bytes of payload, learnt from 413, and predictions."""

    bytes_max: int = wire.BATCH_BYTES_MAX
    records_max: int = wire.BATCH_RECORDS_MAX

    def heed(self, headers: Mapping[str, str]) -> None:
        """Learn what our cloud says of itself; an older one says nothing, and a proxy's answer tells nothing."""
        if MARK in headers:
            told = headers.get(BATCH_MAX, "")
            most = int(told) if told.isascii() and told.isdigit() else wire.BATCH_RECORDS_MAX
            self.records_max = min(max(1, most), wire.RECORDS_TAKEN_MAX)

    def split(self, piece: Piece) -> list[Piece]:
        """Two halves of a piece that was too large; neither lane sends more than the larger of them from now on."""
        first, second = _halves(piece)
        if first.records and not piece.losses:
            self.bytes_max = min(self.bytes_max, max(first.size, second.size))
        return [second, first]


@attrs.define
class Settlement:
    """What became of a batch: each of its predictions is in one of `sent`, `refused`, `conflicted` and `left`."""

    sent: Seqs = NO_SEQS
    refused: list[tuple[int, str]] = attrs.field(factory=list)
    """Numbers that the cloud will never take, each with its error."""
    left: Payloads = attrs.field(factory=Payloads)
    left_error: str | None = None
    """Why, where it counts as a failed try; being busy or refused is not the predictions' fault."""
    losses: list[wire.Loss] = attrs.field(factory=list)
    """Ranges that the cloud took note of."""
    losses_left: tuple[wire.Loss, ...] = ()
    duplicates: int = 0
    conflicts: int = 0
    conflicted: Seqs = NO_SEQS
    """Numbers that the cloud has another prediction under; an old cloud only counts them."""
    suspects: list[tuple[Payloads, str]] = attrs.field(factory=list)
    """Single records that the cloud refused while it has taken nothing yet: the envelope may be what it minds."""
    sound: bool = False
    """The cloud has taken a piece of this batch, so it is not the envelope that it minds."""
    too_large: bool = False
    trouble: Verdict | None = None
    """The verdict that stopped it; None if every record was offered."""


def join(settlements: Sequence[Settlement]) -> Settlement:
    """Those of a batch's parts as that of the whole; only the last one may have been stopped."""
    whole = Settlement()
    for one in settlements:
        whole.sent += one.sent
        whole.refused += one.refused
        whole.conflicted += one.conflicted
        whole.left += one.left
        whole.losses += one.losses
        whole.losses_left += one.losses_left
        whole.duplicates += one.duplicates
        whole.conflicts += one.conflicts
        whole.too_large |= one.too_large
        whole.left_error, whole.trouble = one.left_error or whole.left_error, one.trouble
    return whole


def settle(records: Payloads, losses: Sequence[wire.Loss], room: Room) -> Generator[Piece, Verdict, Settlement]:
    """Yields pieces to POST, takes the verdict on each, returns what became of the whole.

    The usual batch is one piece. After 413 it goes on in halves. After 400 or 422 a binary search finds the bad
    record: at most 2 * log2(n) POSTs more for each one among n > 1. Before anything is refused for good, something of
    the batch must have been taken; if nothing was, an empty piece shows whether the envelope itself is at fault, and
    then all is left. Busy, failed or refused ends it, the rest is left.
    """
    done = Settlement()
    todo = _to_fit(records, losses, room)
    while todo or done.suspects:
        piece = todo.pop() if todo else Piece(())
        if len(piece.records) > 1 and not _fits(piece, room):
            todo += _to_fit(piece.records, piece.losses, room)
            piece = todo.pop()
        verdict = yield piece
        match verdict.sense:
            case Sense.STORED:
                _take(done, piece, verdict)
                if todo and todo[-1].doubted:
                    todo += _search(todo.pop())
            case Sense.UNUSABLE:
                _undoubt(todo, room)
                another = [Piece(())] if done.suspects else []  # to tell a bad envelope from two bad records
                _part(done, todo, piece, verdict, _search(piece))
                todo += another
            case Sense.TOO_LARGE:
                done.too_large = True
                _undoubt(todo, room)
                _part(done, todo, piece, verdict, room.split(piece))
            case Sense.BUSY | Sense.FAILED | Sense.REFUSED:
                todo.append(piece)
                done.trouble = verdict
                if verdict.sense is Sense.FAILED:
                    done.left_error = verdict.reason
                break
    rest = [Piece(suspect) for suspect, _ in done.suspects] + todo[::-1]
    for piece in rest:
        done.left += piece.records
    done.losses_left += tuple(loss for piece in rest for loss in piece.losses)
    return done


def _take(done: Settlement, piece: Piece, verdict: Verdict) -> None:
    """Enter a piece that the cloud took: its rejected records are refused, the others sent."""
    assert verdict.answer is not None
    rejected = {rejection.index: rejection.error for rejection in verdict.answer.rejected}
    seqs = piece.records.seqs
    forked = set(verdict.answer.conflicting or ())
    if rejected or forked:
        taken = [seq for index, seq in enumerate(seqs) if index not in rejected]
        done.sent += seqs_of([seq for seq in taken if seq not in forked])
        done.conflicted += seqs_of([seq for seq in taken if seq in forked])
    else:
        done.sent += seqs
    done.refused += [(seqs[index], rejected[index][:REASON_CHARS_MAX]) for index in sorted(rejected)]
    done.losses += piece.losses
    done.duplicates += verdict.answer.duplicates
    done.conflicts += verdict.answer.conflicts
    done.sound = True
    done.refused += [(suspect.seqs[0], error) for suspect, error in done.suspects]
    done.suspects.clear()


def _part(done: Settlement, todo: list[Piece], piece: Piece, verdict: Verdict, parts: Sequence[Piece]) -> None:
    """Go on with the parts of a piece that was refused as a whole, or settle it if it can't be parted."""
    if piece.records and piece.losses:
        todo += [Piece((), piece.losses), Piece(piece.records)]  # apart, they show which of them is at fault
    elif len(piece.records) > 1:
        todo += parts
    elif not piece.records:
        done.losses_left += piece.losses
    elif verdict.sense is Sense.UNUSABLE and not done.sound:
        done.suspects.append((piece.records, verdict.reason))
    elif verdict.ours:
        done.refused.append((piece.records.seqs[0], verdict.reason))
    else:
        done.left += piece.records  # a proxy's word on its own limit ends no prediction's life
        done.left_error = verdict.reason


def _search(bad: Piece) -> list[Piece]:
    """The next step towards the bad record in a piece that holds one: its first half, then, in doubt, the second."""
    if len(bad.records) < 2:
        return [Piece(bad.records)]
    first, second = _halves(bad)
    return [attrs.evolve(second, doubted=True), first]


def _undoubt(todo: list[Piece], room: Room) -> None:
    """The bad record was found ahead of the doubted piece: that one goes with its neighbours, if they fit, as one."""
    if not (todo and todo[-1].doubted):
        return
    piece = attrs.evolve(todo.pop(), doubted=False)
    if todo and not todo[-1].losses:
        together = Piece(piece.records + todo[-1].records)
        if together.size <= room.bytes_max and len(together.records) <= room.records_max:
            todo[-1] = together
            return
    todo.append(piece)


def _halves(piece: Piece) -> tuple[Piece, Piece]:
    middle = len(piece.records) // 2
    return Piece(piece.records[:middle]), Piece(piece.records[middle:])


def _fits(piece: Piece, room: Room) -> bool:
    return (
        len(piece.records) <= room.records_max
        and len(piece.losses) <= wire.LOSSES_MAX
        and (len(piece.records) < 2 or piece.size <= room.bytes_max)
    )


def _to_fit(records: Payloads, losses: Sequence[wire.Loss], room: Room) -> list[Piece]:
    """The batch in pieces that the cloud is thought to take, as a stack: the first one last."""
    whole = Piece(records, tuple(losses))
    if _fits(whole, room):
        return [whole] if records or losses else []
    groups: list[list[Stored]] = []
    size = 0
    for record in records:
        size += len(record.payload)
        if not groups or size > room.bytes_max or len(groups[-1]) == room.records_max:
            groups.append([])
            size = len(record.payload)
        groups[-1].append(record)
    ranges = [tuple(losses[start : start + wire.LOSSES_MAX]) for start in range(0, len(losses), wire.LOSSES_MAX)]
    pieces = (Piece(group, taken) for group, taken in itertools.zip_longest(groups, ranges, fillvalue=()))
    return list(pieces)[::-1]
