"""`kill -9` while a folder is being read: the next start neither skips an image nor takes one twice."""

import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
IMAGES = 400
KILLS = 6
SEED = 4711
PATIENCE_S = 60.0


def run_until(count: int, folder: Path, buffer: Path, *, then_wait_s: float = 0.0) -> int:
    """Run the device until its buffer has so many, then kill it; how many it has then."""
    command = [sys.executable, "-m", "tests.chaos.folder_process", str(folder), str(buffer)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    patience = threading.Timer(PATIENCE_S, process.kill)
    patience.start()
    try:
        seen = read_until(process, count)
        time.sleep(then_wait_s)
        return seen
    finally:
        patience.cancel()
        process.kill()
        process.communicate()


def read_until(process: "subprocess.Popen[str]", count: int) -> int:
    assert process.stdout is not None
    for line in process.stdout:
        word, _, number = line.partition(" ")
        if word == "seen" and int(number) >= count:
            return int(number)
    raise AssertionError("the process ended by itself, or took too long")


def test_a_folder_is_taken_exactly_once_however_often_the_device_is_killed(folder):
    rng = random.Random(SEED)
    belt, buffer = folder / "belt", folder / "state" / "buffer.db"
    belt.mkdir()
    for number in range(IMAGES):
        assert cv2.imwrite(str(belt / f"{number:04d}.png"), np.full((8, 8, 3), number % 256, np.uint8))
    seen = 0
    for _ in range(KILLS):
        seen = run_until(min(IMAGES, seen + rng.randrange(1, IMAGES // KILLS)), belt, buffer)
    run_until(IMAGES, belt, buffer, then_wait_s=1.5)  # one more look at the folder, which must find nothing
    run_until(IMAGES, belt, buffer)  # this start brings all of the journal into the buffer
    with sqlite3.connect(f"file:{buffer}?mode=ro", uri=True) as connection:
        rows = connection.execute("SELECT image_id FROM prediction_buffer").fetchall()
    connection.close()
    names = Counter(row[0].partition("@")[0] for row in rows)
    assert sorted(names) == [f"belt/{number:04d}.png" for number in range(IMAGES)], f"seed {SEED}: skipped"
    assert max(names.values()) == 1, f"seed {SEED}: taken twice: {[name for name, n in names.items() if n > 1]}"
