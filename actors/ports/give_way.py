"""Offer the processor, in a long piece of work beside accepts, to a thread of ours that has woken up on it."""

import os
import time
from collections.abc import Callable

import attrs

TAKEN_S = 0.001
"""A thread of ours waits again within less: whoever keeps the processor longer is somebody else on this machine,"""
PAUSE_S = 0.1
"""and would take a whole slice each time. So nothing is offered for so long then."""


@attrs.define
class GiveWay:
    """Called about every 100 us by whoever works on.

    The scheduler puts a thread that wakes up where it ran before. If somebody computes there, it stays in the queue
    behind him until a tick comes (4 ms), though the processor next to it may be idle.
    """

    offer: Callable[[], object] = os.sched_yield
    now: Callable[[], float] = time.perf_counter
    _again_at: float = attrs.field(default=0.0, init=False)

    def __call__(self) -> None:
        """Offer it, unless somebody kept it a moment ago."""
        began = self.now()
        if began < self._again_at:
            return
        self.offer()
        ended = self.now()
        if ended - began > TAKEN_S:
            self._again_at = ended + PAUSE_S
