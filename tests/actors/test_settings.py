"""Settings: what the operator wrote is what runs, or the start is refused with every reason at once."""

import math
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.loading import describe, load_settings
from actors.settings import (
    FIELDS,
    AfterAccept,
    DetectorKind,
    LogLevel,
    RecoveryOrder,
    Settings,
    SettingsError,
    WhenFull,
    default_buffer_path,
)
from actors.values import mask

KEY = "s3cr3t-key"

CONTRACT = {
    "CLOUD_LOGGING_ENDPOINT": "http://127.0.0.1:8001/log",
    "CLOUD_LOGGING_API_KEY": None,
    "CLOUD_LOGGING_API_KEY_FILE": None,
    "CLOUD_LOGGING_ENABLED": True,
    "BATCH_SIZE": 32,
    "BATCH_TIMEOUT_SECONDS": 10,
    "MAX_RETRIES": 3,
    "RETRY_BACKOFF_MULTIPLIER": 2.0,
    "TIMEOUT_SECONDS": 30,
    "RECOVERY_MAX_PER_SECOND": None,
    "RECOVERY_ORDER": RecoveryOrder.OLDEST,
    "CLOUD_TLS_CA_FILE": None,
    "CLOUD_TLS_CERT_FILE": None,
    "CLOUD_TLS_KEY_FILE": None,
    "CONNECTIVITY_INTERVAL_SECONDS": 30,
    "CONNECTIVITY_TIMEOUT_SECONDS": 5,
    "BUFFER_MAX_SIZE_MB": 500,
    "BUFFER_CLEANUP_DAYS": 7,
    "BUFFER_WHEN_FULL": WhenFull.BLOCK,
    "ENABLE_SESSION_BUFFERING": True,
    "BUFFER_FLUSH_INTERVAL": 1,
    "BUFFER_FLUSH_MS": 100,
    "MODEL_PATH": None,
    "SOURCES": ("samples",),
    "CONFIDENCE": 0.25,
    "IOU": 0.6,
    "DEFECT_CLASSES": None,
    "DETECTOR": DetectorKind.AUTO,
    "MODEL_DEVICE": "auto",
    "ANNOTATE_DIR": None,
    "AFTER_ACCEPT": AfterAccept.KEEP,
    "CAMERA_STALL_SECONDS": 15,
    "SHUTDOWN_GRACE_SECONDS": 10,
    "STATUS_BIND": "127.0.0.1:8000",
    "ALERT_WEBHOOK_URL": None,
    "ALERT_WEBHOOK_URL_FILE": None,
    "LOG_LEVEL": LogLevel.INFO,
}
"""The users' contract, written out a second time on purpose."""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "holdfast.toml"
    path.write_text(text)
    return path


def refusal(environ=None, toml_path=None, flags=None) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as refused:
        load_settings(environ or {}, toml_path, flags)
    return refused.value.problems


def test_defaults_and_names_are_the_users_contract(monkeypatch):
    monkeypatch.setattr("platform.node", lambda: "camera-7")
    settings = load_settings({"HOME": "/home/ada"})
    assert {name: getattr(settings, name.lower()) for name in CONTRACT} == CONTRACT
    assert settings.edge_device_id == "camera-7"
    assert settings.buffer_db_path == Path("/home/ada/.local/state/holdfast/buffer.db")
    assert {name.upper() for name in FIELDS} == {*CONTRACT, "EDGE_DEVICE_ID", "BUFFER_DB_PATH"}
    assert settings.warnings == ()


def test_every_setting_has_a_sentence_of_help_and_durations_and_sizes_have_their_unit():
    for name, about in FIELDS.items():
        assert about.help.endswith("."), name
        if name.endswith(("_seconds", "_ms", "_mb", "_days", "_size", "_path", "_per_second")):
            assert about.unit, name


