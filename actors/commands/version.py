"""`version`: of the program, and of the three formats that outlive it."""

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

import click

from actors.commands.options import json_option, say
from actors.commands.words import columns
from actors.ports.journal import FORMAT_VERSION
from actors.ports.schema import MIGRATIONS
from cloud.wire import WIRE_VERSION


@click.command()
@json_option
def version(*, as_json: bool) -> None:
    """Show the versions of the program and of its formats."""
    found = {
        "holdfast": own_version(),
        "wire": WIRE_VERSION,
        "journal": FORMAT_VERSION,
        "buffer": len(MIGRATIONS),
        "python": platform.python_version(),
    }
    say(as_json, found, columns([(name, str(value)) for name, value in found.items()]))


def own_version() -> str:
    """The version of this installation; `unknown` when it runs from a folder that was never installed."""
    try:
        return version_of("holdfast")
    except PackageNotFoundError:
        return "unknown"
