"""`doctor`: each thing that can be wrong is found, said with its remedy, and shown in the exit code."""

import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import Response
from quart_trio import QuartTrio

from actors.commands import checks_cloud, checks_vision, doctor
from actors.commands.checks import Begun, Check, Step, Verdict, ok
from actors.commands.checks_cloud import EARLIEST, contract, key, skew, why
from actors.commands.checks_disk import permissions
from actors.commands.doctor import FIRST_S, REMIND_S, how_it_runs
from actors.ports.client import CloudAnswer
from actors.ports.detector import DetectorError
from actors.settings import Settings
from cloud.wire import WIRE_VERSION
from tests.actors.commands.test_watch import found
from tests.commands_world import Shell, make_buffer
from tests.world import Scratched

DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
AT = 1_700_000_000.0


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    home = tmp_path / "d"
    home.mkdir(mode=0o700)
    monkeypatch.chdir(home)
    monkeypatch.setattr("actors.fitting.detector", lambda _: Scratched())
    return Shell(home, {"CLOUD_LOGGING_ENABLED": "false"})


def checks(shell: Shell, *, code: int = 0) -> dict[str, dict[str, Any]]:
    done = shell.run("doctor", "--json")
    assert done.exit_code == code, done.output
    return {check["name"]: check for check in json.loads(done.stdout)}


def test_a_sound_device_passes_and_each_line_says_what_was_seen(shell):
    make_buffer(shell.db_path, 3)
    found = checks(shell)
    assert {name: check["verdict"] for name, check in found.items()} == {
        "settings": "ok",
        "folder": "ok",
        "permissions": "ok",
        "room": "ok",
        "sync": "ok",
        "buffer": "ok",
        "cloud": "warn",
        "status port": "ok",
        "model": "ok",
        "source samples": "ok",
    }
    assert found["buffer"]["seen"] == "3 pending, 0 quarantined"
    assert "gives frames of" in found["source samples"]["seen"]
    said = shell.said("doctor")
    assert "checks: 0 failed, 1 to look at" in said
    assert "-> set it to true to deliver" in said
    assert not list(shell.folder.glob(".holdfast-doctor*"))


def test_wrong_settings_are_lines_too(shell):
    shell.settings["BATCH_SIZE"] = 0
    found = checks(shell, code=1)
    assert found.keys() == {"settings"}
    assert "BATCH_SIZE" in found["settings"]["seen"]
    assert shell.run("doctor").stdout.endswith("\n1 check: 1 failed, 0 to look at\n")


def test_what_is_wrong_is_found_and_the_rest_is_checked_too(shell, monkeypatch):
    def no_model(_: object) -> None:
        raise DetectorError("MODEL_PATH /none.onnx: no such file")

    monkeypatch.setattr("actors.fitting.detector", no_model)
    (shell.folder / "buffer.db").write_bytes(b"no database" * 1000)
    shell.folder.chmod(0o755)
    shell.settings |= {"BUFFER_MAX_SIZE_MB": 16_000_000, "SOURCES": f"front=/dev/video77,{shell.folder}/none.mp4"}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        shell.settings["STATUS_BIND"] = f"127.0.0.1:{taken.getsockname()[1]}"
        found = checks(shell, code=1)
    verdicts = {name: check["verdict"] for name, check in found.items()}
    assert verdicts["permissions"] == verdicts["room"] == verdicts["status port"] == "warn"
    assert verdicts["buffer"] == verdicts["model"] == verdicts["source front"] == verdicts["source none"] == "fail"
    assert found["buffer"]["remedy"] == "app.py buffer repair"
    assert "Address already in use" in found["status port"]["seen"]


def test_nobody_at_the_clouds_address_is_told_in_words(shell):
    shell.settings |= {"CLOUD_LOGGING_ENABLED": "true", "SOURCES": "none"}
    found = checks(shell, code=1)
    assert found["connection"]["seen"] == "127.0.0.1:9: Connection refused"


