"""The device's front door: `python app.py` runs it, `python app.py demo` shows what it can do."""

import sys

import click

from actors.commands.front import Entry, Front

ENTRIES = {
    "Run": {
        "run": Entry("actors.commands.run:run", "Run the device until SIGINT or SIGTERM (the default)."),
        "demo": Entry("chaos.demo:demo", "Show it all in a minute: an outage, a kill -9, a recovery, an audit."),
    },
    "See": {
        "status": Entry("actors.commands.status:status", "Show how the device is at this moment."),
        "watch": Entry("actors.commands.watch:watch", "Watch the running device live; q or Ctrl-C ends it."),
        "audit": Entry("actors.commands.audit:audit", "Compare the device's books with the cloud's, number by number."),
    },
    "Set up": {
        "doctor": Entry("actors.commands.doctor:doctor", "Check everything that the device needs."),
        "config": Entry("actors.commands.config:config", "Show the settings in force and where each came from."),
        "version": Entry("actors.commands.version:version", "Show the versions of the program and of its formats."),
        "completion": Entry("actors.commands.completion:completion", "Print what teaches a shell to complete."),
    },
    "Mend": {
        "buffer": Entry("actors.commands.buffer:buffer", "Look into the buffer, and mend it."),
    },
}


HELP = """Holdfast: store-and-forward for edge vision.

Without a command: run the device with the settings of the environment and of holdfast.toml.

\b
Examples:
  app.py                               run the device
  app.py run --sources /dev/video0     run it on a camera
  app.py status                        how is it?
  app.py COMMAND --help                what a command takes
"""


@click.group(
    cls=Front,
    entries=ENTRIES,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help=HELP,
)
@click.pass_context
def main(context: click.Context) -> None:
    """Run the command, or without one the device."""
    if context.invoked_subcommand is None:
        command = main.get_command(context, "run")
        assert command is not None
        context.invoke(command)


if __name__ == "__main__":
    sys.exit(main())
