"""What the benchmark of durable logging calls sure."""

import math
import random

import pytest

from bench.durability import added_ms, interval


@pytest.mark.parametrize(
    ("count", "expected"),
    [(5, (-math.inf, math.inf)), (6, (1, 6)), (9, (2, 8)), (12, (3, 10)), (20, (6, 15))],
    ids=str,
)
def test_the_interval_of_a_median_is_that_of_the_tables(count, expected):
    """The ranks of the sign test at 95 %, as any table of order statistics has them."""
    assert interval([float(count - number) for number in range(count)]) == expected


def test_the_median_lies_in_the_interval_as_often_as_it_says():
    rng = random.Random(7)
    inside = 0
    for _ in range(2_000):
        low, high = interval([rng.lognormvariate(0, 2) for _ in range(12)])
        inside += low <= 1 <= high
    assert 0.95 <= inside / 2_000 <= 0.98


def test_a_processor_that_was_slower_for_one_side_changes_nothing():
    quick = {"on_rest": 1.6, "on_look": 8.0, "off_rest": 1.4, "off_look": 8.0}
    slow = quick | {"on_rest": 2.4, "on_look": 12.0}
    assert added_ms(quick) == pytest.approx(0.2)
    assert added_ms(slow) == pytest.approx(0.2)
