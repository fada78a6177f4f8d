"""The documents say what the code does: the settings' table, and each command that is shown."""

import shlex
from pathlib import Path

import pytest

from tests.commands_world import Shell, make_buffer
from tools.settings_page import PAGE, page

ROOT = Path(__file__).parents[1]
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
SHOWN = [
    shlex.split(line.removeprefix("$ app.py "), comments=True)
    for line in COMMANDS.splitlines()
    if line.startswith("$ app.py ")
]
NOT_HERE = ("run", "demo")
"""They have tests of their own."""


def test_the_settings_page_is_as_the_code_writes_it():
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tools.settings_page`"


def test_every_command_is_shown():
    from actors.commands.buffer import ENTRIES as OF_BUFFER
    from app import ENTRIES

    names = {name for section in ENTRIES.values() for name in section} - {"buffer"}
    names |= {f"buffer {name}" for section in OF_BUFFER.values() for name in section}
    shown = {" ".join(words[: 2 if words[0] == "buffer" else 1]) for words in SHOWN}
    assert shown == names


def test_what_is_shown_works_in_the_order_shown(folder, monkeypatch):
    """Exit code 2 only from those that want a cloud or a device, and there is none here."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("actors.fitting.detector", _none)
    shell = Shell(folder, {"SOURCES": "none"})
    make_buffer(shell.db_path, 20, sent=(1, 2), failed=(3,))
    for words in SHOWN:
        if words[0] in NOT_HERE:
            continue
        done = shell.run(*words)
        wants_company = words[0] in ("audit", "watch", "doctor")
        assert done.exit_code in ((1, 2) if wants_company else (0,)), (words, done.output)


def _none(_: object) -> None:
    from actors.ports.detector import DetectorError

    raise DetectorError("no model")


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(folder, shell_name):
    said = Shell(folder).said("completion", shell_name)
    assert "_MAIN_COMPLETE" in said


def test_completion_knows_commands_and_flags(folder):
    done = Shell(folder, {"_MAIN_COMPLETE": "bash_complete", "COMP_WORDS": "main buffer re", "COMP_CWORD": 2}).run()
    assert {line.partition(",")[2] for line in done.stdout.splitlines()} == {"reset-failed", "replay", "repair"}
    done = Shell(folder, {"_MAIN_COMPLETE": "bash_complete", "COMP_WORDS": "main status --j", "COMP_CWORD": 2}).run()
    assert done.stdout == "plain,--json\n"
