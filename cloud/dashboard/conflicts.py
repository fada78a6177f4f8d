"""What a device's page shows of a conflict: the number, and the fields in which the two predictions differ."""

import attrs
import msgspec

from cloud.ledger import Conflict
from cloud.problems import excerpt

DIFFERENCES_MAX = 4
"""Fields that are listed of one conflict; the JSON has both predictions whole."""
VALUE_CHARS_MAX = 60
_ABSENT = "absent"


@attrs.frozen
class Difference:
    """A field, and what each of the two says there, as JSON cut to a line."""

    field: str
    stored: str
    received: str


@attrs.frozen
class Shown:
    """One conflict. `differences` are the first of `differences_total`; None where retention has dropped the first."""

    stream_id: str
    seq: int
    received_at: float
    differences: tuple[Difference, ...] | None
    differences_total: int


def shown_of(conflict: Conflict) -> Shown:
    """How a conflict is shown."""
    if conflict.stored is None:
        return Shown(conflict.stream_id, conflict.seq, conflict.received_at, None, 0)
    stored, received = _fields(conflict.stored), _fields(conflict.received)
    found = [
        Difference(excerpt(name, VALUE_CHARS_MAX), _value(stored, name), _value(received, name))
        for name in {**stored, **received}
        if name not in stored or name not in received or stored[name] != received[name]
    ]
    return Shown(conflict.stream_id, conflict.seq, conflict.received_at, tuple(found[:DIFFERENCES_MAX]), len(found))


def _fields(payload: str) -> dict[str, object]:
    """The fields of a prediction; of one that was stored under another contract and can't be read, none."""
    try:
        return msgspec.json.decode(payload, type=dict[str, object])
    except (msgspec.DecodeError, RecursionError):
        return {}


def _value(fields: dict[str, object], name: str) -> str:
    return excerpt(msgspec.json.encode(fields[name]).decode(), VALUE_CHARS_MAX) if name in fields else _ABSENT
