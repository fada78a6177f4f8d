"""What the built-in model is held to, and that its card says whether it kept to it."""

import datetime as dt
import re

import pytest

from actors.ports.detector import default_model_path
from tools.card import CLASS_AP50_MIN, MAP50_MIN, Run, goals, render
from tools.measure import Alarms, Precision, Stored
from tools.surfaces import CLASSES

GOOD = Run(
    date=dt.date(2026, 1, 2),
    command="python -m tools.train --epochs 7",
    counts={"train": 1600, "val": 200, "test": 400, "tune": 1000},
    epochs=7,
    took_s=1_200.0,
    processor_s=2_222.0,
    step=0.5,
    threads=2,
    versions={"torch": "9.9"},
    precision=Precision(dict.fromkeys(CLASSES, 0.76), 0.85, 0.6),
    alarms=Alarms(1000, {0.25: 20, 0.5: 1}),
    stored=Stored(1_000_000, "ab" * 32),
)


def missed(run: Run) -> list[str]:
    return [goal.name for goal in goals(run) if not goal.met]


def test_a_run_that_just_reaches_every_goal_misses_none():
    assert missed(GOOD) == []


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"precision": Precision(dict.fromkeys(CLASSES, 0.9), 0.849, 0.6)}, "mAP50"),
        ({"precision": Precision(dict.fromkeys(CLASSES, 0.9) | {"scratch": 0.75}, 0.86, 0.6)}, "the weakest class"),
        ({"precision": Precision({name: 0.9 for name in CLASSES if name != "dent"}, 0.9, 0.6)}, "the weakest class"),
        ({"alarms": Alarms(1000, {0.25: 21})}, "clean frames with a false alarm at 0.25"),
        ({"stored": Stored(1_000_001, "ab" * 32)}, "size"),
        ({"took_s": 1_201.0}, "from nothing to the card, 2 threads"),
    ],
)
def test_what_is_missed_is_named(changes, name):
    run = Run(**{field: getattr(GOOD, field) for field in Run.__slots__} | changes)
    assert missed(run) == [name]
    assert f"| {name} |" in next(line for line in render(run).splitlines() if line.endswith("**no** |"))


def test_the_card_tells_command_date_duration_and_figures():
    card = render(GOOD)
    for told in ("python -m tools.train --epochs 7", "2026-01-02", "20.0 minutes of wall clock and 37.0", "torch 9.9"):
        assert told in card
    assert "| scratch | 0.760 |" in card
    assert "| 0.25 | 20 |" in card
    assert "{" not in card


def test_the_shipped_models_card_is_within_the_goals():
    card = default_model_path().with_name("MODEL_CARD.md").read_text()
    found = {name: float(ap) for name, ap in re.findall(r"^\| (\w+) \| (0\.\d{3}) \|$", card, re.MULTILINE)}
    assert set(found) == set(CLASSES)
    assert min(found.values()) > CLASS_AP50_MIN
    (whole,) = re.findall(r"\*\*all classes \(mAP50\)\*\* \| \*\*(0\.\d{3})\*\*", card)
    assert float(whole) >= MAP50_MIN
