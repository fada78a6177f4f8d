"""Numbers and times as people read them."""

from datetime import UTC, datetime

MOMENT_MIN_S, MOMENT_MAX_S = 0.0, 253_402_300_799.0
"""1970 to 9999: a capture time outside of it, which a device may send, has no date."""
_UNITS: tuple[tuple[float, str], ...] = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"))


def duration(seconds: float) -> str:
    """`0.3 s`, `45 s`, `1.5 h`: two digits and the unit that fits."""
    if seconds < 0.0005:
        return "0 s"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms" if seconds < 0.0995 else f"{seconds:.1f} s"
    # 59.6 s are a minute, not "60 s".
    unit_s, name = next(unit for unit in _UNITS if seconds >= unit[0] * 0.991 or unit[0] == 1)
    value = seconds / unit_s
    return f"{value:.1f}".removesuffix(".0") + f" {name}" if value < 9.95 else f"{value:.0f} {name}"


def ago(seconds: float) -> str:
    """How long something lies back; clocks that differ a little make no future."""
    return "now" if seconds < 1 else f"{duration(seconds)} ago"


def count(number: float) -> str:
    """`12,345`."""
    return f"{number:,.0f}"


def share(fraction: float) -> str:
    """`0 %`, `0.4 %`, `12 %`; what is not nothing never reads as 0 %."""
    percent = fraction * 100
    if percent and percent < 0.05:
        return "< 0.1 %"
    return f"{percent:.1f}".removesuffix(".0") + " %" if percent < 9.95 else f"{percent:.0f} %"


def moment(timestamp: float) -> str:
    """`2026-01-28 10:44:05 UTC`, or the number itself where no calendar has it."""
    if not MOMENT_MIN_S <= timestamp <= MOMENT_MAX_S:
        return f"{timestamp:g} s since 1970"
    return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d %H:%M:%S} UTC"


def machine_moment(timestamp: float) -> str:
    """The same for `<time datetime>`; empty where no calendar has it."""
    if not MOMENT_MIN_S <= timestamp <= MOMENT_MAX_S:
        return ""
    return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%dT%H:%M:%SZ}"


def rate(per_minute: float) -> str:
    """`0.2`, `12`, `1,234`; what is not nothing never reads as 0."""
    if per_minute and per_minute < 0.05:
        return "< 0.1"
    return f"{per_minute:.1f}".removesuffix(".0") if per_minute < 9.95 else count(per_minute)
