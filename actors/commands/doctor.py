"""`doctor`: is all there that the device needs? One line each: ok, warn or fail, what was seen, and the remedy."""

import itertools
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import attrs
import click
import trio

from actors.commands import checks_cloud, checks_disk, checks_vision
from actors.commands.checks import Begun, Check, Step, Verdict, failed, ok, warn
from actors.commands.options import SettingsCommand, find_config, json_option, settings_flags
from actors.commands.words import count
from actors.loading import load_settings
from actors.ports.door import NoDoor, door
from actors.settings import Settings, SettingsError

MARKS = {Verdict.OK: ("ok", "green"), Verdict.WARN: ("warn", "yellow"), Verdict.FAIL: ("FAIL", "red")}
NAME_CHARS = 12

Found = TypeVar("Found")
Tell = Callable[[Check], None]
Remind = Callable[[str], None]
Group = Callable[[Settings, bool], AsyncIterator[Step]]
GROUPS: tuple[tuple[str, Group, float], ...] = (
    ("disk", checks_disk.disk, 20.0),
    ("cloud", checks_cloud.cloud, 50.0),
    ("vision", checks_vision.vision, 150.0),
)
"""The groups of checks, and what each may take in seconds; what is not done by then is told as failed."""
FIRST_S = 10.0
"""What reading the settings may take, and what asking a running device may."""
LOOK_UP = "docs/operations.md says what to do about it"
REMIND_S = 5.0
"""How often stderr says what is being waited for."""


@click.command(cls=SettingsCommand)
@json_option
@settings_flags()
def doctor(config: Path | None, *, as_json: bool, **flags: Any) -> None:
    """Check everything that the device needs, and say what to do where something is missing.

    Safe beside a running device: then the model and the cameras are left to it. Exit code 1 if anything fails;
    a warning is none. It ends within four minutes, whatever hangs; stderr says what is being waited for.
    """
    found: list[Check] = []

    def tell(check: Check) -> None:
        found.append(check)
        if not as_json:
            click.echo("\n".join(lines_of(check)))

    def remind(sentence: str) -> None:
        click.echo(sentence, err=True)

    trio.run(examine, config, flags, tell, remind)
    fails = sum(check.verdict is Verdict.FAIL for check in found)
    warns = sum(check.verdict is Verdict.WARN for check in found)
    if as_json:
        click.echo(json.dumps([{**attrs.asdict(check), "verdict": check.verdict.value} for check in found]))
    else:
        click.echo(f"{count(len(found), 'check')}: {fails} failed, {warns} to look at")
    raise SystemExit(1 if fails else 0)


async def examine(config: Path | None, flags: dict[str, Any], tell: Tell, remind: Remind) -> None:
    """Settings first; without them there is nothing to check."""
    settings = await first(Begun("settings", FIRST_S), partial(read, config, flags), remind)
    if not isinstance(settings, Settings):
        problems = settings.problems if settings else (f"not read within {FIRST_S:g} s: does their disk hang?",)
        for problem in problems:
            tell(failed("settings", problem, "mend the value where it stands, or take it out"))
        return
    source = find_config(config)
    tell(ok("settings", f"{len(settings.origins)} set, {source or 'no TOML file'}"))
    for warning in settings.warnings:
        tell(warn("settings", warning, "mend the name, or take it out"))
    device = await first(Begun("device", FIRST_S), partial(running_device, settings), remind)
    if device is None:
        seen = f"one has this buffer, but says nothing within {FIRST_S:g} s"
        tell(failed("device", seen, "see its log; kill -9 costs nothing that it accepted, then start it again"))
    for check in how_it_runs(device) if device else ():
        tell(check)
    for name, group, limit_s in GROUPS:
        await bounded(Begun(name, limit_s), group(settings, device != {}), tell, remind)


async def first(begun: Begun, work: Callable[[], Found], remind: Remind) -> Found | None:
    """What comes of it in a thread; None if it is not done in its time."""
    with trio.move_on_after(begun.limit_s):
        return await reminded(begun, partial(trio.to_thread.run_sync, work, abandon_on_cancel=True), remind)
    return None


async def bounded(group: Begun, steps: AsyncIterator[Step], tell: Tell, remind: Remind) -> None:
    """Tell of each check as it is done; a group that hangs is given up after its time."""
    begun = group
    with trio.move_on_after(group.limit_s) as scope:
        while step := await reminded(begun, partial(anext, steps, None), remind):
            if isinstance(step, Check):
                tell(step)
            begun = step if isinstance(step, Begun) else group
    if scope.cancelled_caught:
        tell(
            failed(
                begun.name, f"no result within {group.limit_s:g} s", "it hangs; the line before says how far it came"
            )
        )


async def reminded(begun: Begun, work: Callable[[], Awaitable[Found]], remind: Remind) -> Found:
    """What comes of it; meanwhile a person hears now and then what is being waited for."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_remind, begun, remind)
        found = await work()
        nursery.cancel_scope.cancel()
    return found


async def _remind(begun: Begun, remind: Remind) -> None:
    for round_ in itertools.count(1):
        await trio.sleep(REMIND_S)
        remind(f"      {begun.name}: for {round_ * REMIND_S:g} s now; given up after {begun.limit_s:g} s")


def read(config: Path | None, flags: dict[str, Any]) -> Settings | SettingsError:
    """The settings, or all that is wrong with them."""
    try:
        return load_settings(os.environ, find_config(config), flags)
    except SettingsError as exc:
        return exc


def running_device(settings: Settings) -> dict[str, Any]:
    """What the device that runs on this buffer says of itself; empty if none does."""
    try:
        with door(settings.buffer_db_path) as device:
            return device.status()
    except NoDoor:
        return {}


def how_it_runs(status: dict[str, Any]) -> Iterator[Check]:
    """What a running device itself finds wrong: nobody knows it sooner."""
    reasons = [*status["failing"], *status["unready"]]
    if reasons:
        yield warn("device", f"runs, but is not ready: {'; '.join(reasons)}", LOOK_UP)
    else:
        yield ok("device", "runs, and is ready")
    for name, alert in status["alert_details"].items():
        yield warn(name, alert["detail"], LOOK_UP)


def lines_of(check: Check) -> list[str]:
    """A check as a person reads it; the remedy below, where there is something to do."""
    word, colour = MARKS[check.verdict]
    lines = [f"{click.style(f'{word:<5}', fg=colour)} {check.name:<{NAME_CHARS}} {check.seen}"]
    if check.remedy and check.verdict is not Verdict.OK:
        lines.append(f"{'':<6}{'':<{NAME_CHARS}} -> {check.remedy}")
    return lines
