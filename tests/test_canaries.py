"""Secrets stay secret: real programs get canaries and fail in each way; no canary is in anything that they say.

What a secret is: a key, an address of a webhook (it often is its own key), what stands before the `@` or in a query
that is named like one, a private key, a database's password. The names of files are none.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trustme

from tests.commands_world import Shell
from tests.places import ROOT
from tests.test_app import APP, PATIENCE_S, Device, device, environment

pytestmark = pytest.mark.process

KEY, WEBHOOK_PATH, WEBHOOK_TOKEN, CLOUD_TOKEN, CAMERA, DATABASE = (
    f"canary-{name}-8d1f27" for name in ("key", "path", "token", "query", "camera", "database")
)
CANARIES = (KEY, WEBHOOK_PATH, WEBHOOK_TOKEN, CLOUD_TOKEN, CAMERA, DATABASE)
COMMANDS = ("doctor", "status", "audit")
STORED = '{"accepted": 1, "duplicates": 0, "conflicts": 0, "rejected": []}'
PAGES = ("/", "/status", "/metrics", "/ready", "/health")


@attrs.define
class Echo:
    """A server that answers every request so, and repeats in its answer all that it was sent."""

    status: int
    url: str = ""
    heard: list[str] = attrs.Factory(list)

    def must_hear(self, *words: str) -> None:
        """What is never told was in use: a request had it. Not where requests don't get so far."""
        began = time.monotonic()
        while not (any(all(word in said for word in words) for said in self.heard) or self.url.startswith("https")):
            assert time.monotonic() - began < PATIENCE_S, self.heard
            time.sleep(0.05)


@contextmanager
def echoing(status: int) -> Iterator[Echo]:
    echo = Echo(status)

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            said = f"{self.path} {self.headers.get('Authorization')}"
            echo.heard.append(said)
            echo.heard.append(body.decode("latin-1"))
            self.send_response(status, said)
            stored = status == 200 and self.command == "POST"
            said = STORED if stored else said
            for name in ("X-Said", "Location"):
                self.send_header(name, said)
            self.send_header("Content-Type", "application/json" if stored else said)
            self.send_header("Holdfast-Wire", "1")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(said.encode())

        do_HEAD = do_GET = do_POST = answer  # noqa: N815 - the library's names

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        echo.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield echo
        server.shutdown()


def found_in(said: str, *more: str) -> list[str]:
    return [canary for canary in (*CANARIES, *more) if canary in said]


@pytest.fixture
def shell(folder: Path) -> Shell:
    return Shell(folder)


# --- the device


def nowhere(_: ExitStack) -> Echo:
    return Echo(0, "https://nowhere.invalid")


def answering(status: int) -> Any:
    return lambda stack: stack.enter_context(echoing(status))


def not_tls(stack: ExitStack) -> Echo:
    """Asked for TLS, it speaks none."""
    echo: Echo = stack.enter_context(echoing(200))
    echo.url = echo.url.replace("http:", "https:")
    return echo


WORLDS = {
    "stored, heard": (answering(200), answering(204), "environment"),
    "refused, webhook ill": (answering(401), answering(500), "file"),
    "somebody else answers, webhook gone": (answering(302), answering(404), "environment"),
    "no such name": (nowhere, nowhere, "file"),
    "no TLS there": (not_tls, not_tls, "environment"),
}
"""What the cloud does, what the webhook does, and how the secrets are given."""


def client_certificate(folder: Path) -> tuple[dict[str, Path], str]:
    """Settings that show a certificate, and a line of the private key."""
    certificate = trustme.CA().issue_cert("device.test")
    files = {"CLOUD_TLS_CERT_FILE": folder / "cert.pem", "CLOUD_TLS_KEY_FILE": folder / "key.pem"}
    certificate.cert_chain_pems[0].write_to_path(str(files["CLOUD_TLS_CERT_FILE"]))
    certificate.private_key_pem.write_to_path(str(files["CLOUD_TLS_KEY_FILE"]))
    return files, certificate.private_key_pem.bytes().decode().splitlines()[1]


def until(running: Device, event: str) -> None:
    """Until it was logged; perhaps it was already."""
    if not any(one["event"] == event for one in running.events):
        running.wait_for(event)


