"""`config`: the effective settings, and where each value came from."""

import click

from actors.commands.options import SettingsCommand, json_option, say, with_settings
from actors.commands.words import columns
from actors.loading import describe
from actors.settings import Settings


@click.command(cls=SettingsCommand)
@json_option
@with_settings()
def config(settings: Settings, *, as_json: bool) -> None:
    """Show the settings in force and where each came from; secrets are masked."""
    rows = describe(settings)
    found = {row.name: {"value": row.value, "origin": row.origin, "unit": row.unit} for row in rows}
    table = [("SETTING", "VALUE", "FROM"), *((row.name, _cell(row.value, row.unit), row.origin) for row in rows)]
    say(as_json, found, columns(table))


def _cell(value: str, unit: str) -> str:
    """The value with its unit, where it is a number."""
    return f"{value} {unit}".rstrip() if value.replace(".", "", 1).isdecimal() else value
