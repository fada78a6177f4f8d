"""`status`, `config`, `version` and the help: what a stranger reads first."""

import json

import pytest

from actors.commands.front import Front
from actors.commands.status import ask, status_url
from actors.commands.words import bar, columns, count, duration, moment, size
from actors.loading import load_settings
from actors.messages import Entry
from actors.ports.journal import FORMAT_VERSION
from actors.ports.store import Store
from actors.settings import FIELDS
from app import main
from cloud.wire import encode_prediction
from tests.commands_world import SENT_AT, Shell, make_buffer, options
from tests.world import prediction

CANARY = "c4n4ry-k3y"


@pytest.fixture
def shell(folder, monkeypatch) -> Shell:
    monkeypatch.chdir(folder)
    return Shell(folder)


# --- help


def commands(group: Front, *path: str):
    for section in group.entries.values():
        for name, entry in section.items():
            yield (*path, name), entry
            command = group.get_command(None, name)  # type: ignore[arg-type]
            if isinstance(command, Front):
                yield from commands(command, *path, name)


ALL = list(commands(main))


@pytest.mark.parametrize(("words", "entry"), ALL, ids=lambda part: " ".join(part) if isinstance(part, tuple) else "")
def test_every_command_explains_itself_as_the_overview_does(shell, words, entry):
    said = shell.said(*words, "--help")
    summary = entry.summary.removesuffix(" (the default).").rstrip(".")
    assert summary.split(",")[0].split(":")[0] in " ".join(said.split()), said
    assert "Usage: " in said


def test_help_names_every_command(shell):
    said = shell.said("--help")
    for (name, *more), entry in ALL:
        if not more:
            assert f"\n  {name} " in said
            assert entry.summary in said


def test_run_explains_every_setting_that_may_stand_in_a_process_list(shell):
    said = shell.said("run", "--help")
    for name, about in FIELDS.items():
        assert (f"--{name.replace('_', '-')} " in said) is not about.secret


def test_audit_takes_every_flag_that_may_be_needed_to_reach_the_cloud(shell):
    said = shell.said("audit", "--help")
    for flag in ("endpoint", "api-key-file"):
        assert f"--cloud-logging-{flag} " in said
    for flag in ("ca-file", "cert-file", "key-file"):
        assert f"--cloud-tls-{flag} " in said


def test_a_mistyped_command_is_met_with_the_nearest(shell):
    assert "did you mean 'status'?" in shell.refused("statu")
    assert "did you mean 'reset-failed'?" in shell.refused("buffer", "reset-faild")


# --- config


def test_config_shows_where_each_value_came_from_and_no_secret(shell, folder):
    (folder / "holdfast.toml").write_text(f'batch_size = 5\ncloud_logging_api_key = "{CANARY}"\n')
    shell.settings["MAX_RETRIES"] = 7
    found = shell.json("config", "--timeout-seconds", 3)
    assert found["BATCH_SIZE"] == {"value": "5", "origin": "holdfast.toml", "unit": "predictions"}
    assert found["MAX_RETRIES"]["origin"] == "environment"
    assert found["TIMEOUT_SECONDS"]["origin"] == "flag --timeout-seconds"
    assert found["CLOUD_LOGGING_API_KEY"]["value"] == "********"
    assert {name.upper() for name in FIELDS} == found.keys()
    said = shell.said("config")
    assert CANARY not in said
    assert said.splitlines()[0].split() == ["SETTING", "VALUE", "FROM"]


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ("batch_size = ", "is not valid TOML"),
        ("batch_sise = 3", "did you mean batch_size?"),
        ("[batch]\nsize = 3", "batch"),
        ('batch_size = "many"', "'many'; it takes a whole number"),
    ],
)
def test_a_wrong_file_is_told_with_its_name(shell, folder, toml, told):
    (folder / "mine.toml").write_text(toml)
    said = shell.refused("config", "--config", "mine.toml")
    assert "mine.toml" in said
    assert told in said


def test_a_file_that_is_not_there_is_told(shell):
    assert "none.toml: can't be read: No such file" in shell.refused("config", "--config", "none.toml")


# --- version


def test_version_tells_the_formats_too(shell):
    found = shell.json("version")
    assert found.keys() == {"holdfast", "wire", "journal", "buffer", "python"}
    assert found["journal"] == FORMAT_VERSION
    assert shell.said("version").startswith("holdfast  ")