def test_every_setting_can_be_given_by_environment_toml_and_flag(tmp_path):
    environ = {
        "CLOUD_LOGGING_ENDPOINT": "https://cloud.example/log",
        "CLOUD_LOGGING_API_KEY": KEY,
        "CLOUD_LOGGING_ENABLED": "no",
        "EDGE_DEVICE_ID": " factory-camera-01 ",
        "BATCH_SIZE": "1000",
        "BATCH_TIMEOUT_SECONDS": "0.5",
        "RECOVERY_MAX_PER_SECOND": "250",
        "BUFFER_DB_PATH": "/var/lib/holdfast/buffer.db",
        "BUFFER_MAX_SIZE_MB": "16",
        "BUFFER_CLEANUP_DAYS": "0",
        "BUFFER_WHEN_FULL": "DROP_OLDEST",
        "MODEL_PATH": "/models/own.pt",
        "SOURCES": "0, rtsp://camera/stream",
        "CONFIDENCE": "1",
    }
    expected = {
        "cloud_logging_endpoint": "https://cloud.example/log",
        "cloud_logging_api_key": KEY,
        "cloud_logging_enabled": False,
        "edge_device_id": "factory-camera-01",
        "batch_size": 1000,
        "batch_timeout_seconds": 0.5,
        "recovery_max_per_second": 250.0,
        "buffer_db_path": Path("/var/lib/holdfast/buffer.db"),
        "buffer_max_size_mb": 16,
        "buffer_cleanup_days": 0.0,
        "buffer_when_full": WhenFull.DROP_OLDEST,
        "model_path": Path("/models/own.pt"),
        "sources": ("0", "rtsp://camera/stream"),
        "confidence": 1.0,
    }
    toml = "\n".join(f'{name.lower()} = "{value}"' for name, value in environ.items())
    by_flags = {name.lower(): value for name, value in environ.items()}
    for settings in (
        load_settings(environ),
        load_settings({}, written(tmp_path, toml)),
        load_settings({}, None, by_flags),
    ):
        assert {name: getattr(settings, name) for name in expected} == expected


def test_toml_has_numbers_switches_and_lists_of_its_own(tmp_path):
    path = written(tmp_path, 'batch_size = 8\ntimeout_seconds = 2\ncloud_logging_enabled = false\nsources = ["a", "b"]')
    settings = load_settings({}, path)
    assert (settings.batch_size, settings.timeout_seconds) == (8, 2.0)
    assert settings.cloud_logging_enabled is False
    assert settings.sources == ("a", "b")


def test_a_flag_beats_the_environment_beats_toml_beats_the_default(tmp_path):
    path = written(tmp_path, "batch_size = 2\nmax_retries = 2\nconfidence = 0.2")
    settings = load_settings({"BATCH_SIZE": "3", "MAX_RETRIES": "4"}, path, {"batch_size": 5, "max_retries": None})
    assert (settings.batch_size, settings.max_retries, settings.confidence) == (5, 4, 0.2)
    origins = {row.name: row.origin for row in describe(settings)}
    assert origins["BATCH_SIZE"] == "flag --batch-size"
    assert origins["MAX_RETRIES"] == "environment"
    assert origins["CONFIDENCE"] == str(path)
    assert origins["TIMEOUT_SECONDS"] == "default"


def test_an_empty_variable_counts_as_not_set_and_none_overrides_a_file(tmp_path):
    path = written(tmp_path, "batch_size = 2\nrecovery_max_per_second = 9")
    settings = load_settings({"BATCH_SIZE": "", "RECOVERY_MAX_PER_SECOND": "none"}, path)
    assert (settings.batch_size, settings.recovery_max_per_second) == (2, None)


