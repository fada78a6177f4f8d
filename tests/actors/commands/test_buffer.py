"""`app.py buffer …` without a device: what each command does, says, and refuses."""

import json
import os
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from actors.commands.buffer_change import parse_since
from actors.commands.options import Problem
from actors.ports.control_socket import control_path, short_path
from actors.ports.door import FLUSH
from actors.tasks import Task, TaskKind
from tests.commands_world import SENT_AT, Shell, make_buffer
from tests.places import locked_by_somebody

PENDING = {4: "pending", 5: "pending", 6: "pending"}


@pytest.fixture
def shell(folder, monkeypatch) -> Shell:
    monkeypatch.chdir(folder)
    shell = Shell(folder)
    make_buffer(shell.db_path, 6, sent=(1, 2), failed=(3,))
    return shell


# --- looking


def test_stats_tell_every_figure_and_write_them_to_a_file(shell, folder):
    found = shell.json("buffer", "stats")
    assert (found["pending"], found["sent"], found["failed"], found["last_seq"]) == (3, 2, 1, 6)
    assert (found["edge_device_id"], found["stream_id"], found["in_journal"]) == ("cam", "stream", 0)
    assert "written to figures.json" in shell.said("buffer", "stats", "-o", "figures.json")
    assert json.loads((folder / "figures.json").read_text()) == found
    assert "1 to 6" in shell.said("buffer", "stats")


@pytest.mark.parametrize(
    "command",
    ["reset-failed", "replay --where 1 --yes", "cleanup --force --yes", "vacuum", "discard --where 1 --yes", "repair"],
)
def test_no_command_renames_the_device_after_the_shell_that_it_is_given_in(shell, command):
    shell.settings["EDGE_DEVICE_ID"] = "some-shell"
    shell.said("buffer", *command.split())
    found = shell.json("buffer", "stats")
    assert (found["edge_device_id"], found["stream_id"]) == ("cam", "stream")


def test_list_shows_the_newest_first_and_only_what_was_asked_for(shell):
    lines = shell.said("buffer", "list").splitlines()
    assert [line.split()[0] for line in lines] == ["ID", "6", "5", "4", "3", "2", "1"]
    assert [row["id"] for row in shell.json("buffer", "list", "--status", "sent")] == [2, 1]
    assert [row["id"] for row in shell.json("buffer", "list", "--where", "id > 2", "--oldest", "-n", 2)] == [3, 4]
    assert shell.said("buffer", "list", "--where", "image_id = 'none'") == "no rows\n"
    assert [row["id"] for row in shell.json("buffer", "list", "--image", "frame_2")] == [2]
    assert shell.said("buffer", "list", "--image", "frame_2", "--status", "failed") == "no rows\n"
    assert "detections: too many" in shell.said("buffer", "list", "--status", "failed")


def test_show_tells_the_prediction_or_what_became_of_it(shell):
    found = shell.json("buffer", "show", 5)
    assert (found["status"], found["prediction"]["image_id"]) == ("pending", "frame_5")
    assert '"image_id": "frame_5"' in shell.said("buffer", "show", 5)
    assert "has given out the numbers 1 to 6" in shell.refused("buffer", "show", 7)
    shell.said("buffer", "discard", "--where", "id = 5", "--yes")
    assert "given up: discarded" in shell.refused("buffer", "show", 5)
    shell.said("buffer", "cleanup", "--force", "--yes")
    assert "confirmed by the cloud and cleaned up since" in shell.refused("buffer", "show", 1)


@pytest.mark.parametrize(
    "condition",
    ["nonsense = 1", "id = ", "1; DELETE FROM prediction_buffer", "id IN (DELETE", "x'"],
)
@pytest.mark.parametrize("command", [("list",), ("export",), ("discard", "--yes"), ("replay", "--yes")])
def test_a_condition_that_is_none_is_told_and_nothing_happens(shell, command, condition):
    said = shell.refused("buffer", *command, "--where", condition)
    assert "--where" in said
    assert "it takes an SQL condition on id, status, image_id" in said
    assert len(shell.rows()) == 6


@pytest.mark.parametrize("command", [("stats",), ("list",), ("show", "1"), ("export",)])
def test_a_device_that_hangs_keeps_nobody_from_looking(shell, command, monkeypatch):
    """Its journal may hold what is confirmed already, and only it knows."""
    monkeypatch.setattr("actors.ports.door.LOOK_ANSWER_S", 0.01)
    with closing(socket.socket(socket.AF_UNIX)) as listener, short_path(control_path(shell.db_path)) as name:
        listener.bind(name)
        listener.listen()
        done = shell.run("buffer", *command)
    assert done.exit_code == 0
    assert "warning: the device that runs does not answer (TimeoutError): what its journal alone holds" in done.stderr
    assert "frame_1" in done.stdout or command == ("stats",)


def test_the_door_is_asked_to_flush_in_its_own_words():
    assert msgspec.json.decode(FLUSH, type=Task) == Task(kind=TaskKind.FLUSH)


