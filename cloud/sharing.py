"""Two devices under one id by mistake: seen by the lives of the processes that speak for it."""

from collections import OrderedDict

import attrs
import structlog

DEVICES_MAX = 100_000
RETURNS_MIN = 3
"""A request that was delayed or doubled on its way may bring an old life back once; two devices keep taking turns."""
APART_S = 900.0
"""So long after the last turn there is but one: the other has stopped, or has a name of its own."""

log = structlog.get_logger()


@attrs.define
class _Lives:
    current: str
    before: str = ""
    returns: int = 0
    turned_at: float = 0.0
    """When the one took the other's turn last, on the monotonic clock."""


@attrs.define
class Sharing:
    """Which life spoke last for each device, and which before it. Kept in memory: it is an alarm, not a record."""

    _lives: OrderedDict[str, _Lives] = attrs.field(factory=OrderedDict, init=False)

    def note(self, device_id: str, session_id: str | None, at: float) -> bool:
        """Take a request in; whether another process speaks for this device at the same time.

        A device that restarts never comes back to an earlier life; one that has a double does so again and again.
        """
        if session_id is None:
            return False
        seen = self._lives.get(device_id)
        if seen is None:
            if len(self._lives) >= DEVICES_MAX:
                self._lives.popitem(last=False)
            self._lives[device_id] = _Lives(session_id)
            return False
        if session_id == seen.before:
            seen.before, seen.current = seen.current, session_id
            seen.returns += 1
            seen.turned_at = at
            if seen.returns == RETURNS_MIN:
                log.error("device_id_shared", edge_device_id=device_id, sessions=(seen.before, seen.current))
        elif session_id != seen.current:
            seen.before, seen.current, seen.returns = seen.current, session_id, 0
        elif at - seen.turned_at > APART_S:
            seen.returns = 0
        return seen.returns >= RETURNS_MIN
