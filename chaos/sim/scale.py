"""Sizes made small, so that a few records fill a segment, a stroke, the live lane, a write-ahead log, a buffer."""

import contextlib
from collections.abc import Iterator
from typing import Any

import attrs

from actors import buffer_writer, fitting, groups, handle, monitor, pipeline, recovery
from actors.ports import front, opening, salvage, store
from actors.ports.journal import Journal
from chaos.sim.plan import MIB, Plan

GROUP_BYTES_MAX = 32 * 1024
SETTING_MB = 500
"""BUFFER_MAX_SIZE_MB as the device is told. It is given the plan's cap, and one call an eighth of that."""


@contextlib.contextmanager
def scaled(plan: Plan) -> Iterator[None]:
    """The real code with the plan's sizes; what was there before is there again afterwards."""
    options_of = opening.store_options  # the one place where the cap becomes bytes
    defaults = Journal.__init__.__kwdefaults__
    assert defaults is not None
    assert "segment_bytes_max" in defaults

    def small_options(*given: Any, **named: Any) -> Any:
        return attrs.evolve(options_of(*given, **named), capacity_bytes=plan.capacity_bytes)

    changes: list[tuple[Any, str, Any]] = [
        (fitting, "store_options", small_options),
        (pipeline, "LIVE_MAX", 24),
        (pipeline, "BATCH_BYTES_MAX", 32 * 1024),
        (recovery, "BATCH_BYTES_MAX", 32 * 1024),
        (handle, "CALL_PART", handle.CALL_PART * SETTING_MB * MIB // plan.capacity_bytes),
        (groups, "GROUP_BYTES_MAX", GROUP_BYTES_MAX),
        (buffer_writer, "GROUP_BYTES_MAX", GROUP_BYTES_MAX),
        (buffer_writer, "TIDY_EVERY_S", plan.tidy_every_s),
        (monitor, "LOOK_EVERY_S", plan.tidy_every_s),
        (store, "STROKE_ROWS", 8),
        (store, "SHRINK_PAGES", 16),
        (salvage, "FILL_ROWS", 16),
        (store, "FLUSH_RECORDS", 64),
        (front, "HELD_MAX", 200),
        (store, "WAL_BYTES_MAX", 32 * 1024),
    ]
    with contextlib.ExitStack() as stack:
        for room, name, value in changes:
            stack.callback(setattr, room, name, getattr(room, name))
            setattr(room, name, value)
        stack.callback(defaults.__setitem__, "segment_bytes_max", defaults["segment_bytes_max"])
        defaults["segment_bytes_max"] = plan.segment_bytes
        yield