def test_a_condition_can_not_reach_beyond_the_rows_of_its_command(shell):
    assert shell.json("buffer", "discard", "--where", "id = 4) OR (1", "--yes")["changed"] == 4
    assert shell.rows() == {1: "sent", 2: "sent"}
    assert [row["id"] for row in shell.json("buffer", "list", "--status", "sent", "--where", "0) OR (1")] == [2, 1]


def test_a_condition_may_only_read(shell, folder):
    said = shell.refused("buffer", "list", "--where", "id IN (SELECT writefile('x', 'y'))")
    assert "no such function" in said
    said = shell.refused("buffer", "list", "--where", "load_extension('x')")
    assert "it takes an SQL condition" in said


# --- changing


def test_quarantined_ones_are_tried_again(shell):
    assert "1 quarantined prediction will be tried again" in shell.said("buffer", "reset-failed")
    assert shell.rows() == {1: "sent", 2: "sent", 3: "pending", **PENDING}
    assert shell.json("buffer", "reset-failed")["changed"] == 0


def test_sent_ones_are_sent_again_since_a_time(shell):
    assert "say which" in shell.refused("buffer", "replay")
    assert shell.json("buffer", "replay", "--since", "2h", "--yes")["changed"] == 0
    assert "Nothing was done: say --yes" in shell.refused("buffer", "replay", "--where", "1")
    assert shell.json("buffer", "replay", "--since", "2023-11-14 22:00", "--where", "id = 2", "--yes")["changed"] == 1
    assert shell.rows() == {1: "sent", 2: "pending", 3: "failed", **PENDING}


def test_discarded_ones_are_asked_about_and_stay_explained(shell):
    assert "3 predictions will be lost for good" in shell.refused("buffer", "discard", "--where", "id > 3")
    assert len(shell.rows()) == 6
    assert "4 predictions given up" in shell.said("buffer", "discard", "--where", "1", "--yes")
    assert shell.rows() == {1: "sent", 2: "sent"}
    assert shell.json("buffer", "stats")["given_up"] == {"discarded": 4}


def test_cleanup_spares_what_is_young_and_whatever_is_not_sent(shell):
    shell.settings["BUFFER_CLEANUP_DAYS"] = 36_000
    assert shell.json("buffer", "cleanup")["changed"] == 0
    assert "All sent predictions will be deleted" in shell.refused("buffer", "cleanup", "--force")
    assert "2 sent predictions deleted (of any age)" in shell.said("buffer", "cleanup", "--force", "--yes")
    assert shell.rows() == {3: "failed", **PENDING}


def test_vacuum_gives_space_back(folder, monkeypatch):
    monkeypatch.chdir(folder)
    shell = Shell(folder)
    make_buffer(shell.db_path, 6_000)
    shell.said("buffer", "discard", "--where", "id > 10", "--yes")
    found = shell.json("buffer", "vacuum")
    assert found["bytes_after"] < found["bytes_before"] / 4
    assert shell.db_path.stat().st_size == found["bytes_after"]


# --- there and back


def test_exported_ones_come_back_under_their_own_numbers(shell, folder):
    assert "6 rows written to rows.jsonl" in shell.said("buffer", "export", "-o", "rows.jsonl")
    before = shell.said("buffer", "export")
    assert (folder / "rows.jsonl").read_text() == before
    shell.said("buffer", "discard", "--where", "id > 4", "--yes")
    shell.said("buffer", "cleanup", "--force", "--yes")
    found = shell.json("buffer", "import", "rows.jsonl")
    assert found == {"restored": 4, "present": 2, "refused": 0, "accepted_as_new": 0}
    assert shell.rows() == {1: "pending", 2: "pending", 3: "failed", **PENDING}
    assert [json.loads(line)["prediction"] for line in shell.said("buffer", "export").splitlines()] == [
        json.loads(line)["prediction"] for line in before.splitlines()
    ]
    assert shell.json("buffer", "stats")["given_up"] == {}


def test_ones_of_another_buffer_come_in_only_under_new_numbers(shell, folder):
    exported = shell.said("buffer", "export").replace('"stream"', '"elsewhere"')
    (folder / "other.jsonl").write_text(exported)
    said = shell.refused("buffer", "import", "other.jsonl")
    assert "6 predictions of another buffer; nothing was imported. --as-new" in said
    assert len(shell.rows()) == 6
    assert shell.json("buffer", "import", "other.jsonl", "--as-new", "--yes")["accepted_as_new"] == 6
    assert shell.rows() == {1: "sent", 2: "sent", 3: "failed", **dict.fromkeys(range(4, 13), "pending")}
    assert shell.json("buffer", "show", 7)["prediction"]["seq"] == 7


