"""What is wrong now: a name for each alert, and the sentence that an operator reads of it. Pure."""

from collections.abc import Callable, Mapping

import attrs

from actors.messages import Books, Link, LinkState, Pulse, Traffic, Vision

PENDING_ALERT = 1_000
CAPACITY_ALERT_PERCENT = 90.0
FAILED_ALERT = 100
OLDEST_ALERT_S = 3_600.0
"""An hour: longer than a restart of anything on the way, shorter than a shift."""


@attrs.frozen
class Scene:
    """What alerts are judged by; `now` is wall-clock seconds."""

    books: Books
    link: Link
    vision: Vision
    pulse: Pulse
    now: float
    traffic: Traffic = Traffic()  # noqa: RUF009 - frozen


@attrs.frozen
class Alert:
    """What it means in general, and what is wrong in a scene: a sentence, or nothing."""

    meaning: str
    judge: Callable[[Scene], str]


def oldest_pending_age_s(books: Books, now: float) -> float | None:
    """How long the oldest pending prediction has waited; None when none does (its time is told a second late)."""
    if not books.pending or books.oldest_pending_at is None:
        return None
    return max(0.0, now - books.oldest_pending_at)


def capacity_percent(books: Books) -> float:
    """How full the buffer is; 0 before the first account."""
    return 100.0 * books.size_bytes / books.capacity_bytes if books.capacity_bytes else 0.0


def _pending_high(scene: Scene) -> str:
    pending = scene.books.pending
    return f"{pending} predictions wait to be delivered" if pending > PENDING_ALERT else ""


def _oldest_pending_old(scene: Scene) -> str:
    age_s = oldest_pending_age_s(scene.books, scene.now) or 0.0
    return f"the oldest undelivered prediction has waited for {age_s / 3_600:.1f} h" if age_s > OLDEST_ALERT_S else ""


def _buffer_nearly_full(scene: Scene) -> str:
    percent = capacity_percent(scene.books)
    return f"the buffer is {percent:.0f} % full" if percent > CAPACITY_ALERT_PERCENT else ""


def _failed_high(scene: Scene) -> str:
    failed = scene.books.failed
    return f"{failed} predictions were refused by the cloud" if failed > FAILED_ALERT else ""


def _not_durable(scene: Scene) -> str:
    kept = scene.books.in_memory
    return f"{kept} predictions are kept in memory only: the disk takes nothing" if kept else ""


def _journal_unwritable(scene: Scene) -> str:
    degraded, trouble = scene.books.degraded, scene.books.trouble
    return f"{degraded}; SQLite takes the commits meanwhile" if degraded and not trouble else degraded


def _link_refused(scene: Scene) -> str:
    return scene.link.reason or "refused" if scene.link.state is LinkState.REFUSED else ""


def _numbers_taken(scene: Scene) -> str:
    count = scene.books.renumbered
    said = "the cloud knew the numbers of {} predictions with other payloads; they go out again under new ones"
    return f"{said.format(count)}. Was this buffer copied, or restored from a backup?" if count else ""


def _device_id_shared(scene: Scene) -> str:
    return "another process sends under this EDGE_DEVICE_ID at the same time" if scene.traffic.shared else ""


ALERTS: Mapping[str, Alert] = {
    "pending_high": Alert(f"more than {PENDING_ALERT} predictions wait to be delivered", _pending_high),
    "oldest_pending_old": Alert("the oldest of them has waited for more than an hour", _oldest_pending_old),
    "buffer_nearly_full": Alert(f"the buffer is more than {CAPACITY_ALERT_PERCENT:g} % full", _buffer_nearly_full),
    "failed_high": Alert(f"more than {FAILED_ALERT} predictions are in quarantine", _failed_high),
    "disk_trouble": Alert("the disk refuses: accepts wait, or memory takes them", lambda scene: scene.books.trouble),
    "disk_silent": Alert("the disk hangs: it answers nothing, not even an error", lambda scene: scene.pulse.silent),
    "not_durable": Alert("predictions are kept in memory only", _not_durable),
    "journal_unwritable": Alert("the journal can't be written; SQLite takes the commits", _journal_unwritable),
    "link_refused": Alert("somebody answers, but will not take our predictions", _link_refused),
    "numbers_taken": Alert("the buffer has, or had, a double: numbers were used twice", _numbers_taken),
    "device_id_shared": Alert("two devices have one EDGE_DEVICE_ID", _device_id_shared),
    "nothing_moves": Alert("the link is up, predictions wait, and none is delivered", lambda scene: scene.pulse.stuck),
    "clock_wrong": Alert(
        "the wall clock says a year long past, or jumped back", lambda scene: scene.pulse.clock_trouble
    ),
    "camera_down": Alert("a camera gives no frames", lambda scene: ", ".join(scene.vision.cameras_down)),
    "model_not_exchanged": Alert(
        "another model was asked for and could not be loaded", lambda scene: scene.vision.model_trouble
    ),
}
"""Every alert there is, by its name."""


def holding(scene: Scene) -> dict[str, str]:
    """The alerts that hold, each with its sentence."""
    judged = {name: alert.judge(scene) for name, alert in ALERTS.items()}
    return {name: sentence for name, sentence in judged.items() if sentence}
