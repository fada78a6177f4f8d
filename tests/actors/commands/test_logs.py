"""Logs: JSON where nobody looks, no secret anywhere, no flood, a level that changes while it runs."""

import json
import os
from typing import Any

import pytest
import structlog

from actors.commands.logs import OPENCV_QUIET, Logs
from actors.settings import LogLevel
from tests.commands_world import Shell

CANARY = "c4n4ry-k3y"


@pytest.fixture
def logs(capsys):
    """Configured for this test alone."""
    at = [0.0]
    logs = Logs(clock=lambda: at[0])
    logs.set_level(LogLevel.INFO)
    yield logs, at
    structlog.reset_defaults()


def told(capsys: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_each_event_has_a_name_fields_a_level_and_a_time(logs, capsys):
    structlog.get_logger().info("drain_started", runs=1)
    (seen,) = told(capsys)
    assert seen.pop("timestamp").endswith("Z")
    assert seen == {"event": "drain_started", "runs": 1, "level": "info"}


def test_a_warning_that_repeats_is_told_once_with_the_count_and_a_change_always(logs, capsys):
    log = structlog.get_logger()
    _, at = logs
    for second in range(12):
        at[0] = float(second)
        log.warning("post_not_stored", reason="timeout", took_s=second)
        log.info("link_changed", state="up")
    seen = told(capsys)
    warnings = [event for event in seen if event["level"] == "warning"]
    assert [(event["took_s"], event.get("held_back")) for event in warnings] == [(0, None), (10, 9)]
    assert len(seen) - len(warnings) == 12
    logs[0].end()
    (last,) = told(capsys)
    assert (last["event"], last["of"], last["count"]) == ("held_back", "post_not_stored", 1)


def test_the_level_changes_while_it_runs(logs, capsys):
    log = structlog.get_logger()
    log.debug("unseen")
    logs[0].set_level(LogLevel.DEBUG)
    log.debug("seen")
    logs[0].set_level(LogLevel.ERROR)
    log.warning("unseen")
    assert [event["event"] for event in told(capsys)] == ["seen"]


@pytest.mark.parametrize("text", [f"rtsp://me:{CANARY}@cam/1", f"http://cam/?token={CANARY}", f"a,rtsp://{CANARY}@x"])
def test_secrets_in_addresses_are_masked_whoever_logs_them(logs, capsys, text):
    log = structlog.get_logger()
    log.error("camera_down", source=text)
    log.error("cameras_down", sources=[text], why={"cam": (text, 1)})
    try:
        int(text)
    except ValueError:
        log.exception("no_camera")
    seen = told(capsys)
    assert [event["event"] for event in seen] == ["camera_down", "cameras_down", "no_camera"]
    assert CANARY not in json.dumps(seen)
    assert "ValueError" in seen[2]["exception"]


@pytest.mark.parametrize(
    "words",
    [
        ("config",),
        ("config", "--json"),
        ("status",),
        ("doctor",),
        ("doctor", "--json"),
        ("audit",),
        ("watch",),
        ("run", "--batch-size", "0"),
        ("version",),
        ("buffer", "stats"),
    ],
)
@pytest.mark.parametrize("wrong", ["", " \x00"], ids=["good", "unusable"])
def test_no_command_ever_shows_the_key(folder, monkeypatch, words, wrong):
    monkeypatch.chdir(folder)
    (folder / "key").write_text(CANARY + wrong)
    (folder / "holdfast.toml").write_text(f'cloud_logging_api_key = "{CANARY}{wrong.strip(chr(0))}x"\n')
    for settings in (
        {"CLOUD_LOGGING_ENABLED": "true", "SOURCES": "none", "MODEL_PATH": "/none.pt", "DETECTOR": "onnxruntime"},
        {"CLOUD_LOGGING_API_KEY_FILE": folder / "key", "CLOUD_LOGGING_ENABLED": "false", "SOURCES": "none"},
    ):
        monkeypatch.setattr("actors.fitting.detector", _none)
        done = Shell(folder, dict(settings)).run(*words)
        assert CANARY not in done.output


def _none(_: object) -> None:
    from actors.ports.detector import DetectorError

    raise DetectorError("no model")


def test_opencv_writes_nothing_between_our_lines_unless_it_was_asked_to(monkeypatch):
    for name in OPENCV_QUIET:
        monkeypatch.setenv(name, "")  # so that it is put back as it was
        monkeypatch.delenv(name)
    monkeypatch.setenv("OPENCV_LOG_LEVEL", "DEBUG")
    try:
        Logs().begin(LogLevel.INFO)
        assert {name: os.environ[name] for name in OPENCV_QUIET} == OPENCV_QUIET | {"OPENCV_LOG_LEVEL": "DEBUG"}
    finally:
        structlog.reset_defaults()
