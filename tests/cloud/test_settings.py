"""Settings: what is read from where, and that everything wrong is said at once without a secret."""

from pathlib import Path

import pytest

from cloud.keys import Verdict
from cloud.settings import PostgresUrl, SettingsWrong, read_settings


def test_without_any_setting_a_database_in_the_state_folder_on_loopback():
    settings = read_settings({"HOME": "/home/me"})
    assert settings.database == Path("/home/me/.local/state/holdfast/cloud.db")
    assert (settings.bind, settings.retention_days, bool(settings.keyring.current)) == ("127.0.0.1:8001", 90.0, False)
    assert read_settings({"XDG_STATE_HOME": "/state"}).database == Path("/state/holdfast/cloud.db")


@pytest.mark.parametrize(
    ("url", "path"),
    [("sqlite:///here.db", "here.db"), ("sqlite:////var/cloud.db", "/var/cloud.db"), ("/var/c.db", "/var/c.db"),
     ("sqlite:////with%20space.db", "/with space.db")],
)  # fmt: skip
def test_a_database_is_a_url_or_a_path_and_the_command_line_goes_first(url, path):
    assert read_settings({"CLOUD_DATABASE_URL": url}).database == Path(path)
    assert read_settings({"CLOUD_DATABASE_URL": "mysql://"}, database=url).database == Path(path)


def test_the_url_of_the_database_may_lie_in_a_file_as_a_secret_does(tmp_path):
    file = tmp_path / "url"
    file.write_text("postgresql://me:hunter2@db/x\n")
    settings = read_settings({"CLOUD_DATABASE_URL_FILE": str(file)})
    assert settings.database == PostgresUrl("postgresql://me:hunter2@db/x")
    assert "hunter2" not in repr(settings)
    assert read_settings({"CLOUD_DATABASE_URL_FILE": "/missing"}, database="/var/c.db").database == Path("/var/c.db")


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"mysql://me:hunter2@db/x", b"hunter2\nhunter2", b"\xffhunter2", b"x" * 9_999],
    ids=range(6),
)
def test_a_file_that_holds_no_url_is_named_and_what_it_holds_is_not_shown(tmp_path, content):
    file = tmp_path / "url"
    file.write_bytes(content)
    for env in ({"CLOUD_DATABASE_URL_FILE": str(file)}, {"CLOUD_DATABASE_URL_FILE": str(tmp_path / "missing")}):
        with pytest.raises(SettingsWrong, match=r"^CLOUD_DATABASE_URL_FILE: ") as caught:
            read_settings(env)
        assert "hunter2" not in str(caught.value)


def test_a_url_and_a_file_of_one_are_refused_together(tmp_path):
    with pytest.raises(SettingsWrong, match="CLOUD_DATABASE_URL is set, too; takes one of them"):
        read_settings({"CLOUD_DATABASE_URL_FILE": str(tmp_path), "CLOUD_DATABASE_URL": "/var/c.db"})


def test_keys_of_the_variable_and_of_the_file_are_all_taken(tmp_path):
    file = tmp_path / "keys"
    file.write_text("# the cameras of hall 1\nthird\n\n fourth \n")
    settings = read_settings({"CLOUD_API_KEYS": "first, second", "CLOUD_API_KEYS_FILE": str(file)}, bind="0.0.0.0:80")
    for key in ("first", "second", "third", "fourth"):
        assert settings.keyring.current.judge(f"Bearer {key}").verdict is Verdict.ADMITTED
    for key in ("# the cameras of hall 1", "fifth"):
        assert settings.keyring.current.judge(f"Bearer {key}").verdict is Verdict.UNKNOWN_KEY
    assert "first" not in repr(settings)


def test_everything_wrong_is_said_at_once_and_no_secret_with_it(tmp_path):
    with pytest.raises(SettingsWrong) as caught:
        read_settings(
            {
                "CLOUD_DATABASE_URL": "mysql://me:hunter2@db/x",
                "CLOUD_API_KEYS": "fine s\x00cret",
                "CLOUD_API_KEYS_FILE": str(tmp_path / "missing"),
                "CLOUD_RETENTION_DAYS": "soon",
            },
            bind="nowhere",
        )
    said = str(caught.value)
    names = ("CLOUD_DATABASE_URL", "CLOUD_API_KEYS", "CLOUD_API_KEYS_FILE", "CLOUD_RETENTION_DAYS", "--bind")
    assert all(any(line.startswith(f"{name}: ") for line in caught.value.errors) for name in names), said
    assert "'soon'" in said
    assert "hunter2" not in said
    assert "cret" not in said


@pytest.mark.parametrize(
    ("env", "name"),
    [
        ({"CLOUD_DATABASE_URL": "sqlite://"}, "CLOUD_DATABASE_URL"),
        ({"CLOUD_DATABASE_URL": "sqlite:///:memory:"}, "CLOUD_DATABASE_URL"),
        ({"CLOUD_DATABASE_URL": ":memory:"}, "CLOUD_DATABASE_URL"),
        ({"CLOUD_RETENTION_DAYS": "0"}, "CLOUD_RETENTION_DAYS"),
        ({"CLOUD_RETENTION_DAYS": "nan"}, "CLOUD_RETENTION_DAYS"),
        ({"CLOUD_RETENTION_DAYS": "1e9"}, "CLOUD_RETENTION_DAYS"),
    ],
)
def test_a_wrong_value_is_refused_by_name(env, name):
    with pytest.raises(SettingsWrong, match=f"^{name}: "):
        read_settings(env)


@pytest.mark.parametrize("bind", ["0.0.0.0:8001", "[::]:8001", "10.1.2.3:1", "example.org:80"])
def test_without_keys_only_loopback_may_be_bound(bind, tmp_path):
    with pytest.raises(SettingsWrong, match="not loopback"):
        read_settings({}, bind=bind)
    assert read_settings({"CLOUD_API_KEYS": "k"}, bind=bind).bind == bind
    empty = tmp_path / "keys"
    empty.write_text("# none yet\n")
    with pytest.raises(SettingsWrong, match="holds no key"):
        read_settings({"CLOUD_API_KEYS_FILE": str(empty)}, bind=bind)


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "localhost:8001", "[::1]:8001", "127.9.9.9:1"])
def test_loopback_needs_no_key(bind):
    assert read_settings({}, bind=bind).bind == bind


@pytest.mark.parametrize("bind", ["127.0.0.1", ":80", "127.0.0.1:x", "127.0.0.1:70000"])
def test_a_bind_that_is_none_is_refused(bind):
    with pytest.raises(SettingsWrong, match="--bind"):
        read_settings({}, bind=bind)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@db:5432/holdfast",
        "postgres://me:p@ss:hunter2@db/holdfast",
        "postgresql://db/holdfast?user=me&password=hunter2&sslmode=require",
    ],
)
def test_a_postgresql_url_is_taken_and_its_password_never_shown(url):
    settings = read_settings({"CLOUD_DATABASE_URL": url})
    assert isinstance(settings.database, PostgresUrl)
    assert settings.database.secret == url
    for shown in (str(settings.database), repr(settings), repr(settings.database)):
        assert "hunter2" not in shown
    assert "***" in str(settings.database)
    assert "holdfast" in str(settings.database)


def test_a_user_without_a_home_needs_to_say_where_the_ledger_is(monkeypatch):
    """A container that runs as a number which no passwd knows."""

    def homeless() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", homeless)
    assert read_settings({"CLOUD_DATABASE_URL": "/data/cloud.db"}).database == Path("/data/cloud.db")
    with pytest.raises(SettingsWrong) as caught:
        read_settings({})
    assert "no home folder" in str(caught.value)
