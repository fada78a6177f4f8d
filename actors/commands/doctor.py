"""`doctor`: is all there that the device needs? One line each: ok, warn or fail, what was seen, and the remedy."""

import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import click
import trio

from actors.commands import checks_cloud, checks_disk, checks_vision
from actors.commands.checks import Check, Verdict, failed
from actors.commands.options import SettingsCommand, find_config, json_option, settings_flags
from actors.loading import load_settings
from actors.ports.owner import NoDoor, door
from actors.settings import Settings, SettingsError

MARKS = {Verdict.OK: ("ok", "green"), Verdict.WARN: ("warn", "yellow"), Verdict.FAIL: ("FAIL", "red")}
NAME_CHARS = 12

Group = Callable[[Settings, bool], AsyncIterator[Check]]
GROUPS: tuple[tuple[str, Group, float], ...] = (
    ("disk", checks_disk.disk, 30.0),
    ("cloud", checks_cloud.cloud, 60.0),
    ("vision", checks_vision.vision, 150.0),
)
"""The groups of checks, and what each may take in seconds; what is not done by then is told as failed."""


@click.command(cls=SettingsCommand)
@json_option
@settings_flags()
def doctor(config: Path | None, *, as_json: bool, **flags: Any) -> None:
    """Check everything that the device needs, and say what to do where something is missing.

    Safe beside a running device: then the model and the cameras are left to it. Exit code 1 if anything fails;
    a warning is none. It ends within four minutes, whatever hangs.
    """
    found: list[Check] = []

    def tell(check: Check) -> None:
        found.append(check)
        if not as_json:
            click.echo("\n".join(lines_of(check)))

    trio.run(examine, config, flags, tell)
    fails = sum(check.verdict is Verdict.FAIL for check in found)
    warns = sum(check.verdict is Verdict.WARN for check in found)
    if as_json:
        click.echo(json.dumps([{**attrs.asdict(check), "verdict": check.verdict.value} for check in found]))
    else:
        click.echo(f"{len(found)} checks: {fails} failed, {warns} to look at")
    raise SystemExit(1 if fails else 0)


async def examine(config: Path | None, flags: dict[str, Any], tell: Callable[[Check], None]) -> None:
    """Settings first; without them there is nothing to check."""
    try:
        settings = load_settings(os.environ, find_config(config), flags)
    except SettingsError as exc:
        for problem in exc.problems:
            tell(Check("settings", Verdict.FAIL, problem, "mend the value where it stands, or take it out"))
        return
    source = find_config(config)
    tell(Check("settings", Verdict.OK, f"{len(settings.origins)} set, {source or 'no TOML file'}"))
    for warning in settings.warnings:
        tell(Check("settings", Verdict.WARN, warning, "mend the name, or take it out"))
    runs = await trio.to_thread.run_sync(device_runs, settings)
    for name, group, limit_s in GROUPS:
        await bounded(name, group(settings, runs), tell, limit_s)


async def bounded(name: str, checks: AsyncIterator[Check], tell: Callable[[Check], None], limit_s: float) -> None:
    """Tell of each check as it is done; a group that hangs is given up after `limit_s`."""
    with trio.move_on_after(limit_s) as scope:
        async for check in checks:
            tell(check)
    if scope.cancelled_caught:
        tell(failed(name, f"no result within {limit_s:g} s", "something hangs; the line before says how far it came"))


def device_runs(settings: Settings) -> bool:
    """Whether a device answers behind the control door of this buffer."""
    try:
        with door(settings.buffer_db_path):
            return True
    except NoDoor:
        return False


def lines_of(check: Check) -> list[str]:
    """A check as a person reads it; the remedy below, where there is something to do."""
    word, colour = MARKS[check.verdict]
    lines = [f"{click.style(f'{word:<5}', fg=colour)} {check.name:<{NAME_CHARS}} {check.seen}"]
    if check.remedy and check.verdict is not Verdict.OK:
        lines.append(f"{'':<6}{'':<{NAME_CHARS}} -> {check.remedy}")
    return lines
