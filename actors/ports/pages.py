"""Read a page of the backlog: SQLite itself joins the payloads, in C and without the interpreter's lock.

Each payload is held against the checksum that it was accepted with, and against the number of its row, before it goes
anywhere: where a bit of the number itself flipped, in the row or in the index, SQLite finds a neighbour under it.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import pairwise

import attrs
import google_crc32c
import msgspec

from actors.ports.confirmed import Confirmed
from actors.ports.sqlite import BufferDamaged
from actors.seqs import Payloads, Seqs, Span, Stored, joined, payloads_of, seqs_of
from cloud.wire import SEQ_HEAD, join_payloads

CHUNK_RECORDS = 100
"""A page is read in pieces of so many: the largest records there are then make 25 MiB, not 250."""
_OLDEST = "SELECT id FROM buffer_predictions WHERE status = 'pending' AND id > ? AND id < ? ORDER BY id LIMIT ?"
_NEWEST = "SELECT id FROM buffer_predictions WHERE status = 'pending' AND id > ? AND id < ? ORDER BY id DESC LIMIT ?"
_TURNED = f"SELECT id FROM ({_NEWEST}) ORDER BY id"  # noqa: S608 - both halves stand above
_ROWS = (
    "SELECT listed.id, row.prediction_data, row.payload_crc32c, row.status"
    " FROM ({}) AS listed LEFT JOIN buffer_predictions AS row NOT INDEXED ON row.id = listed.id"
)
"""The index lists, and each row is asked as well: one that is pending by its index alone would be so for ever."""
_JOINED = (
    "SELECT count(*), sum(status = 'pending'), min(id), max(id), CAST(group_concat(prediction_data, '\n') AS BLOB),"  # noqa: S608
    f" group_concat(payload_crc32c) FROM ({_ROWS})"
)
"""SQLite aggregates an ordered subquery with a LIMIT in its order."""
_NUMBERS = "SELECT id FROM ({})"
_SINGLY = f"SELECT id, CAST(prediction_data AS BLOB), payload_crc32c FROM ({_ROWS})"  # noqa: S608


@attrs.frozen
class Changed:
    """A payload that is not what was accepted under its number; `crc32c` is what it should have."""

    seq: int
    payload: bytes
    crc32c: int


class PayloadsChanged(Exception):
    """Predictions of a page are damaged; while their rows stand there, no page is read over them."""

    def __init__(self, rows: Sequence[Changed]) -> None:
        super().__init__(f"the checksums of {len(rows)} predictions are wrong")
        self.rows = rows


def read_page(
    connection: sqlite3.Connection,
    confirmed: Confirmed,
    between: Span,
    records_max: int,
    bytes_max: int,
    *,
    newest: bool,
) -> Payloads:
    """Pending predictions, their numbers in order; at least one if there is any. `PayloadsChanged`, `BufferDamaged`.

    Lets SQLite's errors through.

    The oldest of those with numbers above the first of `between`; with `newest` the newest of those between the two.
    """
    pieces: list[Payloads] = []
    left, room = records_max, bytes_max
    above, below = between
    gaps = confirmed.gaps_down(below, above) if newest else confirmed.gaps(above)
    for low, high in gaps:
        while left > 0 and low + 1 < high:
            asked = min(left, CHUNK_RECORDS)
            found = _read_chunk(connection, (low, high, asked), room, first=not pieces, newest=newest)
            if not found.count:
                break
            pieces.append(found.payloads)
            if len(found.payloads) < found.count:
                left = 0
                break
            left, room = left - found.count, room - found.size
            if newest:
                high = found.payloads.seqs[0]  # noqa: PLW2901 - what is left of the gap
            else:
                low = found.payloads.seqs[-1]  # noqa: PLW2901 - likewise
            if found.count < asked:
                break
        if left <= 0:
            break
    return joined(pieces[::-1] if newest else pieces)


@attrs.frozen
class _Chunk:
    """What was read of a page at once: so many rows were listed, and as many of their payloads as fit are here."""

    count: int
    size: int = 0
    payloads: Payloads = attrs.field(factory=Payloads)


def _read_chunk(
    connection: sqlite3.Connection, some: tuple[int, int, int], room: int, *, first: bool, newest: bool
) -> _Chunk:
    """The rows between two numbers, at most so many; of the `first` chunk of a page at least one fits."""
    low, high, _ = some
    inner, ordered = (_NEWEST, _TURNED) if newest else (_OLDEST, _OLDEST)
    count, waiting, lowest, highest, lines, checksums = connection.execute(_JOINED.format(ordered), some).fetchone()
    if not count:
        return _Chunk(0)
    if waiting != count or lowest <= low or highest >= high:
        raise BufferDamaged(f"the index lists rows from {lowest} to {highest} as waiting or as next, and some are not")
    # A line each: JSON has no line break within a text, and none at all as it is written here.
    lines = lines or b""
    payloads = lines.split(b"\n")
    sound = len(payloads) == count and _listed(map(google_crc32c.value, payloads)) == checksums
    if not sound and (changed := _changed(connection, inner, some)):
        raise PayloadsChanged(changed)
    seqs = Seqs([(lowest, highest)])
    if highest - lowest + 1 != count:
        seqs = _in_order([seq for (seq,) in connection.execute(_NUMBERS.format(ordered), some)])
    sound = sound and _numbered(payloads, seqs)
    if len(lines) > room and not first:
        return _Chunk(count)
    if sound and len(lines) <= room:
        return _Chunk(count, len(lines), Payloads(seqs, join_payloads(payloads), tuple(map(len, payloads))))
    # Perhaps fewer of them fit, and the first one does in any case; or one has a line break in it.
    return _Chunk(count, len(lines), _singly(connection, inner, some, room))


def _listed(numbers: Iterable[int]) -> str:
    """As SQLite lists them."""
    return msgspec.json.encode([*numbers])[1:-1].decode()


def _numbered(payloads: Sequence[bytes], seqs: Seqs) -> bool:
    """Whether each payload begins with its number, as those do that this version wrote.

    All at once where their heads are of one length: between two powers of ten.
    """
    size = len(SEQ_HEAD % seqs[0])
    if size == len(SEQ_HEAD % seqs[-1]):
        return b"".join([payload[:size] for payload in payloads]) == SEQ_HEAD * len(payloads) % tuple(seqs)
    return all(map(bytes.startswith, payloads, [SEQ_HEAD % seq for seq in seqs]))


def _in_order(numbers: Sequence[int]) -> Seqs:
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        raise BufferDamaged(f"the index lists numbers from {numbers[0]} to {numbers[-1]} out of order")
    return seqs_of(numbers)


def _singly(connection: sqlite3.Connection, inner: str, some: tuple[int, int, int], bytes_max: int) -> Payloads:
    """As many of a chunk as fit, and one in any case."""
    page: list[Stored] = []
    size = 0
    for seq, payload, _ in connection.execute(_SINGLY.format(inner), some):
        size += len(payload)
        if page and size > bytes_max:
            break
        if not (payload or b"").startswith(SEQ_HEAD % seq) and _number_in(payload or b"") != seq:
            raise BufferDamaged(f"row {seq}: what stands there is another prediction, or none")
        page.append(Stored(seq, payload))
    page.sort(key=lambda record: record.seq)
    _in_order([record.seq for record in page])
    return payloads_of(page)


class _Numbered(msgspec.Struct):
    seq: int


def _number_in(payload: bytes) -> int | None:
    """The number that a payload carries; None if it can't be read."""
    try:
        return msgspec.json.decode(payload, type=_Numbered).seq
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _changed(connection: sqlite3.Connection, inner: str, some: tuple[int, int, int]) -> list[Changed]:
    """Those of a chunk that differ from their checksum; one without (of an older version) goes unchecked."""
    rows = [(seq, payload or b"", told) for seq, payload, told in connection.execute(_SINGLY.format(inner), some)]
    return [
        Changed(seq, payload, told if isinstance(told, int) else 0)
        for seq, payload, told in rows
        if told is not None and google_crc32c.value(payload) != told
    ]
