"""Every example does what it says, as a process of its own."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from actors.ports.opening import NoBooks
from actors.ports.reading import open_reading
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


def durable(buffer: Path) -> int:
    """How many predictions are on the disk."""
    try:
        with open_reading(buffer) as view:
            return view.last_seq
    except NoBooks:
        return 0


def test_basic(tmp_path):
    lines = run("basic.py", FRAMES / "surface-01.jpg", FRAMES / "surface-02.jpg", folder=tmp_path)
    assert lines[0].startswith("image/surface-01.jpg: ")
    assert lines[0].endswith("accepted: True")
    assert lines[-1] == "0 delivered, 2 wait on disk for the next start"


def test_basic_names_an_image_that_it_cannot_read_and_goes_on_with_the_next(tmp_path):
    lines = run("basic.py", tmp_path / "none.jpg", FRAMES / "surface-01.jpg", folder=tmp_path)
    assert lines[0] == f"{tmp_path / 'none.jpg'}: No such file or directory"
    assert lines[-1] == "0 delivered, 1 wait on disk for the next start"


@pytest.mark.parametrize("name", ["basic.py", "several_cameras.py"])
def test_an_example_that_was_given_nothing_says_how_it_is_called(tmp_path, name):
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        env={**environment(tmp_path), "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert f"python examples/{name} " in done.stderr
    assert "Traceback" not in done.stderr


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


def test_several_cameras_until_ctrl_c(tmp_path):
    """A watched folder never ends: who stops it gets the counts, and no traceback."""
    folder = tmp_path / "spool"
    folder.mkdir()
    for number in (1, 2):
        shutil.copy(FRAMES / f"surface-0{number}.jpg", folder)
    env = environment(tmp_path, DETECTOR="onnxruntime", SHUTDOWN_GRACE_SECONDS="2", PYTHONPATH=ROOT)
    with subprocess.Popen(
        [sys.executable, EXAMPLES / "several_cameras.py", f"door={folder}"],
        cwd=tmp_path, env={**env, "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            began = time.monotonic()
            while (seen := durable(tmp_path / "device" / "buffer.db")) < 2:
                assert time.monotonic() - began < PATIENCE_S, seen
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            said, wrong = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert (process.returncode, said.splitlines()[-1]) == (0, "door: 2 predictions"), wrong
    assert "Traceback" not in f"{said}{wrong}"


def test_asyncio_program(tmp_path):
    assert run("asyncio_program.py", folder=tmp_path)[-1] == f"20 durable, numbers {list(range(1, 21))}"


def test_http_door(tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLES / "http_door.py", "http://127.0.0.1:9"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), "no device yet: a sentence"
    assert "no device answers" in done.stderr
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
