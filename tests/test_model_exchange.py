"""SIGHUP to a real device process with another model file in place, while frames come: none is lost or judged twice."""

import hashlib
import shutil
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import onnx
import pytest

from actors.ports.detector import VERSION_CHARS, default_model_path
from actors.ports.frames import SAMPLE_FOLDER
from tests.test_app import PATIENCE_S, device

pytestmark = pytest.mark.process

BEFORE, DURING = 48, 48


def until(url: str, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The status, once it says so."""
    deadline = time.monotonic() + PATIENCE_S
    while not reached(status := httpx.get(url, timeout=PATIENCE_S).json()):
        assert time.monotonic() < deadline, status
        time.sleep(0.05)
    return dict(status)


def version(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:VERSION_CHARS]


def put(belt: Path, name: str, number: int) -> None:
    """As a careful camera does it: written under another name, then moved into place."""
    samples = sorted(SAMPLE_FOLDER.iterdir())
    half = belt / f"{name}.part"
    shutil.copy(samples[number % len(samples)], half)
    half.rename(belt / f"{name}.jpg")


def judged(buffer: Path) -> dict[str, list[str]]:
    """By which models each file was judged, as the buffer has it."""
    connection = sqlite3.connect(buffer)
    rows = connection.execute(
        "SELECT image_id, json_extract(prediction_data, '$.model_version') FROM prediction_buffer ORDER BY id"
    ).fetchall()
    connection.close()
    found: dict[str, list[str]] = {}
    for ident, by in rows:
        found.setdefault(ident.partition("@")[0].removeprefix("belt/").removesuffix(".jpg"), []).append(by)
    return found


def test_another_model_takes_over_on_sighup_and_every_frame_is_judged_once_by_the_one_or_the_other(tmp_path):
    belt, model = tmp_path / "belt", tmp_path / "model.onnx"
    belt.mkdir()
    shutil.copy(default_model_path(), model)
    first = version(model)
    changed = onnx.load(model)
    changed.doc_string = "the same weights in another file"
    fresh = tmp_path / "model.fresh"
    onnx.save(changed, fresh)
    second = version(fresh)
    for number in range(BEFORE):
        put(belt, f"before-{number:02d}", number)
    with device(tmp_path, SOURCES=f"belt={belt}", MODEL_PATH=model, DETECTOR="onnxruntime") as running:
        url = running.wait_for("status_endpoint")["url"]
        assert running.wait_for("model_loaded")["version"] == first
        until(url, lambda status: status["frames"] >= 1)
        fresh.replace(model)
        running.process.send_signal(signal.SIGHUP)
        for number in range(DURING):
            put(belt, f"during-{number:02d}", number)
        assert running.wait_for("model_loaded")["version"] == second
        put(belt, "late", 0)
        status = until(url, lambda status: status["frames"] == BEFORE + DURING + 1)
        assert status["model_version"] == second
        assert "model_not_exchanged" not in status["alerts"]
        assert running.stop()["accepted"] == BEFORE + DURING + 1
    found = judged(tmp_path / "device" / "buffer.db")
    names = [f"before-{number:02d}" for number in range(BEFORE)] + [f"during-{number:02d}" for number in range(DURING)]
    assert sorted(found) == sorted([*names, "late"])
    assert all(len(by) == 1 for by in found.values()), found
    tally = Counter(by for (by,) in found.values())
    assert set(tally) == {first, second}
    assert found["late"] == [second]
