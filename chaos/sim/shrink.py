"""A smaller plan that still fails: fewer faults, fewer devices, less time."""

from collections.abc import Callable, Iterator

import attrs

from chaos.sim.books import Violation
from chaos.sim.plan import Plan
from chaos.sim.world import run_plan

FAULTS_S_MIN = 2.0


def fails(plan: Plan) -> str:
    """What the plan violates; empty if nothing."""
    try:
        run_plan(plan)
    except BaseExceptionGroup as group:
        return _first(group)
    except Violation as violation:
        return str(violation)
    return ""


def _first(error: BaseException) -> str:
    """The first cause in a group, in one line; an interrupt goes on."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, KeyboardInterrupt):
        raise error
    return f"{error}" if isinstance(error, Violation) else f"{type(error).__name__}: {error}"


def smaller(plan: Plan) -> Iterator[Plan]:
    """Plans that are one step smaller, the largest steps first."""
    if plan.devices > 1:
        yield attrs.evolve(plan, devices=1)
        yield attrs.evolve(plan, devices=plan.devices - 1)
    if plan.replicas > 1:
        yield attrs.evolve(plan, replicas=1)
    faults = sorted(plan.faults, key=lambda fault: fault.value)
    half = len(faults) // 2
    if half > 1:
        yield attrs.evolve(plan, faults=frozenset(faults[:half]))
        yield attrs.evolve(plan, faults=frozenset(faults[half:]))
    for fault in faults:
        yield attrs.evolve(plan, faults=plan.faults - {fault})
    for share in (0.5, 0.8):
        if plan.faults_s * share >= FAULTS_S_MIN:
            yield attrs.evolve(plan, faults_s=round(plan.faults_s * share, 1))


def shrink(plan: Plan, tell: Callable[[str], object], *, why: Callable[[Plan], str] = fails) -> Plan:
    """The smallest plan that was found by taking away one thing after the other as long as it still fails.

    Any violation counts: a smaller plan may break another guarantee first, and that is worth as much.
    """
    found = True
    while found:
        found = False
        for candidate in smaller(plan):
            if reason := why(candidate):
                tell(f"still fails with {candidate.command()}: {reason[:120]}")
                plan, found = candidate, True
                break
    return plan
