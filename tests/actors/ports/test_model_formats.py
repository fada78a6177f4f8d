"""TorchScript files, OpenVINO and NCNN folders are models like an ONNX file: the same known answer comes back as the
same boxes.
"""

import importlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from actors.ports.detector import DetectorError, Sight, UltralyticsDetector
from tests import needs
from tests.actors.ports.test_detector import write_model

ROWS = [[2.0, 4.0, 12.0, 20.0, 0.9, 0.0], [1.0, 1.0, 31.0, 9.0, 0.4, 1.0], [5.0, 5.0, 9.0, 9.0, 0.1, 0.0]]
"""x1, y1, x2, y2 in an input of 32 x 32, score, class; the last one is below the confidence."""
SIDE_PX = 32
FRAME = np.full((64, 64, 3), 90, np.uint8)


class Known(torch.nn.Module):
    """Answers the rows to every image."""

    answer: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        answer = torch.zeros(1, 300, 6)
        answer[0, : len(ROWS)] = torch.tensor(ROWS)
        self.register_buffer("answer", answer)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.answer + images.mean() * 0


FACTS = {
    "stride": 32,
    "task": "detect",
    "batch": 1,
    "imgsz": [SIDE_PX, SIDE_PX],
    "names": {0: "pit", 1: "burr"},
    "args": {"nms": True},
}
"""What Ultralytics' export writes beside the graph, where it looks for it."""


def write_script(path: Path) -> Path:
    graph = torch.jit.trace(Known(), torch.zeros(1, 3, SIDE_PX, SIDE_PX))
    graph.save(str(path), _extra_files={"config.txt": json.dumps(FACTS)})
    return path


def package(name: str) -> ModuleType:
    """A runtime that the development group brings."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        needs.missing(f"'{name}' is not installed: pip install {name}")


def write_openvino(folder: Path) -> None:
    """The graph of an ONNX file, converted."""
    openvino = package("openvino")
    openvino.save_model(openvino.convert_model(write_model(folder / "known.onnx", ROWS)), folder / "known.xml")


NCNN_GRAPH = """7767517
5 5
Input image 0 1 in0
Reduction mean 1 1 in0 mean 0=3 1=1 2=1.0
BinaryOp nothing 1 1 mean nothing 0=2 1=1 2=0.0
MemoryData known 0 1 known 0=6 1=300
BinaryOp answer 2 1 known nothing out0 0=0
"""
"""The same graph in NCNN's own text: the rows, and nothing of what the image shows. Its weights are the rows."""


def write_ncnn(folder: Path) -> None:
    package("ncnn")
    (folder / "model.ncnn.param").write_text(NCNN_GRAPH)
    answer = np.zeros((300, 6), np.float32)
    answer[: len(ROWS)] = ROWS
    (folder / "model.ncnn.bin").write_bytes(answer.tobytes())


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict[str, Sight]:
    folder: Path = tmp_path_factory.mktemp("formats")
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather have other formats, and says so at every call
        for path in (write_script(folder / "known.torchscript"), write_model(folder / "known.onnx", ROWS)):
            detector = UltralyticsDetector(path, 0.25, device="cpu", config_dir=folder)
            detector.load()
            assert detector.model_name == "known"
            assert detector.classes == ("pit", "burr")
            assert detector.device == "cpu"
            found[path.suffix] = detector.detect(FRAME)
    return found


@pytest.mark.parametrize(("name", "write"), [("openvino", write_openvino), ("ncnn", write_ncnn)])
def test_a_folder_of_another_runtime_gives_the_same_boxes_as_onnx(seen, tmp_path, name, write):
    folder = tmp_path / f"known_{name}_model"
    folder.mkdir()
    write(folder)
    (folder / "metadata.yaml").write_text(json.dumps(FACTS))  # an export writes YAML, of which JSON is a part
    detector = UltralyticsDetector(folder, 0.25, config_dir=tmp_path)
    detector.load()
    assert (detector.model_name, detector.classes, detector.device) == (folder.name, ("pit", "burr"), "cpu")
    told, expected = detector.detect(FRAME).detections, seen[".onnx"].detections
    assert [(found.class_name, found.bbox) for found in told] == [(one.class_name, one.bbox) for one in expected]
    assert [found.confidence for found in told] == pytest.approx([one.confidence for one in expected], abs=0.001)


@pytest.mark.parametrize("name", ["openvino", "ncnn"])
def test_a_format_whose_package_is_missing_is_refused_with_the_package(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    folder = tmp_path / f"known_{name}_model"
    folder.mkdir()
    for file in ("known.xml", "known.bin", "model.ncnn.param", "model.ncnn.bin"):
        (folder / file).touch()
    (folder / "metadata.yaml").write_text(json.dumps(FACTS))
    detector = UltralyticsDetector(folder, 0.25, config_dir=tmp_path)
    with pytest.raises(DetectorError, match=f"nothing is installed by itself: pip install {name}$"):
        detector.load()


def test_openvino_reports_nothing_home(tmp_path):
    """Its own package does at every import, from a process that it forks, and keeps a number of the user for that."""
    folder, home = tmp_path / "known_openvino_model", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    write_openvino(folder)
    (folder / "metadata.yaml").write_text(json.dumps(FACTS))
    program = f"""
import sys
sys.addaudithook(lambda event, args: event == "socket.getaddrinfo" and print("asked for", args[0], flush=True))
from actors.ports.detector import UltralyticsDetector
UltralyticsDetector({str(folder)!r}).load()
print("loaded")
"""
    # It keeps quiet in a build's machine, which is not what a device is.
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(home)}
    told = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=180, check=True
    )
    assert told.stdout.split("\n") == ["loaded", ""]
    assert not (home / "intel").exists()


def test_torchscript_and_onnx_give_the_same_boxes_in_pixels_of_the_frame(seen):
    told = [(found.class_name, found.confidence, found.bbox) for found in seen[".torchscript"].detections]
    assert told == [("pit", 0.9, (4.0, 8.0, 24.0, 40.0)), ("burr", 0.4, (2.0, 2.0, 62.0, 18.0))]
    assert seen[".onnx"].detections == seen[".torchscript"].detections
