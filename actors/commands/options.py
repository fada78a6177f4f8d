"""What the commands share: the flags that stand for settings, `--json`, and how a mistake is told."""

import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from actors.loading import load_settings
from actors.settings import FIELDS, Settings, SettingsError
from actors.values import mask

DEFAULT_CONFIG = Path("holdfast.toml")
SECTIONS = {
    "Delivery": ("cloud_", "edge_", "batch_", "max_", "retry_", "timeout_", "recovery_", "connectivity_", "tls_"),
    "Buffer": ("buffer_", "enable_session_"),
    "Vision": ("model_", "sources", "confidence", "iou", "defect_", "detector", "annotate_", "after_", "camera_"),
}
"""Where `--help` shows a setting, by the beginning of its name; what is in none of them comes last."""
OTHER_SECTION = "Operation"

Command = Callable[..., Any]


class Problem(click.ClickException):
    """What an operator can mend, told in a sentence, without a traceback."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """On stderr, each line that says what is wrong after the first one set in a little."""
        click.echo(f"error: {mask(self.message)}", file=file, err=file is None)


class SettingsCommand(click.Command):
    """A command whose `--help` shows the flags for settings in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command's own options first, then the settings."""
        sections: dict[str, list[tuple[str, str]]] = {name: [] for name in ("Options", *SECTIONS, OTHER_SECTION)}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                sections[section_of(parameter.name or "")].append(record)
        for name, records in sections.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


def section_of(name: str) -> str:
    """The section of `--help` that shows a parameter."""
    if name not in FIELDS:
        return "Options"
    return next((section for section, starts in SECTIONS.items() if name.startswith(starts)), OTHER_SECTION)


def settings_flags(*names: str) -> Callable[[Command], Command]:
    """Give a command `--config` and a flag for each of `names` (none: for all settings), as they were written."""

    def decorate(command: Command) -> Command:
        for name in reversed(_flagged(names)):
            about = FIELDS[name]
            flag = f"--{name.replace('_', '-')}"
            command = click.option(flag, name, metavar=about.unit.upper() or "VALUE", help=about.help)(command)
        return click.option(
            "--config",
            type=click.Path(path_type=Path, dir_okay=False),
            help=f"A TOML file with settings. [default: {DEFAULT_CONFIG}, if it is there]",
        )(command)

    return decorate


def with_settings(*names: str) -> Callable[[Command], Command]:
    """`settings_flags`, read: the command gets the settings as its first argument."""

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def command(config: Path | None = None, **given: Any) -> Any:
            flags = {name: given.pop(name) for name in _flagged(names) if name in given}
            return function(read_settings(config, flags), **given)

        return settings_flags(*names)(command)

    return decorate


def _flagged(names: Sequence[str]) -> list[str]:
    """A secret in a command line would be a secret in every process list, so it has no flag."""
    return [name for name in names or FIELDS if not FIELDS[name].secret]


def find_config(config: Path | None) -> Path | None:
    """The TOML file to read: the one that was named, else the default one if it is there."""
    return config or (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)


def read_settings(config: Path | None, flags: dict[str, Any]) -> Settings:
    """The settings of this start; `Problem` with all that is wrong."""
    try:
        settings = load_settings(os.environ, find_config(config), flags)
    except SettingsError as exc:
        raise Problem(str(exc)) from exc
    for warning in settings.warnings:
        click.echo(f"warning: {warning}", err=True)
    return settings


json_option = click.option("--json", "as_json", is_flag=True, help="Say it as JSON.")
"""The flag that turns a command's words into JSON on stdout."""
yes_option = click.option("--yes", "-y", is_flag=True, help="Don't ask.")


def tells(*mistakes: type[Exception]) -> Callable[[Command], Command]:
    """These errors are an operator's to mend: told in a sentence, exit code 2."""

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def command(*args: Any, **given: Any) -> Any:
            try:
                return function(*args, **given)
            except mistakes as exc:
                raise Problem(_words(exc)) from exc

        return command

    return decorate


def _words(error: Exception) -> str:
    """The error as a sentence; what the system says is told without its number."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def say(as_json: bool, found: object, lines: Sequence[str]) -> None:
    """The one or the other form of the same finding."""
    click.echo(json.dumps(found) if as_json else "\n".join(lines))


def fail(*sentences: str) -> NoReturn:
    """Exit code 2, and why."""
    raise Problem("\nerror: ".join(sentences))
