"""The detector on real model files: the built-in one, and tiny ones made here whose answer is known."""

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import trio
from onnx import TensorProto, helper, numpy_helper
from trio_util import AsyncValue

from actors import inference
from actors.messages import Accept, Entry, Receipt, Vision
from actors.ports.detector import (
    DetectorError,
    UltralyticsDetector,
    _import_yolo,
    card_of,
    default_model_path,
    tidy,
)
from actors.ports.frames import SAMPLE_FOLDER, FolderSource, decode_image
from actors.ports.lane import thread_lane
from cloud.wire import Detection, check_payload
from tools.train import write_network

ROOT = Path(__file__).parents[3]
DEFECTIVE = [f"surface-{number:02d}.jpg" for number in (1, 2, 3, 4, 6, 7, 9, 11)]
CLEAN = [f"surface-{number:02d}.jpg" for number in (5, 8, 10, 12)]


def write_model(path: Path, rows: list[list[float]], *, task: str = "detect", side: int = 32) -> Path:
    """An ONNX file of Ultralytics' own layout that answers `rows` (x1, y1, x2, y2, score, class) to every image."""
    answer = np.zeros((1, 300, 6), np.float32)
    answer[0, : len(rows)] = np.reshape(rows, (-1, 6))
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
            helper.make_node("Add", ["answer", "zero"], ["output0"]),
        ],
        "known",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 300, 6])],
        [numpy_helper.from_array(answer, "answer"), numpy_helper.from_array(np.zeros((), np.float32), "nothing")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    facts = {
        "stride": "32",
        "task": task,
        "batch": "1",
        "imgsz": str([side, side]),
        "names": "{0: 'pit', 1: 'burr'}",
        "args": "{'nms': True}",
        "end2end": "False",
    }
    helper.set_model_props(model, facts)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def config_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("yolo")


@pytest.fixture(scope="module")
def built_in(config_dir):
    detector = UltralyticsDetector(default_model_path(), config_dir=config_dir)
    detector.load()
    return detector


def test_the_built_in_model_finds_defects_on_the_sample_frames_and_spares_the_clean_ones(built_in):
    found = {name: built_in.detect(decode_image(SAMPLE_FOLDER / name)).detections for name in DEFECTIVE + CLEAN}
    assert sum(bool(found[name]) for name in DEFECTIVE) >= 6, found
    assert sum(bool(found[name]) for name in CLEAN) <= 1, found
    for detection in [detection for detections in found.values() for detection in detections]:
        assert detection.class_name in {"scratch", "dent", "stain", "crack"}
        assert 0.25 <= detection.confidence <= 1.0
        x1, y1, x2, y2 = detection.bbox
        assert 0 <= x1 <= x2 <= 256
        assert 0 <= y1 <= y2 <= 256


def test_a_prediction_says_which_weights_made_it(built_in):
    assert built_in.model_name == "surface-defects"
    assert built_in.model_version == hashlib.sha256(default_model_path().read_bytes()).hexdigest()[:12]
    assert built_in.detect(np.zeros((256, 256, 3), np.uint8)).inference_ms > 0


def test_boxes_come_back_in_pixels_of_the_image_inside_it_and_only_above_the_confidence(tmp_path, config_dir):
    rows = [
        [8.0, 8.0, 16.0, 24.0, 0.91234, 0],
        [-9.0, 20.0, 99.0, 99.0, 0.5, 1],
        [1.0, 1.0, 2.0, 2.0, 0.24, 0],
    ]
    detector = UltralyticsDetector(write_model(tmp_path / "known.onnx", rows), 0.25, config_dir=config_dir)
    detector.load()
    sight = detector.detect(np.full((320, 320, 3), 127, np.uint8))
    assert sight.detections == (
        Detection("pit", 0.9123, (80.0, 80.0, 160.0, 240.0)),
        Detection("burr", 0.5, (0.0, 200.0, 320.0, 320.0)),
    )


def test_what_is_no_number_never_reaches_the_wire(tmp_path, config_dir):
    rows = [[float("nan"), 1.0, 9.0, 9.0, 0.9, 0], [1.0, 1.0, 9.0, 9.0, 0.8, 1]]
    detector = UltralyticsDetector(write_model(tmp_path / "nan.onnx", rows), config_dir=config_dir)
    detector.load()
    sight = detector.detect(np.zeros((32, 32, 3), np.uint8))
    assert [detection.class_name for detection in sight.detections] == ["burr"]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((10.04, 20.06, 30.0, 40.0), (10.0, 20.1, 30.0, 40.0)),
        ((30.0, 40.0, 10.0, 20.0), (10.0, 20.0, 30.0, 40.0)),
        ((-5.0, -5.0, 500.0, 500.0), (0.0, 0.0, 100.0, 50.0)),
        ((200.0, 60.0, 300.0, 70.0), (100.0, 50.0, 100.0, 50.0)),
    ],
)
def test_every_box_keeps_the_contract_of_the_wire(box, expected):
    assert tidy("pit", 0.5, box, (100, 50)).bbox == expected


