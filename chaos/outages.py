"""The outage matrix: how long the link is up and down, as the fields have it.

The rows are those that Azure IoT Edge's connectivity tests run (minutes online / offline, and two kinds of poor link).
"""

from collections.abc import Sequence

import attrs


@attrs.frozen
class Weather:
    """A row: minutes online and offline by turns, and what the link is like while it is up."""

    name: str
    online_min: float
    offline_min: float
    delay_s: float = 0.0
    """Each way."""
    bits_per_s: float = 0.0
    """0: as fast as it goes."""


MATRIX: Sequence[Weather] = (
    Weather("5 on / 5 off", 5, 5),
    Weather("10 on / 10 off", 10, 10),
    Weather("15 on / 15 off", 15, 15),
    Weather("30 on / 30 off", 30, 30),
    Weather("5 on / 20 off", 5, 20),
    Weather("satellite", 10, 5, delay_s=0.3, bits_per_s=2_000_000),
    Weather("cellular", 10, 5, delay_s=0.1, bits_per_s=3_000_000),
)
