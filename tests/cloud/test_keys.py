"""Keys: who gets in, to what, in whose name; and the file that they live in."""

import base64
import json
import os
import stat
import threading
from pathlib import Path

import pytest
import structlog
import trio
from click.testing import CliRunner

from cloud.__main__ import main
from cloud.keyring import LOOK_EVERY_S, Keyring, KeysWrong, changing, read_file
from cloud.keys import Key, Keys, Scope, Verdict, digest_of
from cloud.ledger.lane import run_inline
from cloud.settings import API_KEYS_FILE
from tests.cloud.world import envelope, payload, service

SENDER = Key(digest_of("send"), "sender", frozenset({Scope.INGEST}))
BOUND = Key(digest_of("bound"), "cam's own", frozenset({Scope.INGEST}), device_id="cam")
READER = Key(digest_of("read"), "page", frozenset({Scope.READ}))
KEYS = Keys((SENDER, BOUND, READER))


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def basic(text: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


@pytest.mark.parametrize(
    ("secret", "log", "stats", "own_audit", "other_audit"),
    [("send", 200, 403, 200, 200), ("bound", 200, 403, 200, 403), ("read", 403, 200, 200, 200)],
)
async def test_a_key_opens_what_it_is_for_and_nothing_else(secret, log, stats, own_audit, other_audit):
    async with service(keys=KEYS) as cloud:
        for device in ("cam", "other"):
            body = envelope(payload(1), device=device)
            assert (await cloud.client.post("/log", content=body, headers=bearer("send"))).status_code == 200
        headers = bearer(secret)
        got = [(await cloud.client.post("/log", content=envelope(payload(2)), headers=headers)).status_code]
        paths = ("/stats", "/devices/cam/audit", "/devices/other/audit")
        got += [(await cloud.client.get(path, headers=headers)).status_code for path in paths]
        assert got == [log, stats, own_audit, other_audit]


@pytest.mark.parametrize("path", ["/", "/stats", "/predictions", "/devices", "/metrics", "/nowhere"])
async def test_every_path_but_health_and_docs_needs_a_key_for_reading(path):
    async with service(keys=KEYS) as cloud:
        assert (await cloud.client.get(path)).status_code == 401
        assert (await cloud.client.get(path, headers=bearer("send"))).status_code == 403
        assert (await cloud.client.get(path, headers=bearer("read"))).status_code in (200, 404)


async def test_a_bound_key_stores_nothing_for_another_device():
    async with service(keys=KEYS) as cloud:
        stolen = await cloud.client.post("/log", content=envelope(payload(1), device="cam2"), headers=bearer("bound"))
        assert stolen.status_code == 403
        assert stolen.json()["detail"] == "edge_device_id: this key speaks for 'cam' alone"
        assert await cloud.ledger.devices() == ()


@pytest.mark.parametrize(
    ("headers", "status"),
    [(basic("anybody:read"), 200), (basic(":read"), 200), (basic("me:wrong"), 401), (basic("me:send"), 401),
     (basic("read"), 401), ({"Authorization": "Basic !"}, 401), ({"Authorization": "Basic /w=="}, 401)],
)  # fmt: skip
async def test_a_browser_reads_with_a_key_as_password_and_is_asked_again_after_a_wrong_one(headers, status):
    async with service(keys=KEYS) as cloud:
        answer = await cloud.client.get("/stats", headers=headers)
        assert answer.status_code == status
        assert answer.headers.get("WWW-Authenticate", "").startswith("Basic ") == (status == 401)


async def test_what_a_browser_remembers_never_stores_anything():
    """Another site can make a browser post with the password that it remembers for us."""
    both = Keys.of(["both"])
    async with service(keys=both) as cloud:
        answer = await cloud.client.post("/log", content=envelope(payload(1)), headers=basic("me:both"))
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
        assert await cloud.ledger.devices() == ()


def test_a_key_file_without_any_key_admits_nobody():
    assert Keys((), needed=True).judge("Bearer x").verdict is Verdict.UNKNOWN_KEY


# --- the file and the command


def run(path: Path, *args: str, code: int = 0):
    done = CliRunner().invoke(main, ["keys", *args], env={API_KEYS_FILE: str(path)})
    assert done.exit_code == code, done.output
    return done


def test_a_key_is_made_shown_once_listed_without_its_secret_and_revoked(tmp_path):
    path = tmp_path / "new" / "keys"
    made = run(path, "add", "hall 1", "--device", "cam")
    secret = made.stdout.strip()
    assert secret.startswith("holdfast_")
    assert "for 'cam' alone" in made.stderr
    run(path, "add", "page", "--scope", "read")
    assert secret not in path.read_text()
    listed = run(path, "list").stdout
    assert [line.partition(":")[0] for line in listed.splitlines()] == ["hall 1", "page"]
    assert secret not in listed
    (first, _) = read_file(path)
    assert (first.digest, first.device_id, first.scopes) == (digest_of(secret), "cam", frozenset({Scope.INGEST}))
    run(path, "revoke", "hall 1")
    assert [key.name for key in read_file(path)] == ["page"]


def test_the_file_is_for_us_alone_and_keeps_comments_and_plain_keys(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# of old\nplain-secret\n")
    path.chmod(0o644)
    run(path, "add", "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().startswith("# of old\nplain-secret\n{")
    assert run(path, "list").stdout.splitlines()[0] == "line 2: ingest and read, in plain text"
    assert "plain-secret" not in run(path, "list").stdout
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("args", "says"),
    [(("add", "one"), "'one' is taken"), (("add", ""), "NAME"), (("add", "a\nb"), "NAME"), (("add", "x" * 257), "NAME"),
     (("revoke", "nobody"), "'nobody'"), (("add", "two", "--scope", "read", "--device", "cam"), "--device")],
)  # fmt: skip
def test_what_can_not_be_done_is_told_and_changes_nothing(args, says, tmp_path):
    path = tmp_path / "keys"
    run(path, "add", "one")
    before = path.read_bytes()
    assert says in run(path, *args, code=2).stderr
    assert path.read_bytes() == before


def test_without_a_file_the_command_says_which_setting_names_it():
    done = CliRunner().invoke(main, ["keys", "list"], env={API_KEYS_FILE: None})
    assert (done.exit_code, API_KEYS_FILE in done.stderr) == (2, True)


@pytest.mark.parametrize("command", ["add", "list", "revoke"])
def test_help_needs_no_file(command):
    done = CliRunner().invoke(main, ["keys", command, "--help"], env={API_KEYS_FILE: None})
    assert (done.exit_code, "Usage:" in done.stdout) == (0, True)


def test_two_who_change_the_file_at_once_lose_no_key(tmp_path):
    """The second waits for the first; without that it would write the file as it was before."""
    path = tmp_path / "keys"
    in_first = threading.Event()

    def second() -> None:
        in_first.wait()
        with changing(path) as lines:
            lines.append("second")

    other = threading.Thread(target=second)
    other.start()
    with changing(path) as lines:
        in_first.set()
        other.join(timeout=0.2)
        lines.append("first")
    other.join()
    assert path.read_text() == "first\nsecond\n"


@pytest.mark.parametrize(
    "line",
    ['{"name": "x"}', '{"name":"x","sha256":"zz","scopes":["read"]}', '{"name":"","sha256":"%s","scopes":["read"]}',
     '{"name":"x","sha256":"%s","scopes":[]}', '{"name":"x","sha256":"%s","scopes":["root"]}', "two words",
     '{"name":"x","sha256":"%s","scopes":["read"],"devcie":"cam"}', "{"],
)  # fmt: skip
def test_a_line_that_is_no_key_is_told_by_its_number_and_without_what_it_holds(line, tmp_path):
    path = tmp_path / "keys"
    path.write_text("# keys\n" + line.replace("%s", "0" * 64))
    with pytest.raises(KeysWrong, match=r"^line 2") as caught:
        read_file(path)
    assert "two words" not in str(caught.value)


# --- while the service runs


async def test_a_key_made_or_revoked_while_running_holds_without_a_restart(tmp_path, autojump_clock):
    path = tmp_path / "keys"
    first = run(path, "add", "first").stdout.strip()
    keyring = Keyring(path=path)
    keyring.load()
    async with service(keyring=keyring) as cloud, trio.open_nursery() as nursery:
        nursery.start_soon(keyring.watch, run_inline)

        async def status(secret: str) -> int:
            return (await cloud.client.post("/log", content=envelope(payload(1)), headers=bearer(secret))).status_code

        second = run(path, "add", "second").stdout.strip()
        assert await status(second) == 403
        await trio.sleep(LOOK_EVERY_S * 1.5)
        assert [await status(first), await status(second)] == [200, 200]
        run(path, "revoke", "first")
        await trio.sleep(LOOK_EVERY_S * 1.5)
        assert [await status(first), await status(second)] == [403, 200]
        run(path, "revoke", "second")
        await trio.sleep(LOOK_EVERY_S * 1.5)
        assert [await status(first), await status(second)] == [403, 403]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("harm", ["gone", "damaged", "unreadable"])
def test_a_file_that_is_harmed_while_running_changes_nothing_and_is_logged_once(harm, tmp_path):
    path = tmp_path / "keys"
    path.write_text("secret\n")
    keyring = Keyring(path=path)
    keyring.load()
    with structlog.testing.capture_logs() as logs:
        path.unlink()
        if harm == "damaged":
            path.write_text("{")
        if harm == "unreadable":
            path.mkdir()
        for _ in range(3):
            keyring._look()
    assert keyring.current.judge("Bearer secret").verdict is Verdict.ADMITTED
    assert [line["event"] for line in logs] == ["keys_not_read"]


def test_the_secret_is_in_no_repr_and_no_hash_is_either():
    key = Keys.of(["hunter2"])
    assert "hunter2" not in repr(key)
    assert digest_of("hunter2").hex() not in json.dumps(repr(key))
    assert os.linesep not in repr(key)