def test_a_source_that_hangs_is_given_up(monkeypatch):
    class Hanging:
        name = "front"

        def open(self) -> None:
            trio.from_thread.run(trio.sleep_forever)

        def close(self) -> None:
            pass

    monkeypatch.setattr(checks_vision, "SOURCE_S", 0.05)
    check = trio.run(checks_vision.look, Hanging())  # type: ignore[arg-type]
    assert check.verdict is Verdict.FAIL
    assert "no frame within" in check.seen


# --- the cloud


async def ask(answer: int, *, ours: bool = True) -> list[tuple[str, str]]:
    app = QuartTrio("cloud")

    @app.route("/health")
    async def health() -> Response:
        return Response("{}", 200, {"Holdfast-Wire": str(WIRE_VERSION)} if ours else {})

    @app.route("/devices/<name>/audit")
    async def audit(name: str) -> Response:
        return Response("{}", answer, {"Holdfast-Wire": str(WIRE_VERSION)})

    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.graceful_timeout = 0.1
    async with trio.open_nursery() as nursery:
        stop = trio.Event()
        urls = await nursery.start(partial(serve, app, config, shutdown_trigger=stop.wait))
        asked = Settings(cloud_logging_endpoint=f"{urls[0]}/log")
        found = [(check.name, check.verdict.value) async for check in checks_cloud.cloud(asked, False)]
        stop.set()
    return found


@pytest.mark.parametrize(("answer", "verdict"), [(404, "ok"), (200, "ok"), (401, "fail"), (403, "fail"), (500, "warn")])
async def test_the_key_is_tried_in_a_request_that_changes_nothing(answer, verdict):
    assert await ask(answer) == [
        ("name", "ok"),
        ("connection", "ok"),
        ("tls", "warn"),
        ("cloud", "ok"),
        ("clock", "ok"),
        ("key", verdict),
    ]


async def test_a_stranger_is_not_shown_the_key_and_says_nothing_of_key_and_clock():
    assert (await ask(200, ours=False))[2:] == [("tls", "warn"), ("cloud", "fail")]


def test_a_refused_key_is_told_in_the_clouds_own_words():
    said = b'{"title": "refused", "status": 403, "detail": "this key speaks for \'hall-1\' alone"}'
    answer = CloudAnswer(403, {"holdfast-wire": "1", "content-type": "application/problem+json"}, said)
    check = key(answer, given=True)
    assert (check.verdict, check.seen) == (Verdict.FAIL, "refused, 403: this key speaks for 'hall-1' alone")
    assert key(answer, given=False).seen == "none is set, and the cloud wants one"


@pytest.mark.parametrize(
    ("status", "wire", "verdict", "word"),
    [
        (200, str(WIRE_VERSION), Verdict.OK, "as we do"),
        (200, str(WIRE_VERSION + 1), Verdict.FAIL, "update this device"),
        (200, "0", Verdict.FAIL, "update the cloud"),
        (200, None, Verdict.FAIL, "not from our cloud"),
        (503, str(WIRE_VERSION), Verdict.FAIL, "answers 503"),
    ],
)
def test_the_contract_is_compared(status, wire, verdict, word):
    found = contract(CloudAnswer(status, {"holdfast-wire": wire} if wire else {}, b""), "http://x/log")
    assert found.verdict is verdict
    assert word in found.seen + found.remedy


@pytest.mark.parametrize(
    ("now", "verdict", "word"),
    [
        (AT + 59, Verdict.OK, "as the cloud's"),
        (AT + 3_700, Verdict.WARN, "1 h 1 min ahead of"),
        (AT - 90, Verdict.WARN, "1 min 30 s behind"),
    ],
)
def test_the_clock_is_held_against_the_clouds(now, verdict, word):
    found = skew(DATE, now)
    assert (found.verdict, word in found.seen) == (verdict, True)


def test_what_can_not_be_read_is_no_clock():
    assert skew("yesterday", AT).verdict is Verdict.WARN


def test_a_clock_that_was_never_set_is_found(shell, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: EARLIEST - 1)
    assert checks(shell, code=1)["clock"]["verdict"] == "fail"


def test_errors_have_words():
    assert why(OSError(111, "Connection refused")) == "Connection refused"
    assert why(trio.TooSlowError()) == "no answer within 10 s"


