"""Whether the device is alive, and whether it is ready: each answer is a list of reasons why not. Pure."""

import attrs

from actors.messages import Books, Link, LinkState, Pulse, Vision

DISK_SILENCE_S = 30.0
"""The disk is asked every second; one that has not come back for so long hangs."""
LOOP_SILENCE_S = 15.0
"""The monitor looks every second; if it has not for so long, something holds up the loop."""
STUCK_S = 60.0
"""So long nothing may move while it could, on top of what one batch may take to close and to be answered."""

MODEL_MISSING = "the model is not loaded yet"


@attrs.frozen(kw_only=True)
class Bounds:
    """What readiness is measured by."""

    model_wanted: bool = True
    """Whether there are sources, so that a model must be loaded."""
    stuck_s: float = STUCK_S


def could_move(pending: int, link: Link) -> bool:
    """Whether predictions wait and somebody is there to take them. A suspicion is no absence: a cloud that answers each
    POST with 503 and each probe with 200 is suspected and found again every few seconds.
    """
    return bool(pending) and link.state in (LinkState.UP, LinkState.SUSPECT)


def stuck(pending: int, link: Link, *, moved_at: float, monotonic: float, bounds: Bounds) -> str:
    """Why it has to be said that nothing moves, or nothing; `moved_at` is when it last moved or could not."""
    still_s = monotonic - moved_at
    if not could_move(pending, link) or still_s <= bounds.stuck_s:
        return ""
    return f"the link is up and predictions wait ({pending}), but none was delivered for {still_s:.0f} s"


def silent(books: Books, *, monotonic: float) -> str:
    """Why the disk must be called hung, or nothing. One that answers with an error does answer."""
    silent_s = age_s(books.disk_answered_at, monotonic)
    return f"the disk has not answered for {silent_s:.0f} s" if silent_s > DISK_SILENCE_S else ""


def failing(books: Books, pulse: Pulse, *, monotonic: float) -> tuple[str, ...]:
    """Why this process should be restarted. A disk that answers with an error is no reason: memory holds a tail then,
    which a restart would lose.
    """
    still_s = age_s(pulse.looked_at, monotonic)
    stands = f"the loop has not turned for {still_s:.0f} s" if still_s > LOOP_SILENCE_S else ""
    return tuple(filter(None, (stands, silent(books, monotonic=monotonic))))


def unready(books: Books, link: Link, vision: Vision, pulse: Pulse, *, bounds: Bounds) -> tuple[str, ...]:
    """Why this device does not do its work. A link that is down is no reason: that is what the buffer is for."""
    found = []
    if bounds.model_wanted and not vision.model_version:
        found.append(MODEL_MISSING)
    if not books.stream_id:
        found.append("the buffer is not open")
    if books.trouble:
        found.append(f"the disk refuses: {books.trouble}")
    if link.state is LinkState.REFUSED:
        found.append(f"the cloud does not take our predictions: {link.reason}")
    if pulse.stuck:
        found.append(pulse.stuck)
    return tuple(found)


def age_s(at: float | None, monotonic: float) -> float:
    """How long ago; 0 for what has not happened yet."""
    return 0.0 if at is None else max(0.0, monotonic - at)
