"""Write `docs/settings.md` from the settings themselves: `python -m tools.settings_page`."""

from pathlib import Path

from actors.commands.options import OTHER_SECTION, SECTIONS, section_of
from actors.settings import FIELDS, LIVE, Settings

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
COMPUTED = {"edge_device_id": "the host name", "buffer_db_path": "`~/.local/state/holdfast/buffer.db`"}
"""Defaults that depend on the machine."""
HEAD = """# Settings

<!-- Written by `python -m tools.settings_page` from `actors/settings.py`; a test keeps the two equal. -->

Each setting has three names: `BATCH_SIZE` in the environment, `batch_size` in `holdfast.toml`, `--batch-size` as a
flag. A flag beats the environment, the environment beats the file, the file beats the default. `--config FILE` names
another file than `./holdfast.toml`. An empty variable counts as not set. Secrets have no flag: they would show in every
list of processes.

`app.py config` shows what holds and where each value came from. All that is wrong is told at once, and refuses the
start.

**SIGHUP** reads them again. Those marked with a dot change at once; of the others the log names what waits for a
restart. A wrong new value leaves all the old ones in force. The environment and the flags of a process never change, so
what SIGHUP is to change must stand in the file (or in a key's file, which is read again whenever it changes).
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for section in (*SECTIONS, OTHER_SECTION):
        names = [name for name in FIELDS if section_of(name) == section]
        rows = ["| name | default | takes | | |", "|---|---|---|---|---|", *(_row(name) for name in names)]
        parts.append(f"## {section}\n\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _row(name: str) -> str:
    about = FIELDS[name]
    default = COMPUTED.get(name) or f"`{about.show(getattr(Settings(), name))}`"
    alias = f"<br>or `{about.alias}`" if about.alias else ""
    unit = f" ({about.unit})" if about.unit not in ("", "path", "address", "host:port") else ""
    live = "●" if name in LIVE else ""
    takes = about.kind.takes.replace("|", "\\|")
    return f"| `{name.upper()}`{alias} | {default} | {takes}{unit} | {live} | {about.help} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"written: {PAGE}")
