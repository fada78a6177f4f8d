"""The group of all commands: shown in sections, each loaded only when it is asked for, so that `--help` is quick."""

from collections.abc import Mapping
from importlib import import_module

import attrs
import click


@attrs.frozen
class Entry:
    """Where a command lives (`module:name`), and what `--help` says of it."""

    place: str
    summary: str


class Front(click.Group):
    """Commands by section. `entries` maps a section's title to its commands in the order of the help."""

    def __init__(self, entries: Mapping[str, Mapping[str, Entry]], name: str | None = None, **more: object) -> None:
        super().__init__(name, **more)  # type: ignore[arg-type]
        self.entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the help."""
        del ctx
        return [name for section in self.entries.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, loaded now."""
        del ctx
        for section in self.entries.values():
            if entry := section.get(cmd_name):
                module, _, attribute = entry.place.partition(":")
                command: click.Command = getattr(import_module(module), attribute)
                return command
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with the nearest name where there is no such command."""
        from difflib import get_close_matches  # noqa: PLC0415 - only for a mistake

        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            close = get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(self.list_commands(ctx))}"
            ctx.fail(f"there is no command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The sections, without loading anything."""
        del ctx
        for title, section in self.entries.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.summary) for name, entry in section.items()])
