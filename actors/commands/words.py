"""How figures are said to a person: durations, sizes, counts, moments, a bar. Pure."""

import time
from collections.abc import Sequence

MINUTE_S, HOUR_S, DAY_S = 60, 3_600, 86_400


def duration(seconds: float) -> str:
    """`0.4 s`, `45 s`, `3 min 5 s`, `2 h 10 min`, `4 d 3 h`."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    for unit_s, unit, part_s, part in (
        (DAY_S, "d", HOUR_S, "h"),
        (HOUR_S, "h", MINUTE_S, "min"),
        (MINUTE_S, "min", 1, "s"),
    ):
        if whole >= unit_s:
            rest = whole % unit_s // part_s
            return f"{whole // unit_s:,} {unit}" + (f" {rest} {part}" if rest else "")
    return f"{whole} s"


def size(count_bytes: float) -> str:
    """`512 B`, `12.4 KiB`, `1.2 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count_bytes < 1024 or unit == "GiB":
            break
        count_bytes /= 1024
    return f"{count_bytes:.0f} {unit}" if unit == "B" else f"{count_bytes:,.1f} {unit}"


def count(number: int, noun: str = "") -> str:
    """`1,234`, or with a noun `1 prediction`, `1,234 predictions`."""
    if not noun:
        return f"{number:,}"
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def moment(seconds: float | None) -> str:
    """A time since 1970 as this machine's clock would say it; `-` for none."""
    return "-" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def bar(part: float, width: int) -> str:
    """A bar `width` characters long of which `part` (0 to 1) is full."""
    full = round(min(max(part, 0.0), 1.0) * width)
    return "█" * full + "░" * (width - full)


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as lines, each column as wide as its widest cell; the last one runs free."""
    if not rows:
        return []
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]) - 1)]
    return [
        "  ".join([*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    ]
