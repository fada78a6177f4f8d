"""`status`: one report of this moment, from the running device, or from its buffer's file when none runs."""

from typing import Any

import click

from actors.commands.options import json_option, say, tells, with_settings
from actors.commands.words import columns, count, duration, moment, size
from actors.ports.door import NoDoor, ask_port, door
from actors.ports.opening import NoBooks
from actors.ports.reading import open_reading
from actors.settings import Settings

Found = dict[str, Any]


@click.command()
@json_option
@with_settings("buffer_db_path", "status_bind")
@tells(NoBooks)
def status(settings: Settings, *, as_json: bool) -> None:
    """Show how the device is at this moment.

    Asks the running device; without one, reads its buffer's file. Exit code 1 while an alert holds.
    """
    found = ask(settings) or from_buffer(settings)
    say(as_json, found, lines_of(found))
    if found.get("alerts"):
        raise SystemExit(1)


def ask(settings: Settings) -> Found | None:
    """What the running device says: through the control door of its buffer, else on its STATUS_BIND."""
    try:
        with door(settings.buffer_db_path) as device:
            return {"source": "device", **device.status()}
    except NoDoor:
        return _on_port(settings)


def _on_port(settings: Settings) -> Found | None:
    url = status_url(settings.status_bind)
    found = None if url is None else ask_port(url)
    if not isinstance(found, dict) or "stream_id" not in found:
        return None
    if not found["stream_id"]:  # its disk lets it open no buffer, so only its name tells whose it is
        return {"source": url, **found} if found["edge_device_id"] == settings.edge_device_id else None
    try:
        with open_reading(settings.buffer_db_path) as reading:
            if reading.names[-1].stream_id != found["stream_id"]:
                return None  # another device on this machine
    except NoBooks:
        pass  # nothing that this user may read: then the port is all there is
    return {"source": url, **found}


def status_url(bind: str) -> str | None:
    """Where to ask a device that listens on `bind`; None if it took any free port."""
    host, _, port = bind.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "::": "[::1]"}.get(host, host)  # noqa: S104 - asked, not bound
    return None if port == "0" else f"http://{host}:{port}/status"


def from_buffer(settings: Settings) -> Found:
    """What the file tells when no device runs. `NoBooks`."""
    with open_reading(settings.buffer_db_path) as reading:
        stats = reading.stats()
    capacity_mb = settings.buffer_max_size_mb
    used_mb = sum(stats[f"{part}_bytes"] for part in ("database", "wal", "journal", "quarantine")) / 2**20
    return {
        "source": "buffer",
        "edge_device_id": stats["edge_device_id"],
        "stream_id": stats["stream_id"],
        "last_seq": stats["last_seq"],
        "pending": stats["pending"],
        "sent": stats["total_sent"],
        "failed": stats["failed"],
        "evicted": stats["total_evicted"],
        "damaged": stats["given_up"].get("bad_sector", 0),
        "oldest_pending_at": stats["oldest_pending_at"],
        "size_mb": used_mb,
        "capacity_mb": capacity_mb,
        "capacity_percent": 100 * used_mb / capacity_mb,
    }


def lines_of(found: Found) -> list[str]:
    """The report as a person reads it."""
    if found["source"] == "buffer":
        head = f"{found['edge_device_id']}: no device answers; this is what the file of its buffer says"
        return [head, *columns(_buffer_rows(found))]
    link = found["link"]
    ready = "ready" if found["ready"] else f"not ready: {'; '.join(found['unready'])}"
    reason = f" ({link['reason']})" if link["reason"] and not found["is_connected"] else ""
    rows: list[tuple[str, ...]] = [("  link", f"{link['state']} for {duration(link['for_s'])}{reason}")]
    rows += _buffer_rows(found)
    if found["recovery_active"]:
        rows.append(("  drain", drain_of(found)))
    rows.append(("  vision", _vision(found)))
    if found["cameras_down"]:
        rows.append(("  cameras down", ", ".join(found["cameras_down"])))
    if found["last_error"]:
        rows.append(("  last error", last_error_of(found)))
    alerts = found["alert_details"].items()
    rows += [
        ("" if place else "  ALERTS", f"{name} for {duration(alert['for_s'])}: {alert['detail']}")
        for place, (name, alert) in enumerate(alerts)
    ] or [("  alerts", "none")]
    return [f"{found['edge_device_id']}: running, {ready}", *columns(rows)]


def drain_of(found: Found) -> str:
    """How the drain of the backlog goes."""
    eta_s = found["recovery_eta_s"]
    left = "" if eta_s is None else f", {duration(eta_s)} left"
    return f"{count(found['recovery_sent'])} sent at {found['recovery_per_s']:,.0f}/s{left}"


def last_error_of(found: Found) -> str:
    """What a POST met last that was not stored, and how long ago: the link may be up again since."""
    return f"{duration(found['last_error_age_s'])} ago: {found['last_error']}" if found["last_error"] else "none"


def no_model(found: Found) -> str:
    """What is said in the place of the model's name while there is none."""
    # By the words of `readiness.MODEL_MISSING`: to import that room would bring Trio along.
    return "loading" if any(reason.startswith("the model is not loaded") for reason in found["unready"]) else "none"


def _vision(found: Found) -> str:
    model = f"{found['model']} {found['model_version']}" if found["model_version"] else f"model {no_model(found)}"
    parts = [f"{count(found['frames'], 'frame')}, {found['frames_per_s']:.1f}/s, {found['inference_ms']:.1f} ms each"]
    for name, word in (("unreadable", "unreadable"), ("skipped", "skipped for a fresher one")):
        if found[name]:
            parts.append(f"{count(found[name])} {word}")
    return "; ".join([*parts, model])


def _buffer_rows(found: Found) -> list[tuple[str, ...]]:
    waiting = count(found["pending"], "prediction")
    if found.get("oldest_pending_age_s") is not None:
        waiting += f", the oldest for {duration(found['oldest_pending_age_s'])}"
    elif found.get("oldest_pending_at") is not None:
        waiting += f", the oldest since {moment(found['oldest_pending_at'])}"
    if found.get("in_memory"):
        waiting += f"; {count(found['in_memory'])} of them in memory only"
    used, cap = (size(found[name] * 2**20) for name in ("size_mb", "capacity_mb"))
    disk = f"{used} of {cap} ({found['capacity_percent']:.0f} %)"
    if found.get("full_in_s") is not None:
        disk += f", full in {duration(found['full_in_s'])} at this pace"
    return [
        ("  accepted", count(found["last_seq"], "prediction")),
        ("  waiting", waiting),
        ("  sent", count(found["sent"])),
        ("  quarantined", count(found["failed"])),
        ("  evicted", count(found["evicted"])),
        *([("  damaged", count(found["damaged"]))] if found["damaged"] else []),
        ("  disk", disk),
    ]
