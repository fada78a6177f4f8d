"""Plots of a series, drawn by Pygal on the server: SVG that needs no script, coloured by the page's own stylesheet."""

import math
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache

import attrs
import pygal
from markupsafe import Markup

from cloud.dashboard.words import count, duration
from cloud.ledger import Bucket

# Pygal puts a finder of a bygone kind in front of every later import, for plugins that are not used here.
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != pygal.__name__]

WIDTH, HEIGHT = 420, 170
"""In CSS pixels where a plot fills a phone; it scales from there."""
TICKS_MAX = 4
LABELS_MAX = 8
_LABELS_S = (900, 3_600, 21_600, 86_400, 432_000)
"""Times that are written below a plot are whole multiples of one of these."""
_SECONDS = (0.01, 0.05, 0.2, 1, 2, 5, 15, 30, 60, 120, 300, 900, 1_800, 3_600, 7_200, 21_600, 43_200, 86_400)


@attrs.frozen
class Line:
    """One line of a plot; None leaves a gap in it."""

    name: str
    values: tuple[float | None, ...]


@attrs.frozen
class Chart:
    """A plot. `caption` says in words what it shows; `svg` is None where there is nothing to draw."""

    name: str
    title: str
    caption: str
    lines: tuple[str, ...]
    svg: Markup | None


@lru_cache(maxsize=32)
def charts_of(buckets: tuple[Bucket, ...], bucket_s: int) -> tuple[Chart, ...]:
    """Predictions, defects and lateness over time. Drawing takes some 20 ms each: viewers of the same share it."""
    total = sum(bucket.predictions for bucket in buckets)
    late = sum(bucket.late for bucket in buckets)
    defects = sum(bucket.defects for bucket in buckets)
    worst = max((bucket.lateness_max_s for bucket in buckets if bucket.lateness_max_s is not None), default=None)
    every = f"per {duration(bucket_s)}"
    starts = tuple(bucket.start for bucket in buckets)
    return (
        Chart(
            "predictions",
            f"Predictions {every}",
            f"{count(total)} in all, {count(late)} of them late",
            ("all", "late"),
            _draw(
                (
                    Line("predictions", tuple(bucket.predictions for bucket in buckets)),
                    Line("late", tuple(bucket.late for bucket in buckets)),
                ),
                starts, bucket_s, _count_ticks, count, filled=True,
            ) if total else None,
        ),
        Chart(
            "defects",
            f"Defects {every}",
            f"{count(defects)} predictions with a defect",
            ("with a defect",),
            _draw(
                (Line("with a defect", tuple(bucket.defects for bucket in buckets)),),
                starts, bucket_s, _count_ticks, count, filled=True,
            ) if total else None,
        ),
        Chart(
            "lateness",
            "From capture to arrival",
            "nothing arrived" if worst is None else f"at most {duration(worst)}",
            ("mean", "longest"),
            None if worst is None else _draw(
                (
                    Line("mean", tuple(bucket.lateness_mean_s for bucket in buckets)),
                    Line("longest", tuple(bucket.lateness_max_s for bucket in buckets)),
                ),
                starts, bucket_s, _second_ticks, duration, filled=False,
            ),
        ),
    )  # fmt: skip


def _count_ticks(high: float) -> list[float]:
    """0, then steps of 1, 2 or 5 times a power of ten, up to at least `high`."""
    steps = (factor * 10**power for power in range(19) for factor in (1, 2, 5))
    return _ticks(high, next(step for step in steps if high <= step * TICKS_MAX))


def _second_ticks(high: float) -> list[float]:
    """The same in steps that clocks know, then in whole days."""
    for step in _SECONDS:
        if high <= step * TICKS_MAX:
            return _ticks(high, step)
    return [days * 86_400 for days in _count_ticks(high / 86_400)]


def _ticks(high: float, step: float) -> list[float]:
    return [number * step for number in range(max(math.ceil(high / step), 1) + 1)]


def _labelled(starts: Sequence[float]) -> list[float]:
    """The round times among `starts`: at most `LABELS_MAX`, as many as that allows."""
    for label_s in _LABELS_S:
        found = [start for start in starts if start % label_s == 0]
        if len(found) <= LABELS_MAX:
            return found
    return found[:LABELS_MAX]


def _draw(
    lines: Sequence[Line],
    starts: Sequence[float],
    bucket_s: int,
    ticks: Callable[[float], list[float]],
    written: Callable[[float], str],
    *,
    filled: bool,
) -> Markup:
    high = max((value for line in lines for value in line.values if value is not None), default=0.0)
    marks = ticks(high)
    labels = [f"{datetime.fromtimestamp(start, UTC):%d %b %H:%M}" for start in starts]
    shown = [labels[starts.index(start)] for start in _labelled(starts)]
    chart = pygal.Line(
        width=WIDTH, height=HEIGHT, margin=4, css=(), js=(), no_prefix=True, show_legend=False, dots_size=4,
        fill=filled, allow_interruptions=True, x_labels=labels, x_labels_major=shown, show_minor_x_labels=False,
        truncate_label=-1, y_labels=marks, range=(0, marks[-1]), value_formatter=written,
    )  # fmt: skip
    for line in lines:
        chart.add(line.name, line.values)
    tree = chart.render_tree()
    _make_ours(tree, {label: label[-5:] if bucket_s < 3_600 else label[:6] for label in shown})
    return Markup(ET.tostring(tree, encoding="unicode"))  # noqa: S704 - labels and numbers of ours, escaped by ElementTree


def _make_ours(tree: ET.Element, short: dict[str, str]) -> None:
    """Leave out what a strict Content-Security-Policy blocks, and turn notes for Pygal's script into tooltips."""
    tree.attrib.pop("id", None)
    # What a plot says stands in its caption; a thousand coordinates read aloud are no help.
    tree.set("aria-hidden", "true")
    for parent in list(tree.iter()):
        for child in [child for child in parent if _is_theirs(child)]:
            parent.remove(child)
    for element in list(tree.iter()):
        if element.get("class") == "dots":
            _say(element)
        if _name(element) == "text" and element.text in short:
            element.text = short[element.text]


def _is_theirs(element: ET.Element) -> bool:
    """Whether it is a comment, a style, a script, or what their script writes to."""
    what = _name(element)
    return what in ("", "defs", "title") or element.get("class") in ("plot text-overlay", "plot tooltip-overlay")


def _say(dot: ET.Element) -> None:
    notes = {note.get("class", ""): note.text or "" for note in list(dot) if _name(note) == "desc"}
    for note in [note for note in dot if _name(note) == "desc"]:
        dot.remove(note)
    title = ET.SubElement(dot, "title")
    title.text = f"{notes.get('x_label', '')} UTC: {notes.get('value', '')}"


def _name(element: ET.Element) -> str:
    """The tag without its namespace; empty for a comment, whose tag is a function."""
    tag: object = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""
