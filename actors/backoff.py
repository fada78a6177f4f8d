"""How long to wait before the next try: exponential, bounded, with full jitter. Pure."""

import math
import random


def backoff_s(attempt: int, *, multiplier: float, rng: random.Random, max_s: float) -> float:
    """Seconds to wait before try `attempt` + 1, for `attempt` = 0, 1, 2, …

    The ceiling is `multiplier` ** `attempt`, at most `max_s`; the wait is drawn evenly between nothing and the
    ceiling, because a fleet that failed together must not come back together.
    """
    return rng.uniform(0.0, ceiling_s(attempt, multiplier=multiplier, max_s=max_s))


def ceiling_s(attempt: int, *, multiplier: float, max_s: float) -> float:
    """The longest wait that `backoff_s` can draw. Never overflows, however long the outage lasts."""
    if multiplier <= 1.0:
        return min(1.0, max_s)
    # Compared as logarithms: 2.0 ** 1024 is no float.
    if attempt * math.log(multiplier) >= math.log(max_s):
        return max_s
    return float(min(multiplier**attempt, max_s))