def test_all_that_is_wrong_is_told_at_once_with_name_origin_value_and_remedy(tmp_path):
    path = written(tmp_path, "batch_sise = 3\nconfidence = true\nbuffer_max_size_mb = 15\nzzz = 1")
    environ = {"BATCH_SIZE": "zero", "TIMEOUT_SECONDS": "nan", "BUFFER_WHEN_FULL": "explode"}
    with pytest.raises(SettingsError) as refused:
        load_settings(environ, path, {"max_retries": -1, "colour": "red"})
    assert refused.value.problems == (
        f"batch_sise ({path}): no such setting; did you mean batch_size?",
        f"zzz ({path}): no such setting",
        "--colour: no such setting",
        "BATCH_SIZE (environment): 'zero'; it takes a whole number from 1 to 1000",
        "MAX_RETRIES (flag --max-retries): -1; it takes a whole number from 0 to 100",
        "TIMEOUT_SECONDS (environment): 'nan'; it takes a number above 0, up to 86400",
        f"BUFFER_MAX_SIZE_MB ({path}): 15; it takes a whole number from 16 to 16000000",
        "BUFFER_WHEN_FULL (environment): 'explode'; it takes block or drop_oldest or drop_newest",
        f"CONFIDENCE ({path}): True; it takes a number from 0 up to 1",
    )
    assert str(refused.value).startswith("9 settings are wrong:\n  batch_sise")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BATCH_SIZE", "0"),
        ("BATCH_SIZE", "1001"),
        ("BATCH_SIZE", "1.5"),
        ("BATCH_SIZE", "9" * 5_000),
        ("BATCH_TIMEOUT_SECONDS", "0"),
        ("BATCH_TIMEOUT_SECONDS", "inf"),
        ("TIMEOUT_SECONDS", "1e999"),
        ("CONFIDENCE", "-0.01"),
        ("CONFIDENCE", "1.01"),
        ("RETRY_BACKOFF_MULTIPLIER", "0.5"),
        ("RECOVERY_MAX_PER_SECOND", "0"),
        ("CLOUD_LOGGING_ENABLED", "perhaps"),
        ("CLOUD_LOGGING_ENDPOINT", "cloud.example/log"),
        ("CLOUD_LOGGING_ENDPOINT", "ftp://cloud.example/log"),
        ("CLOUD_LOGGING_ENDPOINT", "http:///log"),
        ("CLOUD_LOGGING_ENDPOINT", "http://cloud.example:99999/log"),
        ("CLOUD_LOGGING_ENDPOINT", "http://[::1/log"),
        ("CLOUD_LOGGING_ENDPOINT", "http://cloud example/log"),
        ("EDGE_DEVICE_ID", "x" * 257),
        ("EDGE_DEVICE_ID", "camera\n01"),
        ("EDGE_DEVICE_ID", "camera\udcff"),
        ("CLOUD_LOGGING_API_KEY", "a b"),
        ("CLOUD_LOGGING_API_KEY", "key\u00e9"),
        ("SOURCES", "a,,b"),
        ("BUFFER_DB_PATH", "~nosuchuser/buffer.db"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(name, value):
    (problem,) = refusal({name: value})
    assert problem.startswith(f"{name} (environment")
    assert len(problem) < 400


@pytest.mark.parametrize("value", [True, 32.0, [32], None])
def test_a_toml_value_of_another_type_is_not_bent_into_shape(value):
    with pytest.raises(SettingsError, match="BATCH_SIZE"):
        Settings(batch_size=value)


def test_bounds_hold_for_settings_made_in_code_too():
    with pytest.raises(
        SettingsError, match=r"BUFFER_MAX_SIZE_MB \(given in code\): 1; it takes a whole number from 16"
    ):
        Settings(buffer_max_size_mb=1)
    with pytest.raises(SettingsError, match="CONFIDENCE"):
        attrs.evolve(Settings(), confidence=10**400)
    assert Settings(edge_device_id="x" * 256).edge_device_id == "x" * 256


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_a_duration_is_positive_finite_and_at_most_a_day_or_refused(seconds):
    if 0 < seconds <= 86_400:
        assert Settings(timeout_seconds=seconds).timeout_seconds == seconds
    else:
        assert math.isnan(seconds) or not 0 < seconds <= 86_400
        with pytest.raises(SettingsError):
            Settings(timeout_seconds=seconds)


# --- the key


def test_the_key_has_an_alias_and_the_full_name_wins():
    assert load_settings({"API_KEY": KEY}).cloud_logging_api_key == KEY
    assert load_settings({"API_KEY": "other", "CLOUD_LOGGING_API_KEY": KEY}).cloud_logging_api_key == KEY


def test_the_key_is_never_shown_neither_by_repr_nor_by_rows_nor_in_a_refusal(tmp_path):
    settings = load_settings({"API_KEY": KEY})
    rows = {row.name: row for row in describe(settings)}
    assert rows["CLOUD_LOGGING_API_KEY"].value == "********"
    assert rows["CLOUD_LOGGING_API_KEY"].origin == "environment API_KEY"
    assert KEY not in repr(settings) + str(settings) + repr(describe(settings))
    for environ, toml in (
        ({"CLOUD_LOGGING_API_KEY": f"{KEY} {KEY}"}, ""),
        ({}, f'cloud_logging_api_key = ["{KEY}"]'),
        ({}, f'cloud_loging_api_key = "{KEY}"'),
        ({"CLOUD_LOGGING_ENDPOINT": f"http://user:{KEY}@cloud/log"}, ""),
    ):
        assert KEY not in "".join(refusal(environ, written(tmp_path, toml)))
    with pytest.raises(SettingsError) as refused:
        Settings(cloud_logging_api_key=f"{KEY}\n{KEY}")
    assert KEY not in str(refused.value)


def test_a_cameras_password_is_masked_wherever_settings_are_shown():
    settings = load_settings({"SOURCES": f"rtsp://admin:{KEY}@cam-1/a,http://cam-2/b?token={KEY}&size=2"})
    shown = {row.name: row.value for row in describe(settings)}["SOURCES"]
    assert shown == "rtsp://***@cam-1/a, http://cam-2/b?token=***&size=2"
    assert KEY not in repr(settings)
    assert KEY in settings.sources[0]


@given(st.text(st.characters(exclude_characters="@/, \t\r\n", exclude_categories=("Z", "C")), min_size=1))
def test_no_password_survives_masking(password):
    assert mask(f"rtsp://user:{password}@camera/stream") == "rtsp://***@camera/stream"


def test_a_key_file_that_is_not_there_is_told_at_the_start(tmp_path):
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    assert load_settings({"CLOUD_LOGGING_API_KEY_FILE": str(path)}).cloud_logging_api_key is None
    path.unlink()
    with pytest.raises(SettingsError, match="can't be read: No such file"):
        load_settings({"CLOUD_LOGGING_API_KEY_FILE": str(path)})


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", b"\xff\xfe", b"x" * 5_000])
def test_a_key_file_without_a_usable_key_refuses_the_start_and_keeps_its_content_to_itself(tmp_path, content):
    path = tmp_path / "key"
    path.write_bytes(content)
    (problem,) = refusal({"CLOUD_LOGGING_API_KEY_FILE": str(path)})
    assert problem.startswith("CLOUD_LOGGING_API_KEY_FILE: ")
    assert "no usable key" in problem
    assert "two words" not in problem


def test_a_key_and_a_key_file_together_are_refused(tmp_path):
    (problem,) = refusal({"API_KEY": KEY}, written(tmp_path, 'cloud_logging_api_key_file = "/run/secrets/key"'))
    assert "give one of the two" in problem


# --- files and names


@pytest.mark.parametrize(("content", "told"), [(b"batch_size = ", "not valid TOML"), (b"\xff", "not valid TOML")])
def test_a_toml_file_that_does_not_parse_is_told_beside_the_other_mistakes(tmp_path, content, told):
    path = tmp_path / "holdfast.toml"
    path.write_bytes(content)
    problems = refusal({"BATCH_SIZE": "no"}, path)
    assert told in problems[0]
    assert problems[1].startswith("BATCH_SIZE")


def test_a_toml_file_that_was_asked_for_and_is_not_there_is_refused(tmp_path):
    (problem,) = refusal({}, tmp_path / "none.toml")
    assert problem.endswith("can't be read: No such file or directory")


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("BATCH_SZIE", "BATCH_SIZE"),
        ("BUFFER_MAX_SIZE", "BUFFER_MAX_SIZE_MB"),
        ("CLOUD_LOGGING_API_KEYS", "CLOUD_LOGGING_API_KEY"),
        ("EDGE_DEVICEID", "EDGE_DEVICE_ID"),
    ],
)
def test_a_variable_that_reads_like_ours_is_warned_of_without_its_value(variable, meant):
    assert load_settings({variable: KEY}).warnings == (f"{variable} is not a setting of ours; did you mean {meant}?",)


