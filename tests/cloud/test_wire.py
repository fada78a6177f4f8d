"""Predictions encoded together are what they are one by one, and are refused as they are one by one."""

import pytest
from msgspec.structs import replace

from bench.load import predictions
from cloud.wire import RECORD_BYTES_MAX, Detection, WireError, encode_prediction, encode_predictions

MANY = tuple(predictions(70))
BOX = Detection("scratch", 0.25, (1.0, 2.0, 3.0, 4.0))


@pytest.mark.parametrize("name", ["line\nfeed\r", "\u2028", 'quote"\\', "née"])
def test_many_have_the_same_bytes_as_each_alone(name):
    load = [*MANY[:40], replace(MANY[40], image_id=name), *MANY[41:]]
    assert encode_predictions(load) == [encode_prediction(one) for one in load]
    assert encode_predictions([]) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"timestamp": float("nan")},
        {"image_id": "\ud800"},
        {"inference_time_ms": 10**400},
        {"image_id": "x" * 257},
        {"detections": (BOX,) * 2_001},
        {"detections": (replace(BOX, class_name="\U0001f600" * 60),) * 1_000},
    ],
)
def test_one_that_is_wrong_among_many_is_named_as_if_it_came_alone(wrong):
    bad = replace(MANY[40], **wrong)
    with pytest.raises(WireError) as alone:
        encode_prediction(bad)
    with pytest.raises(WireError) as among:
        encode_predictions([*MANY[:40], bad, replace(MANY[41], image_id=""), *MANY[42:]])
    assert str(among.value) == str(alone.value)


def test_the_largest_that_is_taken_alone_is_taken_among_many():
    large = replace(MANY[0], detections=(replace(BOX, class_name="n" * 80),) * 1_900)
    assert 0.9 * RECORD_BYTES_MAX < len(encode_prediction(large)) <= RECORD_BYTES_MAX
    assert encode_predictions([MANY[1], large]) == [encode_prediction(MANY[1]), encode_prediction(large)]
