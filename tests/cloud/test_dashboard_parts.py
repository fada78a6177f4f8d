"""What the page is made of: numbers in words, ticks, rows, drawings, addresses."""

import json
from itertools import pairwise

import pytest

from cloud.dashboard import words
from cloud.dashboard.asked import RANGES, Asked, read_asked
from cloud.dashboard.charts import LABELS_MAX, TICKS_MAX, _count_ticks, _labelled, _second_ticks, charts_of
from cloud.dashboard.defects import BOXES_MAX, drawing_of
from cloud.dashboard.fleet import reasons_of, short_reason
from cloud.ledger import Bucket, Gap, StoredPrediction, StreamAudit
from cloud.ledger.rollups import starts
from tests.cloud.world import NOON, payload


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0 s"), (0.012, "12 ms"), (0.25, "0.2 s"), (0.99, "1.0 s"), (1, "1 s"), (59.4, "59 s"), (59.6, "1 min"),
        (90, "1.5 min"), (3_599, "1 h"), (85_577, "24 h"), (86_400, "1 d"), (10 * 86_400, "10 d"), (1e12, "11574074 d"),
    ],
)  # fmt: skip
def test_durations_have_two_digits_and_the_unit_that_fits(seconds, written):
    assert words.duration(seconds) == written


@pytest.mark.parametrize(
    ("fraction", "written"),
    [(0, "0 %"), (0.0001, "< 0.1 %"), (0.004, "0.4 %"), (0.0996, "10 %"), (0.12, "12 %"), (1, "100 %")],
)
def test_what_is_not_nothing_never_reads_as_nothing(fraction, written):
    assert words.share(fraction) == written


@pytest.mark.parametrize(
    ("per_minute", "written"), [(0, "0"), (0.01, "< 0.1"), (0.2, "0.2"), (9.96, "10"), (1234.5, "1,234")]
)
def test_a_rate_is_never_nothing_where_something_came(per_minute, written):
    assert words.rate(per_minute) == written


@pytest.mark.parametrize("timestamp", [-1.0, 1e12, 1e300])
def test_a_time_that_no_calendar_has_is_shown_as_it_came(timestamp):
    assert "since 1970" in words.moment(timestamp)
    assert words.machine_moment(timestamp) == ""
    assert words.moment(NOON) == "2026-01-28 10:30:40 UTC"


@pytest.mark.parametrize("ticks", [_count_ticks, _second_ticks])
@pytest.mark.parametrize("high", [0, 0.003, 1, 3, 17, 100, 86_399, 9e6, 1e15])
def test_ticks_are_few_and_reach_over_the_highest_value(ticks, high):
    marks = ticks(high)
    assert marks[0] == 0
    assert marks[-1] >= high
    assert 2 <= len(marks) <= TICKS_MAX + 1


def test_a_point_of_a_plot_says_its_time_and_value():
    buckets = tuple(bucket(NOON + 60 * n, predictions=n, lateness=None if n == 2 else n * 10.0) for n in range(4))
    predictions, defects, lateness = charts_of(buckets, 60)
    assert predictions.caption == "6 in all, 0 of them late"
    assert "<title>28 Jan 10:33 UTC: 3</title>" in str(predictions.svg)
    assert "<title>28 Jan 10:33 UTC: 30 s</title>" in str(lateness.svg)
    # Where nothing arrived there is no lateness: a gap, not a zero.
    assert "10:32 UTC" not in str(lateness.svg)
    assert "10:32 UTC: 2" in str(predictions.svg)
    assert "<style" not in str(defects.svg)
    assert "<script" not in str(defects.svg)
    assert lateness.caption == "at most 30 s"


@pytest.mark.parametrize("span", RANGES)
def test_times_below_a_plot_are_round_and_few(span):
    query = Asked(span=span).series(NOON + 1234)
    labels = _labelled([float(start) for start in starts(query)])
    assert 4 <= len(labels) <= LABELS_MAX
    assert all(label % 900 == 0 for label in labels)
    assert len({b - a for a, b in pairwise(labels)}) == 1


def bucket(start: float, *, predictions: int = 1, lateness: float | None = None) -> Bucket:
    return Bucket(start, predictions, 0, 0, 0, lateness, lateness, 1.0, 1.0, 1.0)


def test_reasons_are_summed_by_kind_and_what_is_not_listed_is_other():
    gaps = (Gap(1, 3, "evicted"), Gap(4, 4, "rejected: a"), Gap(5, 5, None), Gap(6, 7, "rejected: b"))
    stream = StreamAudit(
        "s", 40, 0, 0, 0, 0, 0, missing=40, explained=20, gaps=gaps, gaps_total=2_000
    )  # fmt: skip
    assert reasons_of([stream]) == (("evicted", 3), ("rejected", 3), ("other", 14))
    assert reasons_of([]) == ()


def test_a_reason_in_a_row_is_short_and_never_empty():
    assert short_reason("rejected: detections[0].confidence: too large") == "rejected"
    assert short_reason(": x") == ": x"
    assert len(short_reason("r" * 256)) == 40


def stored(**changes) -> StoredPrediction:
    return StoredPrediction(payload(1, **changes).decode(), "cam", "s1", NOON, late=False)


@pytest.mark.parametrize("bbox", [[-1e308, -1e308, 1e308, 1e308], [-50, -10, -20, -5], [0, 0, 0, 0], [0, 0, 5000, 1]])
def test_any_box_lies_inside_its_frame(bbox):
    drawing = drawing_of(stored(detections=[{"class": "c", "confidence": 1, "bbox": bbox}]))
    assert drawing is not None
    (box,) = drawing.boxes
    assert 0 <= box.x <= box.x + box.width <= drawing.width
    assert 0 <= box.y <= box.y + box.height <= drawing.height
    assert 0.2 <= drawing.width / drawing.height <= 5.01


def test_a_drawing_is_bounded_and_counts_what_it_leaves_out():
    many = [{"class": f"c{n}", "confidence": n / 100, "bbox": [n, n, n + 1, n + 1]} for n in range(80)]
    drawing = drawing_of(stored(detections=many))
    assert drawing is not None
    assert (len(drawing.boxes), drawing.boxes_total) == (BOXES_MAX, 80)
    assert drawing.found == (("c79", 0.79), ("c78", 0.78), ("c77", 0.77))
    assert drawing.classes_total == 80


def test_what_is_stored_under_another_contract_is_left_out():
    assert drawing_of(StoredPrediction(json.dumps({"seq": 1}), "cam", None, NOON, late=False)) is None


def test_links_keep_what_was_asked_and_go_back_to_the_first_page():
    asked = read_asked({"q": ["a&b"], "page": ["3"], "range": ["7d"]})
    assert asked.link(span="24h") == "/?range=24h&q=a%26b&page=3"
    assert asked.link(order="rate") == "/?range=7d&q=a%26b&sort=rate"
    assert asked.link(text="", span="1h", page=1) == "/"
    assert read_asked({"q": [""]}) == Asked()