def test_variables_of_others_warn_of_nothing():
    environ = dict.fromkeys(
        (
            "PATH",
            "BUFFER_COLOUR",
            "MAX_MEMORY",
            "MODEL_ZOO",
            "MY_BATCH_SIZE",
            "CLOUD_API_KEYS_FILE",
            "CLOUD_RETENTION_DAYS",
        ),
        "1",
    )
    assert load_settings(environ).warnings == ()


def test_the_state_folder_follows_xdg_and_a_relative_one_is_ignored():
    assert default_buffer_path({"XDG_STATE_HOME": "/state"}) == Path("/state/holdfast/buffer.db")
    home = {"HOME": "/home/ada", "XDG_STATE_HOME": "relative"}
    assert default_buffer_path(home) == Path("/home/ada/.local/state/holdfast/buffer.db")


def test_a_user_without_a_home_needs_to_say_where_the_buffer_is_and_nothing_else(monkeypatch):
    """A container that runs as a number which no passwd knows."""

    def homeless() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", homeless)
    assert load_settings({"BUFFER_DB_PATH": "/data/buffer.db"}).buffer_db_path == Path("/data/buffer.db")
    with pytest.raises(SettingsError) as caught:
        load_settings({"BATCH_SIZE": "0"})
    assert [problem.split()[0] for problem in caught.value.problems] == ["BATCH_SIZE", "BUFFER_DB_PATH:"]


