"""Planting a defect, and the seeds that should show it."""

from collections.abc import Callable, Iterator

import attrs
import pytest

from actors.settings import WhenFull
from chaos.sim.plan import MIB, Fault, Plan

SEEDS_PER_BUG = 200
"""A bug that so many seeds don't find is one that the oracle does not see."""


@attrs.frozen
class Bug:
    """A defect, and the faults under which it shows early: seeds without them are passed over, which saves time and
    can only make the find a later seed."""

    plant: Callable[[pytest.MonkeyPatch], None]
    needs: frozenset[Fault]
    full: WhenFull | None
    devices_min: int

    def seeds(self) -> Iterator[int]:
        """Those of the first 200 seeds that may show it, each to be run as it is."""
        for seed in range(SEEDS_PER_BUG):
            plan = Plan.of(seed)
            fills = self.full is None or (plan.when_full is self.full and plan.capacity_bytes < MIB)
            few = plan.devices == 1 if self.devices_min == 1 else plan.devices >= self.devices_min
            if fills and few and self.needs <= plan.faults:
                yield seed


BUGS: dict[str, Bug] = {}


def bug(
    *needs: Fault, full: WhenFull | None = None, devices_min: int = 1
) -> Callable[[Callable[[pytest.MonkeyPatch], None]], None]:
    """Plant it in seeds with these faults and, if it needs a buffer that fills up, with this policy; in those of one
    device, which take the least time, unless it shows only among several."""

    def note(plant: Callable[[pytest.MonkeyPatch], None]) -> None:
        BUGS[plant.__name__] = Bug(plant, frozenset(needs), full, devices_min)

    return note
