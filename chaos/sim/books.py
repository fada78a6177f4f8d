"""The workload's own books: every prediction made, every receipt given, every fault that may excuse a loss.

Nothing in here is read from the device or the cloud, except what the callers of `log()` were told.
"""

from collections import Counter
from typing import Any

import attrs
import msgspec

from actors.messages import Receipt
from cloud.wire import Prediction

Number = tuple[str, int]
"""(stream, seq)."""


class Violation(AssertionError):
    """The system broke a guarantee."""


class Crash(Violation):
    """The process ended with an error that nobody expected."""


@attrs.define
class Made:
    """A prediction, and what its caller heard of it."""

    image_id: str
    content: dict[str, Any]
    life: int
    refused: bool = False
    """The cloud is to refuse this record."""
    poison: bool = False
    """The cloud is to refuse any body that holds this record."""
    answered: bool = False
    number: Number | None = None
    in_memory: bool = False
    """Accepted without a number: memory keeps it until the disk or the cloud takes it."""
    turned_away: bool = False


@attrs.define(eq=False)
class Books:
    """One device's."""

    device: str
    made: dict[str, Made] = attrs.Factory(dict)
    given: dict[Number, Made] = attrs.Factory(dict)
    """Every durable receipt."""
    damaged: set[Number] = attrs.Factory(set)
    """Numbers in whose journal lines a bit was flipped."""
    torn: set[Number] = attrs.Factory(set)
    """Numbers whose journal lines were not synced when the power went: lost, if nobody has a receipt for them."""
    doubted: set[Number] = attrs.Factory(set)
    """Numbers whose rows a flipped bit changed, or may have: their marks have no checksum, so they may be missing."""
    unchecked: set[Number] = attrs.Factory(set)
    """Of those, the ones whose payloads the last release wrote without a checksum: they may be delivered changed."""
    database_hit: bool = False
    failed: dict[Number, str] = attrs.Factory(dict)
    """What lies in quarantine when the device has converged, read from its disk, with the errors there."""
    end: Number | None = None
    """The stream of the device that has converged, and the last number in it, by its own account."""
    stopped: dict[int, int] = attrs.Factory(dict)
    """By life that stopped in order: of what only memory held, so much was told to be given up."""
    streams: list[str] = attrs.Factory(list)
    counts: Counter[str] = attrs.Factory(Counter)

    def make(self, prediction: Prediction, life: int, *, refused: bool, poison: bool) -> None:
        """A caller is about to log this."""
        content = msgspec.json.decode(msgspec.json.encode(prediction))
        self.made[prediction.image_id] = Made(prediction.image_id, content, life, refused, poison)

    def receive(self, image_id: str, receipt: Receipt) -> None:
        """A caller was told this. `Violation` where it can't be true."""
        made = self.made[image_id]
        if made.answered:
            raise Violation(f"G1: {image_id} was answered twice")
        made.answered = True
        if receipt.durable:
            if receipt.seq is None or not receipt.accepted:
                raise Violation(f"G1: a durable receipt without a number: {receipt}")
            made.number = (receipt.stream_id, receipt.seq)
            if made.number in self.given:
                raise Violation(f"G1: number {made.number} was given to {self.given[made.number].image_id} before")
            self.given[made.number] = made
            if receipt.stream_id not in self.streams:
                self.streams.append(receipt.stream_id)
            self.counts["durable"] += 1
        elif receipt.accepted:
            made.in_memory = True
            self.counts["in memory"] += 1
        else:
            made.turned_away = True
            self.counts["turned away"] += 1
