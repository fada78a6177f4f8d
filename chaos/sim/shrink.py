"""A smaller plan that still fails: fewer faults, fewer devices, less time."""

from collections.abc import Callable, Iterator

import attrs

from chaos.sim.books import Violation
from chaos.sim.plan import Plan
from chaos.sim.world import ENDS, run_plan

FAULTS_S_MIN = 2.0


def failure(plan: Plan) -> Exception | None:
    """What ends the plan's run before its end; None if nothing does."""
    try:
        run_plan(plan)
    except ENDS as error:
        return first_cause(error)
    return None


def fails(plan: Plan) -> str:
    """The same in a line; empty if nothing."""
    error = failure(plan)
    return "" if error is None else str(error) if isinstance(error, Violation) else f"{type(error).__name__}: {error}"


def first_cause(error: Exception) -> Exception:
    """Of a group, what came first."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


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