# --- status without a device


def test_status_reads_the_file_when_no_device_runs(shell):
    make_buffer(shell.db_path, 5, sent=(1,), failed=(2,))
    found = shell.json("status")
    assert (found["source"], found["pending"], found["sent"], found["failed"]) == ("buffer", 3, 1, 1)
    said = shell.said("status")
    assert said.startswith("cam: no device answers")
    assert "3 predictions, the oldest since 2023-11-14" in said


def test_status_without_anything_says_what_to_do(shell):
    assert "there is no buffer; BUFFER_DB_PATH (or --buffer-db-path) names the one to read" in shell.refused("status")
    assert "there is no buffer; BUFFER_DB_PATH (or --buffer-db-path) names the one to compare" in shell.refused("audit")


def rename(shell: Shell, name: str) -> str:
    """The device was started under another id, and has ended; gives the name of the stream that it began."""
    store = Store.open(name, options(shell.db_path, new_id=lambda _: "second"))
    store.accept([Entry("late", SENT_AT, encode_prediction(prediction(6)))])
    store.close()
    shell.settings["EDGE_DEVICE_ID"] = name
    return "second"


def test_a_device_that_was_renamed_is_called_by_its_new_name_also_when_it_does_not_run(shell):
    make_buffer(shell.db_path, 5)
    stream_id = rename(shell, "hall-2")
    for words in (("status",), ("buffer", "stats")):
        found = shell.json(*words)
        assert (found["edge_device_id"], found["stream_id"], found["pending"]) == ("hall-2", stream_id, 6)
    assert shell.said("status").startswith("hall-2: no device answers")
    exported = [json.loads(line) for line in shell.said("buffer", "export").splitlines()]
    assert [row["edge_device_id"] for row in exported] == ["cam"] * 5 + ["hall-2"], "each by the name it goes out under"


def test_a_renamed_device_is_known_on_its_port_by_the_stream_it_began(shell, monkeypatch):
    make_buffer(shell.db_path, 5)
    answer = {"stream_id": rename(shell, "hall-2"), "edge_device_id": "hall-2"}
    shell.settings["STATUS_BIND"] = "127.0.0.1:8000"
    monkeypatch.setattr("actors.commands.status.ask_port", lambda _: answer)
    assert ask(load_settings(shell.environment())) == {"source": "http://127.0.0.1:8000/status", **answer}


@pytest.mark.parametrize(("name", "source"), [("cam", "http://127.0.0.1:8000/status"), ("other", None)])
def test_a_device_whose_disk_lets_it_open_no_buffer_is_known_by_its_name(shell, monkeypatch, name, source):
    make_buffer(shell.db_path, 5)
    shell.settings["STATUS_BIND"] = "127.0.0.1:8000"
    answer = {"stream_id": "", "edge_device_id": name, "alerts": ["disk_trouble"]}
    monkeypatch.setattr("actors.commands.status.ask_port", lambda _: answer)
    assert ask(load_settings(shell.environment())) == (source and {"source": source, **answer})


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000/status"),
        ("0.0.0.0:80", "http://127.0.0.1:80/status"),
        ("[::]:80", "http://[::1]:80/status"),
        ("127.0.0.1:0", None),
    ],
)
def test_where_a_device_is_asked(bind, url):
    assert status_url(bind) == url


# --- words


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-1, "0.0 s"),
        (0.44, "0.4 s"),
        (9.9, "9.9 s"),
        (45.2, "45 s"),
        (60, "1 min"),
        (185, "3 min 5 s"),
        (7_800, "2 h 10 min"),
        (86_400 * 400 + 3_600, "400 d 1 h"),
        (86_399.9, "1 d"),
    ],
)
def test_durations(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**40 * 2, "2,048.0 GiB")]
)
def test_sizes(number, said):
    assert size(number) == said


def test_other_words():
    assert (count(1, "row"), count(1234, "row"), count(1234)) == ("1 row", "1,234 rows", "1,234")
    assert moment(None) == "-"
    assert (bar(0.5, 4), bar(-1, 2), bar(7, 2)) == ("██░░", "░░", "██")
    assert columns([("a", "bb"), ("ccc", "")]) == ["a    bb", "ccc"]
    assert columns([]) == []