@pytest.mark.parametrize("line", ["", "{}", '{"prediction": {"image_id": 7}}', "\xff", "[1, 2", "null"])
def test_a_bad_line_is_named_and_nothing_is_imported(shell, folder, line):
    good = shell.said("buffer", "export")
    shell.said("buffer", "discard", "--where", "1", "--yes")
    (folder / "rows.jsonl").write_bytes(f"{good}{line}\n".encode("latin-1"))
    if line:
        assert "rows.jsonl, line 7: " in shell.refused("buffer", "import", "rows.jsonl")
        assert shell.rows() == {1: "sent", 2: "sent"}
    else:
        assert shell.json("buffer", "import", "rows.jsonl")["restored"] == 4


# --- mending


def test_a_sound_database_is_left_alone(shell, folder):
    assert shell.said("buffer", "repair") == "the database is sound\n"
    assert not list(folder.glob("*.corrupt-*"))


def test_a_damaged_database_is_replaced_and_what_is_owed_is_kept(shell, folder):
    data = bytearray(shell.db_path.read_bytes())
    at = data.rindex(b'"image_id":"frame_1"')
    data[at - 200 : at - 100] = bytes(100)
    shell.db_path.write_bytes(data)
    found = shell.json("buffer", "repair")
    assert found["damage"]
    assert not found["left"]
    assert list(folder.glob("*.corrupt-*"))
    assert set(PENDING.items()) <= set(shell.rows().items()) | {(4, "pending")}
    assert shell.said("buffer", "repair") == "the database is sound\n"


def test_what_is_no_database_at_all_is_replaced(shell, folder):
    shell.db_path.write_bytes(b"no database" * 1000)
    assert shell.json("buffer", "repair")["left"] == []
    assert list(folder.glob("*.corrupt-*"))


# --- what an operator can mend

CHANGES = (
    ("reset-failed",),
    ("replay", "--where", "1", "--yes"),
    ("discard", "--where", "1", "--yes"),
    ("cleanup",),
    ("vacuum",),
)
LOOKS = (("stats",), ("list",), ("show", "1"), ("export",))


@pytest.mark.parametrize("command", [*CHANGES, *LOOKS, ("repair",)])
def test_a_wrong_path_is_named_and_nothing_is_made_there(shell, folder, command):
    said = shell.refused("buffer", *command, "--buffer-db-path", folder / "elsewhere" / "buffer.db")
    assert f"{folder}/elsewhere/buffer.db: there is no buffer" in said
    assert not (folder / "elsewhere").exists()


@pytest.mark.parametrize("command", [*LOOKS, *CHANGES, ("repair",)])
def test_what_is_no_buffer_is_told_and_left_alone(shell, folder, command):
    with closing(sqlite3.connect(folder / "other.db")) as connection:
        connection.execute("CREATE TABLE stranger (a)")
        connection.commit()
    before = (folder / "other.db").read_bytes()
    assert "other.db" in shell.refused("buffer", *command, "--buffer-db-path", folder / "other.db")
    assert (folder / "other.db").read_bytes() == before


@pytest.mark.parametrize("command", CHANGES)
def test_a_buffer_that_another_program_has_open_is_left_alone(shell, command, monkeypatch):
    monkeypatch.setattr("actors.ports.owner.DOOR_PATIENCE_S", 0.0)
    held = locked_by_somebody(shell.db_path)
    try:
        said = shell.refused("buffer", *command)
    finally:
        os.close(held)
    assert "another process has this buffer open" in said
    assert len(shell.rows()) == 6


def test_looking_needs_no_lock(shell):
    held = locked_by_somebody(shell.db_path)
    try:
        assert shell.json("buffer", "stats")["pending"] == 3
    finally:
        os.close(held)


@pytest.mark.parametrize("command", [*LOOKS, *CHANGES, ("repair",)])
def test_a_folder_that_may_not_be_entered_is_told(shell, command, monkeypatch):
    def denied(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", denied)
    assert "Permission denied" in shell.refused("buffer", *command)


def test_a_device_file_is_no_buffer_and_nothing_is_made_beside_it(shell):
    assert "there is no buffer" in shell.refused("buffer", "repair", "--buffer-db-path", "/dev/null")
    assert not Path("/dev/null.lock").exists()


def test_a_file_that_can_not_be_written_is_told_without_a_number(shell):
    assert (
        shell.refused("buffer", "export", "-o", "/nowhere/rows")
        == "error: /nowhere/rows.part: No such file or directory\n"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_no_permission_is_told(shell, folder):
    shell.db_path.chmod(0)
    assert "buffer.db" in shell.refused("buffer", "stats")


# --- pure


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", SENT_AT - 90),
        ("30min", SENT_AT - 1_800),
        ("1.5h", SENT_AT - 5_400),
        (" 2 d ", SENT_AT - 172_800),
        ("2023-11-14T22:13:20+00:00", SENT_AT),
    ],
)
def test_since_is_a_span_or_a_time(text, expected):
    assert parse_since(text, SENT_AT) == expected


@pytest.mark.parametrize("text", ["", "soon", "2", "-1h", "2 weeks", "2026-13-01", "1e3h"])
def test_since_that_is_neither_is_told(text):
    with pytest.raises(Problem, match="it takes '2h'"):
        parse_since(text, SENT_AT)