def test_names_and_scores_keep_the_contract_of_the_wire():
    assert tidy("", 1.00001, (0, 0, 1, 1), (9, 9)) == Detection("unnamed", 1.0, (0, 0, 1, 1))
    assert len(tidy("x" * 400, 0.5, (0, 0, 1, 1), (9, 9)).class_name) == 256


def test_the_session_has_one_thread_that_sleeps_when_idle_and_the_library_is_left_as_it_was(built_in):
    options = built_in._model.predictor.model.backend.session.get_session_options()
    assert options.intra_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert isinstance(onnxruntime.InferenceSession, type)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("/nowhere/model.onnx", "MODEL_PATH /nowhere/model.onnx does not exist on this device"),
        ("yolo11n.pt", "MODEL_PATH yolo11n.pt does not exist on this device, and nothing is downloaded"),
        (
            "https://example.com/m.onnx",
            "MODEL_PATH https://example.com/m.onnx is an address, and nothing is downloaded",
        ),
        # As a setting gives it, which is a path.
        (Path("https://example.com/m.onnx"), "MODEL_PATH https:/example.com/m.onnx is an address"),
        (Path("HTTPS://example.com/m.onnx"), "MODEL_PATH HTTPS:/example.com/m.onnx is an address"),
        (Path("s3://models/m.onnx"), "MODEL_PATH s3:/models/m.onnx is an address"),
        ("ul://someone/model", "MODEL_PATH ul://someone/model is an address, and nothing is downloaded"),
    ],
)
def test_a_model_that_is_not_there_is_refused_with_the_remedy(given, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DetectorError) as caught:
        UltralyticsDetector(given).load()
    assert str(caught.value).startswith(message)
    assert "leave MODEL_PATH unset for the built-in one" in str(caught.value)


@pytest.mark.parametrize("name", ["text.onnx", "text.pt", "text.txt", "net.yaml", "folder"])
def test_what_is_no_model_is_refused_with_its_name_and_the_remedy(name, tmp_path, config_dir):
    path = tmp_path / name
    path.mkdir() if name == "folder" else path.write_text("nc: 1\nhello, I am no model\n")
    with pytest.raises(DetectorError) as caught:
        UltralyticsDetector(path, config_dir=config_dir).load()
    assert f"MODEL_PATH {path}" in str(caught.value)
    assert "give the path of a trained model's file" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_format_whose_package_is_not_there_is_refused_with_its_name(tmp_path, config_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    path = tmp_path / "text.engine"
    path.write_text("hello, I am no model\n")
    with pytest.raises(DetectorError) as caught:
        UltralyticsDetector(path, config_dir=config_dir).load()
    assert f"MODEL_PATH {path}" in str(caught.value)
    assert str(caught.value).endswith("nothing is installed by itself: pip install tensorrt")


@pytest.mark.parametrize("kept", [0, 1000, 400_000])
def test_a_model_file_that_was_cut_short_is_refused(kept, tmp_path, config_dir):
    path = tmp_path / "cut.onnx"
    path.write_bytes(default_model_path().read_bytes()[:kept])
    with pytest.raises(DetectorError, match=r"cut\.onnx can't be loaded as a model"):
        UltralyticsDetector(path, config_dir=config_dir).load()


def test_a_model_for_another_task_is_refused(tmp_path, config_dir):
    path = write_model(tmp_path / "masks.onnx", [], task="classify")
    with pytest.raises(DetectorError, match="MODEL_PATH"):
        UltralyticsDetector(path, config_dir=config_dir).load()


def test_a_model_that_fails_on_an_image_says_so_and_goes_on(built_in):
    with pytest.raises(DetectorError, match="model surface-defects failed on an image"):
        built_in.detect(np.zeros((0, 0, 3), np.uint8))
    built_in.detect(np.zeros((64, 48, 3), np.uint8))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 300.00 MiB."), "MODEL_DEVICE=cpu"),
        (RuntimeError("CUDA error: device-side assert triggered\nCompile with"), "restart the device"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "leave MODEL_PATH unset"),
    ],
)
def test_what_to_do_about_a_card_is_said_where_a_card_is_at_fault(built_in, monkeypatch, fault, words):
    """Texts as an H200 gave them: memory that others have taken, and a fault that each later call meets again."""

    def fail(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(built_in._model, "predict", fail)
    with pytest.raises(DetectorError, match="model surface-defects failed on an image") as caught:
        built_in.detect(np.zeros((64, 48, 3), np.uint8))
    assert words in str(caught.value).rpartition("; ")[2]


OFFLINE_PROOF = """
import json, sys
seen = []
def watch(event, args):
    if event.startswith(("socket.", "subprocess.")):
        seen.append([event, repr(args)])
sys.addaudithook(watch)
from actors.ports.detector import UltralyticsDetector, default_model_path
from actors.ports.frames import SampleSource
detector, source = UltralyticsDetector(default_model_path()), SampleSource()
detector.load()
source.open()
for _ in range(12):
    detector.detect(source.read().image)
print(json.dumps(seen))
"""


def test_loading_and_predicting_opens_no_socket_installs_nothing_and_leaves_the_home_alone(tmp_path):
    # ONNX Runtime would phone home below Python, where no audit hook sees it; but not without a store in the home.
    plain = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE_PROOF],
        env=plain,
        cwd=tmp_path,
        capture_output=True,
        check=False,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert [event for event, _ in seen if event.startswith("socket.")] == []
    assert [args for event, args in seen if event == "subprocess.Popen" and "pip" in args] == []
    assert list(tmp_path.iterdir()) == [], (
        "no settings, no telemetry store, no runs/ folder, nothing left behind in the temporary folder"
    )


