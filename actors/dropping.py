"""When it is told that predictions are given up for want of room, and how many at once. Pure."""

from collections.abc import Mapping

import attrs

EVERY_S = 10.0
"""While a full buffer evicts, it does so some hundred times a minute: one line in so long sums them up."""


@attrs.define
class Dropping:
    """What was given up and not told yet, by its reason.

    **Synopsis:** `told = Dropping({"turned_away": 0}).look({"evicted": 120, "turned_away": 3}, at)` with the totals of
    this moment. Of a reason that it was not given a beginning of, the first look only learns how many there are.
    """

    _known: dict[str, int] = attrs.Factory(dict)
    _told_at: dict[str, float] = attrs.field(factory=dict, init=False)

    def look(self, totals: Mapping[str, int], at: float) -> dict[str, int]:
        """How many more of each reason, where that is to be told at monotonic `at`."""
        told = {}
        for reason, total in totals.items():
            more = total - self._known.setdefault(reason, total)
            if more > 0 and at - self._told_at.get(reason, at - EVERY_S) >= EVERY_S:
                told[reason], self._known[reason], self._told_at[reason] = more, total, at
        return told