def wait_for_an_outcome(url: str) -> None:
    """Until the device knows what became of its request."""
    began = time.monotonic()
    while not ((status := httpx.get(url, timeout=PATIENCE_S).json())["sent"] or status["failed"] or status["last_error"]
               or status["link"]["reason"]):  # fmt: skip
        assert time.monotonic() - began < PATIENCE_S, status
        time.sleep(0.1)


def ask(folder: Path, words: str, settings: dict[str, object]) -> str:
    """All that a command says of a device with these settings."""
    done = subprocess.run(
        [sys.executable, APP, *words.split()],
        cwd=folder, env=environment(folder, **settings), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return f"{done.stdout}{done.stderr}"


@pytest.mark.parametrize("world", WORLDS)
def test_a_device_says_no_secret_whatever_becomes_of_its_requests(folder, world):
    *servers, given = WORLDS[world]
    with ExitStack() as stack:
        cloud, hook = (make(stack) for make in servers)
        tls, private = client_certificate(folder)
        secrets = {
            "CLOUD_LOGGING_API_KEY": KEY,
            "ALERT_WEBHOOK_URL": f"{hook.url}/{WEBHOOK_PATH}?token={WEBHOOK_TOKEN}",
        }
        if given == "file":
            for name, value in list(secrets.items()):
                (folder / name).write_text(f"{value}\n")
                secrets[f"{name}_FILE"] = str(folder / name)
                del secrets[name]
        settings: dict[str, object] = {
            **tls, **secrets,
            "CLOUD_LOGGING_ENDPOINT": f"{cloud.url}/log?token={CLOUD_TOKEN}",
            "SOURCES": f"dock=rtsp://me:{CAMERA}@127.0.0.1:9/live?password={CAMERA}",
            "DETECTOR": "onnxruntime", "LOG_LEVEL": "debug", "BATCH_TIMEOUT_SECONDS": 0.1, "TIMEOUT_SECONDS": 20,
        }  # fmt: skip
        running = stack.enter_context(device(folder, **settings))
        url = running.wait_for("status_endpoint")["url"].removesuffix("/status")
        one = {"image_id": "a", "timestamp": 1.0, "model_name": "m", "model_version": "1", "inference_time_ms": 1.0,
               "detections": [], "defect_detected": False, "confidence_scores": []}  # fmt: skip
        assert httpx.post(f"{url}/predictions", json=one, timeout=PATIENCE_S).status_code == 201
        until(running, "alert_not_heard" if hook.status != 204 else "alert")
        hook.must_hear(WEBHOOK_PATH, WEBHOOK_TOKEN)
        wait_for_an_outcome(f"{url}/status")
        told = [httpx.get(f"{url}{page}", timeout=PATIENCE_S).text for page in PAGES]
        with ThreadPoolExecutor(2) as pool:
            told += pool.map(lambda words: ask(folder, words, settings), COMMANDS)
        running.process.send_signal(signal.SIGHUP)
        running.wait_for("settings_reread")
        running.stop()
        told.append(json.dumps(running.events))
        cloud.must_hear(f"Bearer {KEY}")
        assert not {*found_in("".join(hook.heard), private)} - {WEBHOOK_PATH, WEBHOOK_TOKEN}
    for said in told:
        assert not found_in(said, private), said


MISTAKES: dict[str, tuple[dict[str, str], str]] = {
    "none at all": (
        {
            "CLOUD_LOGGING_API_KEY": KEY,
            "ALERT_WEBHOOK_URL": f"https://h.test/{WEBHOOK_PATH}?token={WEBHOOK_TOKEN}",
            "CLOUD_LOGGING_ENDPOINT": f"http://127.0.0.1:9/log?token={CLOUD_TOKEN}",
            "SOURCES": f"dock=rtsp://me:{CAMERA}@127.0.0.1:9/live?password={CAMERA}",
        },
        "",
    ),
    "a password in the endpoint": ({"CLOUD_LOGGING_ENDPOINT": f"http://me:{CLOUD_TOKEN}@h.test/log"}, ""),
    "a key that no header carries": ({"API_KEY": f"{KEY} and more"}, ""),
    "a webhook that is no address": ({"ALERT_WEBHOOK_URL": f"ftp://h.test/{WEBHOOK_PATH}"}, ""),
    "a key's name misspelt": ({"CLOUD_LOGGIN_API_KEY": KEY}, ""),
    "a key in TOML, misspelt": ({}, f'cloud_loging_api_key = "{KEY}"'),
    "a key in TOML, without its quotes": ({}, f"cloud_logging_api_key = {KEY}"),
    "a key in TOML, of no type that we take": ({}, f'cloud_logging_api_key = ["{KEY}"]'),
    "a webhook in TOML that is no address": ({}, f'alert_webhook_url = "{WEBHOOK_PATH}"'),
    "files that hold something else": (
        {
            "CLOUD_LOGGING_API_KEY_FILE": "{canaries}",
            "ALERT_WEBHOOK_URL_FILE": "{canaries}",
            "CLOUD_TLS_CERT_FILE": "{canaries}",
            "CLOUD_TLS_KEY_FILE": "{canaries}",
            "CLOUD_TLS_CA_FILE": "{canaries}",
        },
        "",
    ),
}


STARTS = ("none at all", "a key's name misspelt")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_command_repeats_no_secret_of_a_setting(shell, folder, monkeypatch, mistake):
    given, toml = MISTAKES[mistake]
    (folder / "canaries").write_text("\n".join(CANARIES))
    (folder / "holdfast.toml").write_text(toml)
    monkeypatch.chdir(folder)
    shell.settings = {name: value.format(canaries=folder / "canaries") for name, value in given.items()}
    codes = {}
    for words in ("config", "config --json", "status") if mistake in STARTS else ("config", "doctor", "run", "audit"):
        done = shell.run(*words.split())
        assert not found_in(done.output), words
        codes[words] = done.exit_code
    assert (0 in codes.values()) is (mistake in STARTS), codes


# --- the cloud


DATABASES = {
    "nobody there": f"postgresql://me:{DATABASE}@127.0.0.1:9/ledger",
    "no such name": f"postgresql://me:{DATABASE}@nowhere.invalid/ledger",
    "a password that libpq reads in the query": f"postgresql://127.0.0.1:9/ledger?user=me&password={DATABASE}",
    "an address that can't be read": f"postgresql://me:{DATABASE}@[::1/ledger",
    "a password with signs that cut an address": f"postgresql://me:a/b@{DATABASE}?#@127.0.0.1:9/ledger",
    "another server's": f"mysql://me:{DATABASE}@127.0.0.1/ledger",
    "libpq's other form": f"host=127.0.0.1 port=9 user=me password={DATABASE}",
}


IMPATIENT = "import cloud.ledger.postgres as p; p.START_S_MAX = 0; from cloud.__main__ import main; main()"
"""`python -m cloud`, which would ask a server that is not there again for half a minute."""


@pytest.mark.parametrize("database", DATABASES)
def test_the_cloud_tells_what_is_wrong_with_its_database_and_no_password(tmp_path, database):
    file = tmp_path / "url"
    file.write_text(DATABASES[database])
    by_file = list(DATABASES).index(database) % 2
    own = {"CLOUD_DATABASE_URL_FILE": str(file)} if by_file else {"CLOUD_DATABASE_URL": DATABASES[database]}
    env = {"PATH": os.defpath, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "CLOUD_API_KEYS": KEY, **own}
    done = subprocess.run(
        [sys.executable, "-c", IMPATIENT, "--bind", "127.0.0.1:0"],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode in (1, 2), done.stderr
    assert done.stderr
    assert not found_in(f"{done.stdout}{done.stderr}")
    assert list(tmp_path.iterdir()) == [file], "no file has such a name"


def test_a_cloud_at_work_says_neither_its_keys_nor_those_it_does_not_know(tmp_path):
    env = {"PATH": os.defpath, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "CLOUD_API_KEYS": KEY}
    command = [sys.executable, "-m", "cloud", "--bind", "127.0.0.1:0", "--database", str(tmp_path / "cloud.db")]
    with subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[3]
            told = []
            for key, status in ((KEY, 200), (WEBHOOK_TOKEN, 401)):
                for path in ("/", "/stats", "/devices", "/predictions", "/metrics", f"/stats?token={CLOUD_TOKEN}"):
                    answer = httpx.get(f"{url}{path}", headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE_S)
                    assert answer.status_code in (status, 400, 403), path
                    told.append(f"{answer.headers}{answer.text}")
                    answer = httpx.get(f"{url}{path}", auth=("me", key), timeout=PATIENCE_S)
                    told.append(f"{answer.headers}{answer.text}")
            process.send_signal(signal.SIGTERM)
            told += process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert [found for said in told for found in found_in(said)] == []
