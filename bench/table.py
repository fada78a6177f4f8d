"""The table of a benchmark: each figure with what stands beside it, its target, and whether it was met."""

import gc
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import attrs

OUT = Path(__file__).parent / "out"


@attrs.frozen
class Line:
    """One figure: ours, what it is measured against, the ratio of the two, and the target."""

    figure: str
    ours: str
    beside: str = ""
    ratio: float | None = None
    target: str = ""
    met: bool | None = None


def interleaved(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Each contender in turn, `rounds` times over, so that a slow minute of the machine hits all of them alike."""
    seen: dict[str, list[float]] = {name: [] for name in contenders}
    # What the benchmark itself holds is no reason for the collector to look at it again and again.
    gc.collect()
    gc.freeze()
    for number in range(rounds):
        for name, run in contenders.items():
            gc.collect()
            seen[name].append(run())
            note(f"  round {number + 1} of {rounds}: {name}: {seen[name][-1]:,.4g}")
    return seen


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def ratio(ours: Sequence[float], other: Sequence[float]) -> float:
    """Ours over the other's, round by round, and of those the middle one."""
    return statistics.median(mine / its for mine, its in zip(ours, other, strict=True))


def percentile(values: Sequence[float], fraction: float) -> float:
    """The value below which that fraction lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))]


def note(text: str) -> None:
    """Say on stderr how far it is."""
    print(text, file=sys.stderr, flush=True)


def machine() -> str:
    """What it ran on, in words."""
    return f"{os.cpu_count()} CPUs ({platform.machine()}), {platform.system()}, Python {platform.python_version()}"


def show(name: str, lines: Sequence[Line]) -> None:
    """Print the table in Markdown, and write it to `bench/out/NAME.json`."""
    OUT.mkdir(exist_ok=True)
    when = datetime.now(UTC)
    document = {
        "benchmark": name,
        "date": when.isoformat(timespec="seconds"),
        "machine": machine(),
        "figures": [attrs.asdict(line) for line in lines],
    }
    (OUT / f"{name}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\n{name}, {when:%Y-%m-%d %H:%M} UTC, {machine()}\n")
    print("| figure | ours | beside it | ratio | target | met |")
    print("|---|---|---|---|---|---|")
    for line in lines:
        met = {True: "yes", False: "**no**", None: ""}[line.met]
        shown = "" if line.ratio is None else f"{line.ratio:.2f}"
        print(f"| {line.figure} | {line.ours} | {line.beside} | {shown} | {line.target} | {met} |")
