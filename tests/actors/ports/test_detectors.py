"""One contract for every detector, and the same boxes from both that run model files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from actors.ports import detectors
from actors.ports.detector import (
    BatchDetector,
    DetectorError,
    Sight,
    UltralyticsDetector,
    default_model_path,
    detect_many,
)
from actors.ports.detectors import CallableDetector, choose, make_detector
from actors.ports.frames import SAMPLE_FOLDER, decode_image
from actors.ports.onnx_detector import CPU, CUDA, OnnxDetector, back, fill, fit, keep, providers_for
from actors.settings import DetectorKind
from cloud.wire import Detection
from tests.actors.ports.test_detector import write_model

ROOT = Path(__file__).parents[3]
SAMPLES = [decode_image(path) for path in sorted(SAMPLE_FOLDER.iterdir())]
IOU_MIN = 0.98
SCORE_OFF_MAX = 0.01


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    found = (
        UltralyticsDetector(default_model_path(), config_dir=tmp_path_factory.mktemp("yolo")),
        OnnxDetector(default_model_path()),
    )
    for detector in found:
        detector.load()
    return found


def iou(one, other) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return float(shared / (sum(areas) - shared))


def stretched(image, height: int, width: int):
    import cv2

    return cv2.resize(image, (width, height))


def alike(one: Sight, other: Sight) -> None:
    assert len(one.detections) == len(other.detections), (one, other)
    left = list(other.detections)
    for found in one.detections:
        twin = max(left, key=lambda each: (each.class_name == found.class_name) * iou(each.bbox, found.bbox))
        left.remove(twin)
        assert twin.class_name == found.class_name
        assert iou(twin.bbox, found.bbox) > IOU_MIN, (found, twin)
        assert abs(twin.confidence - found.confidence) < SCORE_OFF_MAX


def test_both_detectors_give_the_same_boxes_on_the_sample_frames(both):
    one, other = both
    seen = 0
    for image in SAMPLES:
        alike(one.detect(image), other.detect(image))
        seen += len(one.detect(image).detections)
    assert seen >= 8, "frames without a box would prove nothing"


@pytest.mark.parametrize(("height", "width"), [(240, 320), (333, 256), (1080, 1921), (97, 640)])
def test_both_detectors_give_the_same_boxes_on_frames_of_any_shape(both, height, width):
    one, other = both
    for image in SAMPLES[:6]:
        frame = stretched(image, height, width)
        alike(one.detect(frame), other.detect(frame))


def test_several_images_at_once_are_seen_as_one_by_one(both):
    for detector in both:
        assert isinstance(detector, BatchDetector)
        together = detector.detect_many(SAMPLES[:5])
        alone = [detector.detect(image) for image in SAMPLES[:5]]
        assert [sight.detections for sight in together] == [sight.detections for sight in alone]


def test_both_tell_the_same_of_themselves(both):
    one, other = both
    assert one.model_name == other.model_name == "surface-defects"
    assert one.model_version == other.model_version
    assert len(one.model_version) == 12
    assert one.classes == other.classes == ("scratch", "dent", "stain", "crack")


def test_the_input_of_the_graph_is_what_ultralytics_makes_of_a_frame(both):
    predictor = both[0]._model.predictor
    for image in (SAMPLES[0], stretched(SAMPLES[1], 97, 640), stretched(SAMPLES[2], 333, 250)):
        expected = predictor.preprocess([image]).numpy()
        place = fit(image.shape[:2], (256, 256))
        np.testing.assert_array_equal(fill([image], [place], (256, 256), 1, np.float32), expected)


def test_boxes_come_back_in_pixels_of_the_image_inside_it_and_only_above_the_confidence(tmp_path):
    rows = [
        [8.0, 8.0, 16.0, 24.0, 0.91234, 0],
        [-9.0, 20.0, 99.0, 99.0, 0.5, 1],
        [1.0, 1.0, 2.0, 2.0, 0.24, 0],
        [float("nan"), 1.0, 2.0, 2.0, 0.9, 0],
    ]
    detector = OnnxDetector(write_model(tmp_path / "known.onnx", rows), 0.25)
    detector.load()
    assert detector.detect(np.full((320, 320, 3), 127, np.uint8)).detections == (
        Detection("pit", 0.9123, (80.0, 80.0, 160.0, 240.0)),
        Detection("burr", 0.5, (0.0, 200.0, 320.0, 320.0)),
    )


def test_a_graph_that_leaves_double_boxes_is_filtered_here_class_by_class():
    # centre x, centre y, width, height, score of class 0, score of class 1
    candidates = [
        [50, 50, 20, 20, 0.9, 0.1],
        [51, 50, 20, 20, 0.8, 0.1],  # the same thing again
        [51, 50, 20, 20, 0.1, 0.7],  # another class at the same place
        [90, 90, 10, 10, 0.6, 0.0],
        [10, 10, 10, 10, 0.2, 0.1],  # too weak
    ]
    rows = keep(np.array(candidates, np.float32).T, 0.25, 0.6)
    assert rows[:, 4:].round(2).tolist() == [[0.9, 0.0], [0.7, 1.0], [0.6, 0.0]] or np.allclose(
        rows[:, 4:], [[0.9, 0], [0.7, 1], [0.6, 0]]
    )
    assert rows[0, :4].tolist() == [40, 40, 60, 60]
    assert len(keep(np.array(candidates, np.float32).T, 0.25, 0.99)) == 4, "a higher IOU keeps the doubles"


def test_a_box_survives_the_way_into_the_input_and_back():
    place = fit((1080, 1921), (256, 256))
    gain = 256 / 1921
    x1, y1, x2, y2 = 100.0, 200.0, 500.0, 900.0
    inside = np.array([[x1 * gain, y1 * gain + place.top, x2 * gain, y2 * gain + place.top, 0.5, 0]], np.float32)
    assert np.allclose(back(inside, place)[0, :4], [x1, y1, x2, y2], atol=1.5)


def write_dynamic(path: Path) -> Path:
    """A graph for any number of images, which answers with the mean of each as its score."""
    rows = np.zeros((1, 1, 6), np.float32)
    rows[0, 0] = [1, 1, 9, 9, 0, 0]
    score = np.zeros((1, 1, 6), np.float32)
    score[0, 0, 4] = 1
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=0),
            helper.make_node("Reshape", ["mean", "shape"], ["means"]),
            helper.make_node("Mul", ["means", "score"], ["scores"]),
            helper.make_node("Add", ["scores", "rows"], ["output0"]),
        ],
        "means",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, ["batch", 1, 6])],
        [
            numpy_helper.from_array(rows, "rows"),
            numpy_helper.from_array(score, "score"),
            numpy_helper.from_array(np.array([-1, 1, 1], np.int64), "shape"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    facts = {"stride": "32", "task": "detect", "imgsz": "[32, 32]", "names": "{0: 'bright'}"}
    helper.set_model_props(model, facts)
    onnx.save(model, path)
    return path


def test_a_graph_for_any_number_of_images_gets_them_all_in_one_run(tmp_path):
    detector = OnnxDetector(write_dynamic(tmp_path / "any.onnx"))
    detector.load()
    assert detector._graph is not None
    session = detector._graph.session
    runs: list[int] = []

    class Watched:
        def run(self, outputs, feed):
            runs.append(len(feed["images"]))
            return session.run(outputs, feed)

    import attrs

    detector._graph = attrs.evolve(detector._graph, session=Watched())
    images = [np.full((32, 32, 3), shade, np.uint8) for shade in (255, 128, 0, 204)]
    sights = detector.detect_many(images)
    assert runs == [4]
    assert [[found.confidence for found in sight.detections] for sight in sights] == [[1.0], [0.502], [], [0.8]]


def test_the_session_has_one_thread_that_sleeps_when_idle(both):
    options = both[1]._graph.session.get_session_options()
    assert options.intra_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.inter_op.allow_spinning") == "0"


@pytest.mark.parametrize("name", ["text.onnx", "cut.onnx", "masks.onnx", "bare.onnx", "gone.onnx"])
def test_what_is_no_model_is_refused_with_its_name_and_the_remedy(name, tmp_path):
    path = tmp_path / name
    if name == "text.onnx":
        path.write_text("hello, I am no model")
    elif name == "cut.onnx":
        path.write_bytes(default_model_path().read_bytes()[:400_000])
    elif name == "masks.onnx":
        write_model(path, [], task="segment")
    elif name == "bare.onnx":
        model = onnx.load(default_model_path())
        del model.metadata_props[:]
        onnx.save(model, path)
    with pytest.raises(DetectorError) as caught:
        OnnxDetector(path).load()
    assert f"MODEL_PATH {path}" in str(caught.value)
    assert "leave MODEL_PATH unset for the built-in one" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_image_that_fails_does_not_stop_the_next(both):
    for detector in both:
        with pytest.raises(DetectorError, match="model surface-defects failed on an image"):
            detector.detect(np.zeros((0, 0, 3), np.uint8))
        answers = detect_many(detector, [SAMPLES[0], np.zeros((0, 0, 3), np.uint8), SAMPLES[1]])
        assert [type(answer) for answer in answers] == [Sight, DetectorError, Sight]


# --- which one


def test_auto_takes_ultralytics_where_it_is_installed_and_onnx_runtime_where_not(monkeypatch):
    assert choose(True, Path("m.onnx")) is DetectorKind.ULTRALYTICS
    assert choose(False, Path("m.onnx")) is DetectorKind.ONNXRUNTIME
    assert choose(False, Path("m.pt")) is DetectorKind.ULTRALYTICS, "it says what to install"
    assert isinstance(make_detector(DetectorKind.AUTO), UltralyticsDetector)
    monkeypatch.setattr(detectors, "_installed", lambda _: False)
    assert isinstance(make_detector(DetectorKind.AUTO), OnnxDetector)
    assert isinstance(make_detector(DetectorKind.ONNXRUNTIME), OnnxDetector)


def test_onnx_runtime_refuses_other_files_with_the_way_to_export_them():
    with pytest.raises(DetectorError, match=r"own\.pt is no \.onnx file.*export\(format='onnx', nms=True\)"):
        make_detector(DetectorKind.ONNXRUNTIME, Path("own.pt"))


@pytest.mark.parametrize(
    ("asked", "available", "expected"),
    [
        ("auto", [CUDA, CPU], [(CUDA, {"device_id": 0}), CPU]),
        ("auto", [CPU], [CPU]),
        ("auto", ["AzureExecutionProvider", CPU], [CPU]),
        ("cpu", [CUDA, CPU], [CPU]),
        ("cuda:2", [CUDA, CPU], [(CUDA, {"device_id": 2}), CPU]),
    ],
)
def test_what_onnx_runtime_is_told_to_run_on(asked, available, expected):
    assert providers_for(asked, available) == expected


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_onnx_runtime_never_takes_the_processor_in_silence_where_a_card_was_asked_for(monkeypatch):
    detector = OnnxDetector(default_model_path(), device="cuda")
    with pytest.raises(DetectorError, match=r"MODEL_DEVICE cuda: this onnxruntime has only .*CPUExecutionProvider"):
        detector.load()
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CUDA, CPU])  # built for CUDA, no driver here
    with pytest.raises(DetectorError, match="MODEL_DEVICE cuda: onnxruntime could not start CUDA"):
        detector.load()


def test_a_model_says_where_it_runs(both):
    assert [detector.device for detector in both] == ["cpu", "cpu"]


WITHOUT_TORCH = """
import json, pathlib, sys
for name in ("torch", "torchvision", "ultralytics", "onnx"):
    sys.modules[name] = None
