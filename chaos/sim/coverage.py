"""What a run has met: faults, outcomes, states of the link, full buffers, degraded modes. What is never met is no test.

The device's own log lines are one witness (they tell of states and transitions), the drives and links the other.
"""

from collections import Counter
from contextvars import ContextVar
from typing import Any

import attrs
import structlog
import trio

from actors.messages import LinkState
from actors.settings import WhenFull
from actors.verdict import Sense
from chaos.sim.plan import Fault

speaker: ContextVar[str] = ContextVar("speaker", default="world")
"""Who is running: a device, a replica of the cloud, or the world itself."""

TRANSITIONS = frozenset(
    f"link {before} -> {after}"
    for before, after in (
        *(("unknown", "up"), ("unknown", "down"), ("unknown", "suspect"), ("unknown", "refused")),
        *(("up", "suspect"), ("up", "refused"), ("suspect", "up"), ("suspect", "down"), ("suspect", "refused")),
        *(("down", "up"), ("down", "refused"), ("refused", "unknown"), ("refused", "up"), ("refused", "down")),
    )
)
"""Every change of the link's state that `connectivity.advance` knows."""
DEGRADED = frozenset(
    {
        "mode: SQLite takes the commits",
        "mode: memory takes the predictions",
        "mode: memory saved to the disk",
        "mode: database set aside",
    }
)
MUST = (
    frozenset(f"fault: {fault.value}" for fault in Fault)
    | frozenset(f"outcome: {sense.value}" for sense in Sense)
    | frozenset({"outcome: rejected record", "outcome: quarantined", "outcome: duplicate", "outcome: loss explained"})
    | frozenset(f"full: {policy.value}" for policy in WhenFull)
    | frozenset(
        {"buffer full", "call too large", "evicted", "segment lost a record", "replay", "upgrade of the cloud cut off"}
    )
    | TRANSITIONS
    | DEGRADED
)
"""What the suite's seeds must have met together."""


@attrs.define(eq=False)
class Coverage:
    """Counts what was met, and hands the log lines of actors to whoever tells the story."""

    met: Counter[str] = attrs.Factory(Counter)
    lost_from_memory: Counter[str] = attrs.Factory(Counter)
    """By device: what it said at a stop that only memory had held."""

    def __call__(self, what: str) -> None:
        """It was met once more."""
        self.met[what] += 1

    def hear(self, event: dict[str, Any]) -> None:
        """A log line of the device or the cloud."""
        match event.get("event"):
            case "link_changed":
                self(f"link {LinkState(event['before']).value} -> {LinkState(event['state']).value}")
            case "post_not_stored":
                self(f"outcome: {Sense(event['sense']).value}")
            case "quarantined":
                self("outcome: quarantined")
            case "lost_from_memory":
                self("mode: memory given up at a stop")
                self.lost_from_memory[speaker.get()] += event["predictions"]
            case "memory_saved":
                self("mode: memory saved to the disk")
            case "buffer_damaged":
                self("mode: database set aside")
            case "disk_trouble" if "buffer full" in str(event.get("error")):
                self("buffer full")


def listen(coverage: Coverage, tell: Any) -> None:
    """From now on, what the actors log goes to `coverage` and into the story."""

    def hear(_: object, __: str, event: Any) -> str:
        coverage.hear(event)
        if event.get("event") == "request":
            raise structlog.DropEvent  # the cloud's access log, with real seconds in it
        words = " ".join(f"{key}={value}" for key, value in event.items() if key not in ("event", "exc_info"))
        tell(f"{speaker.get()}: {event.get('event')} {words}".rstrip())
        raise structlog.DropEvent

    structlog.configure(processors=[hear], cache_logger_on_first_use=False)


def now_s() -> float:
    """Virtual seconds since the beginning; 0 outside of a run."""
    try:
        return trio.current_time()
    except RuntimeError:
        return 0.0
