"""Whether a device is live: the one rule for the page, the list of devices and the metrics."""

from typing import Literal, get_args

from cloud.ledger import Device

Presence = Literal["live", "late", "silent"]
PRESENCES: tuple[Presence, ...] = get_args(Presence)
SILENT_AFTER_S = 300.0
"""A device sends at least every few seconds while it sees frames; five minutes without are worth a look."""


def presence_of(device: Device, now: float) -> Presence:
    """Silent: nothing came for long. Late: the last batch was out of the backlog. Live: the rest."""
    if now - device.last_seen_at > SILENT_AFTER_S:
        return "silent"
    return "late" if device.last_was_late else "live"
