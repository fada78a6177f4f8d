"""`python -m cloud` as a process: what it acknowledged outlives it."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.cloud.world import envelope, payload

pytestmark = pytest.mark.process


@contextmanager
def cloud(database) -> Iterator[tuple[Any, str]]:
    command = [sys.executable, "-m", "cloud", "--bind", "127.0.0.1:0", "--database", str(database)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        process: Any = started
        try:
            line = process.stdout.readline()
            found = re.match(
                r"holdfast cloud on (http://127\.0\.0\.1:\d+) \(database .*, no keys: loopback only\)$", line
            )
            assert found, line + process.stderr.read()
            yield process, found[1]
        finally:
            process.kill()


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, -9)])
def test_what_was_acknowledged_is_there_after_a_restart(tmp_path, how, code):
    database = tmp_path / "cloud.db"
    with cloud(database) as (process, url), httpx.Client(base_url=url) as client:
        assert client.post("/log", content=envelope(payload(1), payload(2))).json()["accepted"] == 2
        # The client's connection stays open: an idle device must not hold up a stop.
        began = time.monotonic()
        process.send_signal(how)
        assert process.wait(timeout=20) == code
        assert time.monotonic() - began < 4
        logged = [json.loads(line) for line in process.stderr.read().splitlines()]
        # A kill may come between the answer and its line.
        expected = [("request", 200)] if logged or how != signal.SIGKILL else []
        assert [(line["event"], line["status"]) for line in logged] == expected
    with cloud(database) as (process, url), httpx.Client(base_url=url) as client:
        assert client.get("/devices/cam/audit").json()["stored"] == 2
        assert client.post("/log", content=envelope(payload(2), payload(3))).json()["duplicates"] == 1


def test_what_can_not_start_says_why_without_a_traceback(tmp_path):
    def run(*args):
        done = subprocess.run(
            [sys.executable, "-m", "cloud", *args], check=False, capture_output=True, text=True, timeout=30
        )
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        return done.returncode, done.stderr

    assert run("--bind", "0.0.0.0:0")[0] == 2
    folder = tmp_path / "folder"
    folder.mkdir()
    code, said = run("--bind", "127.0.0.1:0", "--database", str(folder))
    assert code == 1
    assert str(folder) in said
    with cloud(tmp_path / "one.db") as (_, url):
        code, said = run("--bind", url.removeprefix("http://"), "--database", str(tmp_path / "two.db"))
    assert code == 1
    assert "in use" in said
