"""Which log lines are told: the same one once in a while with a count, and never a flood of one kind. Pure."""

import attrs

EVERY_S = 10.0
"""A line that is the same as one told less than so long ago is counted instead."""
BURST_MAX = 10
"""Of one event, so many different lines are told in `EVERY_S`."""
KEYS_MAX = 512
"""So many different lines are remembered; beyond that the oldest is forgotten."""


@attrs.define
class _Seen:
    since: float
    told: int = 0
    held_back: int = 0


@attrs.define
class Repeats:
    """What was told lately.

    **Synopsis:** `told = repeats.see("post_not_stored", ("failed", "timeout"), now)`; None: don't tell; else tell, and
    add how many of its kind were held back since the last one.
    """

    every_s: float = EVERY_S
    burst_max: int = BURST_MAX
    _lines: dict[tuple[str, ...], _Seen] = attrs.field(factory=dict, init=False)
    _events: dict[tuple[str, ...], _Seen] = attrs.field(factory=dict, init=False)

    def see(self, event: str, words: tuple[str, ...], now: float) -> int | None:
        """A line of `event` that these words tell from others, at `now` in seconds: None, or the count held back."""
        line = _recall(self._lines, (event, *words), now, self.every_s)
        kind = _recall(self._events, (event,), now, self.every_s)
        if line.told or kind.told >= self.burst_max:
            (line if line.told else kind).held_back += 1
            return None
        held_back = line.held_back + kind.held_back
        line.told, line.held_back = 1, 0
        kind.told, kind.held_back = kind.told + 1, 0
        return held_back

    def leftover(self) -> dict[str, int]:
        """How many lines of each event were held back and not told of since; for the end of the process."""
        counts: dict[str, int] = {}
        for seen in (self._lines, self._events):
            for (event, *_), one in seen.items():
                if one.held_back:
                    counts[event] = counts.get(event, 0) + one.held_back
        return counts


def _recall(seen: dict[tuple[str, ...], _Seen], key: tuple[str, ...], now: float, every_s: float) -> _Seen:
    """What is remembered of `key`; once its time is over it may be told again, and keeps only its count."""
    one = seen.pop(key, None) or _Seen(now)
    if now - one.since >= every_s:
        one = _Seen(now, held_back=one.held_back)
    seen[key] = one  # at the end: the first one is the one that was not seen for longest
    if len(seen) > KEYS_MAX:
        del seen[next(iter(seen))]
    return one