async def test_real_frames_through_the_real_model_in_its_thread_become_predictions(built_in):
    requests_in, requests = trio.open_memory_channel[inference.ImageRequest](1)
    accepts, accepted = trio.open_memory_channel[Accept](50)
    vision, stopping = AsyncValue(Vision()), trio.Event()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                lambda: inference.run(
                    requests,
                    accepts,
                    sources=[FolderSource("line", SAMPLE_FOLDER)],
                    detector=built_in,
                    run_detect=thread_lane(),
                    run_frames=thread_lane,
                    stopping=stopping,
                    vision=vision,
                    now=lambda: 1_700_000_000.0,
                    rng=random.Random(1),
                )
            )
            entries: list[Entry] = []
            for seq in range(1, 13):
                accept = await accepted.receive()
                entries += accept.entries
                assert accept.reply is not None, "a file's receipt is awaited"
                accept.reply.put((Receipt("s", seq, durable=True),))
            await vision.wait_value(lambda seen: seen.finished)
            requests_in.close()
    assert [entry.image_id for entry in entries] == [f"line/surface-{number:02d}.jpg" for number in range(1, 13)]
    predictions = [check_payload(entry.body) for entry in entries]
    assert sum(prediction.defect_detected for prediction in predictions) >= 6
    assert vision.value.frames == 12


def test_a_file_of_pytorchs_weights_is_a_model_too(tmp_path, config_dir):
    """A network with random weights; its boxes mean nothing, but they are boxes."""
    path = tmp_path / "narrow.pt"
    _import_yolo(config_dir)(write_network(tmp_path), task="detect").save(path)
    detector = UltralyticsDetector(path, confidence=0.0001, device="cpu", config_dir=config_dir)
    detector.load()
    sight = detector.detect(decode_image(SAMPLE_FOLDER / DEFECTIVE[0]))
    assert sight.detections
    assert {found.class_name for found in sight.detections} <= set(detector.classes)
    assert detector.classes == ("0", "1", "2", "3"), "a network that nobody trained has no names for them"
    assert detector.model_version == hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    assert detector.device == "cpu"


@pytest.mark.parametrize("ending", ["mnn", "tflite", "engine", "param"])
def test_a_format_whose_package_is_not_there_installs_nothing_and_is_refused(ending, tmp_path, config_dir):
    """Ultralytics would run pip for it; what it may run here is nothing at all."""
    path = tmp_path / f"model.{ending}"
    path.write_bytes(b"no model")
    seen: list[str] = []

    def watch(event: str, args: tuple[object, ...]) -> None:
        if watching and event.startswith(("socket.connect", "socket.getaddrinfo", "subprocess.")):
            seen.append(f"{event} {args}")

    watching = True
    sys.addaudithook(watch)
    try:
        with pytest.raises(DetectorError, match=rf"MODEL_PATH .*model\.{ending} can't be loaded as a model"):
            UltralyticsDetector(path, config_dir=config_dir).load()
    finally:
        watching = False
    assert seen == []


@pytest.mark.parametrize(("asked", "card"), [("auto", None), ("cpu", None), ("cuda", 0), ("cuda:0", 0), ("cuda:3", 3)])
def test_which_graphics_card_is_asked_for(asked, card):
    assert card_of(asked) == card


def test_a_graphics_card_that_is_not_there_is_refused_by_name_and_auto_takes_the_processor(config_dir):
    missing = UltralyticsDetector(default_model_path(), device="cuda:7", config_dir=config_dir)
    with pytest.raises(DetectorError, match=r"MODEL_DEVICE cuda:7: torch .* sees \d CUDA devices here; take MODEL_DEV"):
        missing.load()


def test_a_card_that_torch_has_and_the_models_runtime_has_not_is_never_replaced_in_silence(monkeypatch, config_dir):
    """As Ultralytics does with ONNX Runtime built without CUDA: it warns, and goes on slowly."""
    slow = SimpleNamespace(predict=lambda *_, **__: [], task="detect")
    slow.predictor = SimpleNamespace(device=SimpleNamespace(type="cpu"), model=slow)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("actors.ports.detector._import_yolo", lambda _: lambda *_, **__: slow)
    with pytest.raises(DetectorError, match=r"MODEL_DEVICE cuda: the runtime of surface-defects\.onnx has no CUDA"):
        UltralyticsDetector(default_model_path(), device="cuda", config_dir=config_dir).load()
