"""TorchScript files and OpenVINO folders are models like an ONNX file: the same known answer comes back as the same
boxes.
"""

import importlib
import json
import sys
import warnings
from pathlib import Path

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


def write_openvino(graph: Path, folder: Path) -> Path:
    """An ONNX file's graph as the folder that an OpenVINO export makes. Its facts are YAML, of which JSON is a part."""
    try:
        openvino = importlib.import_module("openvino")
    except ModuleNotFoundError:
        needs.missing("'openvino' is not installed: pip install openvino")
    folder.mkdir()
    openvino.save_model(openvino.convert_model(graph), folder / "known.xml")
    (folder / "metadata.yaml").write_text(json.dumps(FACTS))
    return folder


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict[str, Sight]:
    folder: Path = tmp_path_factory.mktemp("formats")
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather have other formats, and says so at every call
        for path in (write_script(folder / "known.torchscript"), write_model(folder / "known.onnx", ROWS)):
            detector = UltralyticsDetector(path, 0.25, config_dir=folder)
            detector.load()
            assert detector.model_name == "known"
            assert detector.classes == ("pit", "burr")
            assert detector.device == "cpu"
            found[path.suffix] = detector.detect(FRAME)
    return found


def test_openvino_gives_the_same_boxes_as_onnx(seen, tmp_path):
    graph = write_model(tmp_path / "known.onnx", ROWS)
    folder = write_openvino(graph, tmp_path / "known_openvino_model")
    detector = UltralyticsDetector(folder, 0.25, config_dir=tmp_path)
    detector.load()
    assert (detector.model_name, detector.classes, detector.device) == ("known_openvino_model", ("pit", "burr"), "cpu")
    told, expected = detector.detect(FRAME).detections, seen[".onnx"].detections
    assert [(found.class_name, found.bbox) for found in told] == [(one.class_name, one.bbox) for one in expected]
    assert [found.confidence for found in told] == pytest.approx([one.confidence for one in expected], abs=0.001)


@pytest.mark.parametrize("package", ["openvino", "ncnn"])
def test_a_format_whose_package_is_missing_is_refused_with_the_package(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    folder = tmp_path / f"known_{package}_model"
    folder.mkdir()
    for name in ("known.xml", "known.bin", "model.ncnn.param", "model.ncnn.bin"):
        (folder / name).touch()
    (folder / "metadata.yaml").write_text(json.dumps(FACTS))
    detector = UltralyticsDetector(folder, 0.25, config_dir=tmp_path)
    with pytest.raises(DetectorError, match=f"nothing is installed by itself: pip install {package}$"):
        detector.load()


def test_torchscript_and_onnx_give_the_same_boxes_in_pixels_of_the_frame(seen):
    told = [(found.class_name, found.confidence, found.bbox) for found in seen[".torchscript"].detections]
    assert told == [("pit", 0.9, (4.0, 8.0, 24.0, 40.0)), ("burr", 0.4, (2.0, 2.0, 62.0, 18.0))]
    assert seen[".onnx"].detections == seen[".torchscript"].detections
