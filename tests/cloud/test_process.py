"""`python -m cloud` as a process: what it acknowledged outlives it."""

import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from cloud.__main__ import KEEP_ALIVE_S
from tests.cloud.world import envelope, payload

pytestmark = pytest.mark.process


@contextmanager
def cloud(database, start: tuple[str, ...] = ("-m", "cloud")) -> Iterator[tuple[Any, str]]:
    command = [sys.executable, *start, "--bind", "127.0.0.1:0", "--database", str(database)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        process: Any = started
        try:
            line = process.stdout.readline()
            found = re.match(
                r"holdfast cloud on (http://127\.0\.0\.1:\d+) \(database .*, no keys: loopback only\)$", line
            )
            assert found, line + process.stderr.read()
            assert process.stdout.readline() == f"the fleet's page: {found[1]}/\n"
            yield process, found[1]
        finally:
            process.kill()


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, -9)])
def test_what_was_acknowledged_is_there_after_a_restart(tmp_path, how, code):
    database = tmp_path / "cloud.db"
    with cloud(database) as (process, url), httpx.Client(base_url=url) as client:
        assert client.post("/log", content=envelope(payload(1), payload(2))).json()["accepted"] == 2
        # The client's connection stays open; that it holds up nothing is timed exactly in test_stopping.py.
        process.send_signal(how)
        assert process.wait(timeout=60) == code
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


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_in_the_middle_of_the_load_loses_nothing_that_was_acknowledged(tmp_path, how):
    database = tmp_path / "cloud.db"
    acknowledged: list[int] = []
    loaded = threading.Event()

    def load(url: str, first: int) -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            for start in range(first, first + 10**6, 10):
                seqs = range(start, start + 10)
                try:
                    answer = client.post("/log", content=envelope(*map(payload, seqs)))
                except httpx.TransportError:
                    return
                if answer.status_code != 200:
                    assert answer.status_code == 503
                    continue
                acknowledged.extend(seqs)
                if len(acknowledged) > 300:
                    loaded.set()

    with cloud(database) as (process, url):
        threads = [threading.Thread(target=load, args=(url, n * 10**7 + 1)) for n in range(4)]
        for thread in threads:
            thread.start()
        assert loaded.wait(timeout=60)
        process.send_signal(how)
        assert process.wait(timeout=30) == 0
        for thread in threads:
            thread.join(timeout=30)
            assert not thread.is_alive()
    with contextlib.closing(sqlite3.connect(database)) as db:
        stored = {seq for (seq,) in db.execute("SELECT seq FROM predictions")}
    assert len(acknowledged) > 300
    assert set(acknowledged) <= stored


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux: it counts another process's sockets")
def test_a_connection_that_its_client_has_closed_keeps_no_file_handle(tmp_path):
    """When exactly it ends is timed in tests/test_hosting.py; this is the operating system's own account."""

    def sockets_of(process) -> int:
        found = 0
        for handle in Path(f"/proc/{process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # Closed since it was listed.
                found += handle.readlink().name.startswith("socket:")
        return found

    with cloud(tmp_path / "cloud.db") as (process, url):
        before = sockets_of(process)
        for _ in range(20):
            with httpx.Client(base_url=url, timeout=60) as client:
                assert client.get("/stats").status_code == 200
        give_up_at = time.monotonic() + KEEP_ALIVE_S - 15
        while sockets_of(process) > before:
            assert time.monotonic() < give_up_at, "kept until the idle timer ends"
            time.sleep(0.05)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs Linux: it cuts off who takes nothing")
def test_a_client_that_never_reads_its_export_is_cut_off_and_holds_up_no_stop(tmp_path):
    hasty = "import cloud.__main__ as service; service.STALLED_S_MAX = 2; service.main()"
    with cloud(tmp_path / "cloud.db", ("-c", hasty)) as (process, url):
        with httpx.Client(base_url=url, timeout=60) as client:
            pad = "x" * 200_000
            for start in range(1, 81, 20):
                body = envelope(*(payload(n, pad=pad) for n in range(start, start + 20)))
                assert client.post("/log", content=body).status_code == 200
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as stalled:
            stalled.sendall(b"GET /predictions?format=jsonl HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert stalled.recv(12, socket.MSG_PEEK | socket.MSG_WAITALL) == b"HTTP/1.1 200"
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0


def test_hypercorn_hosts_it_with_the_configuration_of_the_docs(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "cloud.md").read_text(encoding="utf-8")
    found = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert found
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "hypercorn.toml"
    config.write_text(found[1].replace(":8001", f":{port}"))
    command = [sys.executable, "-m", "hypercorn", "-c", str(config), "cloud.service:create_app()"]
    database = tmp_path / "cloud.db"
    env = os.environ | {"CLOUD_DATABASE_URL": str(database)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
                wait_until_ready(client, process)
                assert client.post("/log", content=envelope(payload(1))).json()["accepted"] == 1
                assert "server" not in client.get("/health").headers
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
            assert process.stderr is not None
            said = process.stderr.read()
        finally:
            process.kill()
    assert '"event": "request"' in said
    assert "Traceback" not in said
    with contextlib.closing(sqlite3.connect(database)) as db:
        assert db.execute("SELECT count(*) FROM predictions").fetchone() == (1,)


def wait_until_ready(client: httpx.Client, process) -> None:
    for _ in range(600):
        assert process.poll() is None
        with contextlib.suppress(httpx.TransportError):
            if client.get("/ready").status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError("not ready within a minute")