def test_settings_are_values():
    assert Settings(batch_size=8) == Settings(batch_size=8) != Settings(batch_size=9)
    assert load_settings({"BATCH_SIZE": "8"}, None, None).batch_size == Settings(batch_size=8).batch_size
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Settings().batch_size = 1  # type: ignore[misc]


def test_the_webhooks_address_is_a_secret_and_may_lie_in_a_file(tmp_path):
    """Many such addresses hold a token: neither a wrong one nor a right one is repeated."""
    (tmp_path / "url").write_text("https://hooks.test/T0KEN\n")
    assert load_settings({"ALERT_WEBHOOK_URL_FILE": str(tmp_path / "url")}).alert_webhook_url is None
    right = load_settings({"ALERT_WEBHOOK_URL": "https://hooks.test/T0KEN"})
    assert "T0KEN" not in repr(right) + repr(describe(right))
    (tmp_path / "url").write_text("T0KEN")
    for environ, said in (
        ({"ALERT_WEBHOOK_URL": "T0KEN"}, "ALERT_WEBHOOK_URL (environment): ********"),
        ({"ALERT_WEBHOOK_URL_FILE": str(tmp_path / "url")}, "holds no usable key or address"),
        ({"ALERT_WEBHOOK_URL_FILE": str(tmp_path / "none")}, "can't be read: No such file"),
        (
            {"ALERT_WEBHOOK_URL": "https://hooks.test/x", "ALERT_WEBHOOK_URL_FILE": str(tmp_path / "none")},
            "ALERT_WEBHOOK_URL and ALERT_WEBHOOK_URL_FILE are both set",
        ),
    ):
        with pytest.raises(SettingsError) as caught:
            load_settings(environ)
        assert said in str(caught.value)
        assert "T0KEN" not in str(caught.value)