seen = []
def watch(event, args):
    if event.startswith(("socket.", "subprocess.")):
        seen.append([event, repr(args)])
sys.addaudithook(watch)
from actors.ports.detectors import make_detector
from actors.ports.frames import SAMPLE_FOLDER, decode_image
from actors.settings import DetectorKind
detector = make_detector(DetectorKind.AUTO)
detector.load()
boxes = sum(len(detector.detect(decode_image(path)).detections) for path in sorted(SAMPLE_FOLDER.iterdir()))
facts = dict(line.split(':', 1) for line in pathlib.Path('/proc/self/status').read_text().splitlines())
rss = int(facts['VmHWM'].split()[0]) / 1024
print(json.dumps([type(detector).__name__, boxes, seen, rss]))
"""


def test_without_torch_and_ultralytics_the_built_in_model_runs_offline_in_little_memory(tmp_path):
    plain = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        env=plain,
        cwd=tmp_path,
        capture_output=True,
        check=False,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    kind, boxes, seen, rss_mib = json.loads(done.stdout)
    assert kind == "OnnxDetector"
    assert boxes >= 8
    assert seen == []
    assert list(tmp_path.iterdir()) == [], "no telemetry store in the home, nothing in the temporary folder"
    assert rss_mib < 250, rss_mib


# --- a function of one's own


def test_a_function_is_a_detector_and_its_boxes_keep_the_contract():
    detector = CallableDetector(
        lambda _: [("pit", 1.2, (-5, 1, 500, 2)), Detection("burr", 0.5, (1.0, 1.0, 2.0, 2.0))],
        name="own",
        version="7",
    )
    detector.load()
    assert detector.detect(SAMPLES[0]).detections == (
        Detection("pit", 1.0, (0.0, 1.0, 256.0, 2.0)),
        Detection("burr", 0.5, (1.0, 1.0, 2.0, 2.0)),
    )
    assert (detector.model_name, detector.model_version) == ("own", "7")


@pytest.mark.parametrize(
    "answer", [[("pit", 0.5)], [("pit", "much", (1, 2, 3, 4))], None, [("pit", float("nan"), (1, 2, 3, 4))]]
)
def test_a_function_that_answers_nonsense_loses_only_that_image(answer):
    detector = CallableDetector(lambda _: answer, name="own", version="1")
    with pytest.raises(DetectorError, match="model own failed on an image"):
        detector.detect(SAMPLES[0])


def test_a_function_that_cannot_be_prepared_says_so():
    def prepare():
        raise OSError("no such accelerator")

    with pytest.raises(DetectorError, match=r"model own can't be prepared .*no such accelerator"):
        CallableDetector(lambda _: [], name="own", version="1", prepare=prepare).load()


def test_the_example_of_an_own_detector_runs(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "examples/own_detector.py", str(tmp_path / "buffer.db")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "bright-spot" in done.stdout
    assert "durable" in done.stdout
