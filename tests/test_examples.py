"""Every example does what it says, as a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.places import ROOT
from tests.test_app import PATIENCE_S, device, environment

pytestmark = pytest.mark.process

EXAMPLES = ROOT / "examples"
FRAMES = ROOT / "actors" / "assets" / "frames"


def run(name: str, *words: object, folder: Path) -> list[str]:
    """What the example printed; exit code 0 and nothing on stderr but the device's log."""
    env = environment(folder, DETECTOR="onnxruntime", SHUTDOWN_GRACE_SECONDS="2", PYTHONPATH=ROOT)
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, words)],
        cwd=folder,
        env={**env, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return [line for line in done.stdout.splitlines() if not line[:4].isdigit()]  # the log's lines begin with the year


def test_basic(tmp_path):
    lines = run("basic.py", FRAMES / "surface-01.jpg", FRAMES / "surface-02.jpg", folder=tmp_path)
    assert lines[0].startswith("image/surface-01.jpg: ")
    assert lines[0].endswith("accepted: True")
    assert lines[-1] == "0 delivered, 2 wait on disk for the next start"


def test_with_monitoring(tmp_path):
    lines = run("with_monitoring.py", 4, folder=tmp_path)
    assert len([line for line in lines if " frames (" in line and "pending" in line]) >= 3
    assert lines[-1] == "stopped"


def test_outage(tmp_path):
    lines = run("outage.py", folder=tmp_path)
    assert lines[0].startswith("the cloud is away: link ")
    assert lines[0].endswith(", 100 pending, 0 sent")
    assert "the cloud is back: link up, 0 pending, 100 sent" in lines
    assert lines[-1] == "all 100 are in the cloud, each once"


def test_own_detector(tmp_path):
    assert run("own_detector.py", folder=tmp_path)[-1] == "durable"


def test_own_source(tmp_path):
    assert run("own_source.py", folder=tmp_path)[-1] == "10 predictions are durable"


def test_several_cameras(tmp_path):
    video = tmp_path / "left.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for shade in range(7):
        writer.write(np.full((48, 64, 3), 30 * shade, np.uint8))
    writer.release()
    lines = run("several_cameras.py", f"left={video}", f"right={FRAMES}/surface-0[1-4].jpg", folder=tmp_path)
    assert lines[-2:] == ["left: 7 predictions", "right: 4 predictions"]


def test_asyncio_program(tmp_path):
    assert run("asyncio_program.py", folder=tmp_path)[-1] == f"20 durable, numbers {list(range(1, 21))}"


def test_http_door(tmp_path):
    with device(tmp_path, SOURCES="none") as running:
        url = running.wait_for("status_endpoint")["url"].removesuffix("/status")
        one, two, wrong = run("http_door.py", url, folder=tmp_path)
        assert running.stop()["accepted"] == 3
    assert one.startswith("201 {'stream_id'")
    assert two.startswith("201 {'receipts'")
    assert wrong.startswith("422 ")
    assert "inference_time_ms" in wrong


def test_every_example_is_tried_here():
    tried = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in EXAMPLES.glob("*.py")} <= tried