def test_permissions_name_the_remedy(tmp_path):
    tmp_path.chmod(0o750)
    assert permissions(tmp_path).remedy == f"chmod 700 {tmp_path}"
    tmp_path.chmod(0o700)
    assert permissions(tmp_path).verdict is Verdict.OK


# --- a device that runs


def test_what_a_running_device_finds_wrong_itself_is_in_the_list():
    fine = found(ready=True, unready=[])
    assert list(how_it_runs(fine)) == [ok("device", "runs, and is ready")]
    full = "buffer full: 15.2 of 16 MiB"
    alert = {"disk_trouble": {"detail": full, "for_s": 3.0}}
    checks = list(how_it_runs(found(unready=[f"the disk refuses: {full}"], alert_details=alert)))
    assert [(check.name, check.verdict.value, check.seen) for check in checks] == [
        ("device", "warn", f"runs, but is not ready: the disk refuses: {full}"),
        ("disk_trouble", "warn", full),
    ]
    assert all("docs/operations.md" in check.remedy for check in checks)


# --- whatever hangs


def hangs(name: str, *, told: bool) -> Callable[[Settings, bool], AsyncIterator[Step]]:
    async def group(_: Settings, __: bool) -> AsyncIterator[Step]:
        yield ok(f"{name} 1", "went well")
        if told:
            yield Begun(f"{name} 2", 90.0)
        await trio.sleep_forever()

    return group


async def test_it_ends_within_four_minutes_whatever_hangs_and_says_on_what_it_waits(monkeypatch, autojump_clock):
    groups = [(name, hangs(name, told=name == "vision"), limit_s) for name, _, limit_s in doctor.GROUPS]
    monkeypatch.setattr(doctor, "GROUPS", groups)
    monkeypatch.setattr(doctor, "read", lambda *_: Settings())
    inline: list[Callable[[], object]] = []

    async def run_sync(work: Callable[[], object], *, abandon_on_cancel: bool) -> object:
        assert abandon_on_cancel
        inline.append(work)
        if len(inline) == 1:
            await trio.sleep(FIRST_S - 1)
            return work()
        return await trio.sleep_forever()

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    found: list[Check] = []
    reminded: list[tuple[float, str]] = []
    began = trio.current_time()
    await doctor.examine(
        None, {}, found.append, lambda sentence: reminded.append((trio.current_time() - began, sentence))
    )
    assert trio.current_time() - began == 9 + 10 + 20 + 50 + 150 < 4 * 60
    assert [(check.name, check.verdict.value) for check in found] == [
        ("settings", "ok"),
        ("device", "fail"),
        ("disk 1", "ok"),
        ("disk", "fail"),
        ("cloud 1", "ok"),
        ("cloud", "fail"),
        ("vision 1", "ok"),
        ("vision 2", "fail"),
    ]
    assert reminded[0] == (5.0, "      settings: for 5 s now; given up after 10 s")
    assert (19 + 15, "      disk: for 15 s now; given up after 20 s") in reminded
    assert (19 + 70 + 85, "      vision 2: for 85 s now; given up after 90 s") in reminded
    waits = [later - earlier for (earlier, _), (later, _) in pairwise(reminded)]
    assert max(waits) <= 2 * REMIND_S


async def test_settings_that_hang_are_told_too(monkeypatch, autojump_clock):
    async def run_sync(*_: object, **__: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    found: list[Check] = []
    await doctor.examine(None, {}, found.append, lambda _: None)
    assert [check.seen for check in found] == ["not read within 10 s: does their disk hang?"]


def test_what_is_said_meanwhile_is_said_on_stderr(shell, monkeypatch):
    """Stdout stays what a program can read."""
    heard = threading.Event()
    echo = click.echo

    def hear(text: str, *, err: bool = False) -> None:
        echo(text, err=err)
        if err and "model: for" in text:
            heard.set()

    def slow_detector(_: object) -> Scratched:
        assert heard.wait(60)
        return Scratched()

    monkeypatch.setattr(doctor, "REMIND_S", 0.01)
    monkeypatch.setattr("actors.fitting.detector", slow_detector)
    monkeypatch.setattr("click.echo", hear)
    done = shell.run("doctor", "--json")
    assert "s now; given up after 90 s" in done.stderr
    assert json.loads(done.stdout)
