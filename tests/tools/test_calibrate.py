"""The scale of the confidences: how far it is moved, what moves it in the file, and what the shipped file keeps to."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from actors.ports.detector import default_model_path
from actors.ports.onnx_detector import OnnxDetector
from tools.calibrate import ALARM_SHARE, CONFIDENCE, logit, lower, step_for
from tools.dataset import CLEAN, clean_frames


def moved(score: float, step: float) -> float:
    return float(1 / (1 + np.exp(step - logit(score))))


def test_the_step_silences_all_but_the_share_of_clean_frames_and_no_more():
    strongest = [0.01 * rank for rank in range(1, 100)] + [0.0] * 101
    step = step_for(strongest)
    loud = [score for score in strongest if score and moved(score, step) > CONFIDENCE + 1e-9]
    assert len(loud) == int(ALARM_SHARE * len(strongest)) == 2
    assert step == pytest.approx(logit(0.97) - logit(CONFIDENCE))


@pytest.mark.parametrize("strongest", [[0.0] * 50, [0.2] * 50, [0.9] + [0.1] * 199])
def test_scores_that_are_quiet_enough_stay_as_they_are(strongest):
    assert step_for(strongest) == 0.0


def bare(path: Path, name: str) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], ["output0"])],
        "bare",
        [],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.array([-7.0, -8.0], np.float32), name)],
    )
    onnx.save(helper.make_model(graph), path)
    return path


def test_only_the_last_layer_before_the_scores_is_moved(tmp_path):
    path = bare(tmp_path / "m.onnx", "model.23.cv3.0.2.bias")
    lower(path, 0.5)
    (held,) = onnx.load(path).graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(held), np.array([-7.5, -8.5], np.float32))


def test_a_file_without_such_a_layer_is_refused_and_left_as_it_was(tmp_path):
    path = bare(tmp_path / "m.onnx", "model.23.cv2.0.2.bias")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="has no layer"):
        lower(path, 0.5)
    assert path.read_bytes() == before


def test_the_card_speaks_of_the_file_beside_it():
    card = default_model_path().with_name("MODEL_CARD.md").read_text()
    assert hashlib.sha256(default_model_path().read_bytes()).hexdigest() in card
    assert f"{default_model_path().stat().st_size:,} bytes" in card
    assert default_model_path().stat().st_size <= 1_000_000


def test_the_shipped_model_raises_at_most_one_false_alarm_in_fifty_clean_frames():
    """At the default confidence, on frames that neither training nor scale has seen; the card counts a thousand."""
    detector = OnnxDetector(default_model_path(), CONFIDENCE)
    detector.load()
    alarms = sum(bool(detector.detect(frame).detections) for frame in clean_frames(CLEAN, 200))
    assert alarms <= 4
