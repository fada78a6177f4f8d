"""The device's front door: `python app.py` runs it, `python app.py demo` shows what it can do."""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, NoReturn

import attrs
import click
import structlog
import trio

from actors import fitting
from actors.audit import Finding, compare
from actors.loading import describe, load_settings
from actors.pipeline import Pipeline, open_pipeline
from actors.ports import status_door, systemd
from actors.ports.account import NoBooks, read_account
from actors.ports.client import Unreachable
from actors.ports.detector import DetectorError
from actors.ports.frames import LibraryMissing, SourcesWrong
from actors.ports.lane import thread_lane
from actors.ports.opening import StoreLocked, StoreMisplaced
from actors.settings import FIELDS, Settings, SettingsError

OPERATORS_MATTERS = (SettingsError, SourcesWrong, StoreLocked, StoreMisplaced, DetectorError, LibraryMissing)
"""Errors that an operator can mend: they are told in a sentence, without a traceback, and end with exit code 2."""
DEFAULT_CONFIG = Path("holdfast.toml")

log = structlog.get_logger()


def settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """A flag for every setting, and `--config` for the TOML file."""
    for name, about in reversed(list(FIELDS.items())):
        if not about.secret:  # a secret in a command line is a secret in every process list
            flag = f"--{name.replace('_', '-')}"
            command = click.option(flag, name, metavar=about.unit.upper() or "VALUE", help=about.help)(command)
    return click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        help=f"A TOML file with settings. [default: {DEFAULT_CONFIG}, if it is there]",
    )(command)


def read(config: Path | None, flags: dict[str, object]) -> Settings:
    """The settings of this start, or exit code 2 with all that is wrong."""
    toml = config or (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)
    try:
        settings = load_settings(os.environ, toml, flags)
    except SettingsError as exc:
        fail(str(exc))
    for warning in settings.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return settings


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def main(context: click.Context) -> None:
    """Holdfast: store-and-forward for edge vision.

    Without a command: run the device with the settings of the environment.
    """
    if context.invoked_subcommand is None:
        context.invoke(run)


@main.command()
@settings_options
def run(config: Path | None = None, **flags: object) -> None:
    """Run the device until SIGINT or SIGTERM; a second signal skips the network, never the disk."""
    settings = read(config, flags)
    log_to_stderr()
    end(partial(run_device, settings))


@main.command()
@click.option("--keep", is_flag=True, help="Leave cloud and device running afterwards, and say where to look.")
def demo(*, keep: bool) -> None:
    """Show it all in under a minute: an outage, a kill -9, a recovery, and the audit that proves nothing was lost.

    Starts a cloud on a free loopback port and a device on the sample frames, in a temporary folder. Exit code 0 only
    if nothing is missing.
    """
    from chaos.demo import run_demo  # noqa: PLC0415 - the device itself never needs it

    exit_code = 2
    try:
        exit_code = trio.run(run_demo, keep)
    except* KeyboardInterrupt:
        print("interrupted; cloud and device are stopped", file=sys.stderr)
    sys.exit(exit_code)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="The finding as JSON.")
@settings_options
def audit(config: Path | None, *, as_json: bool, **flags: object) -> None:
    """Compare the device's books with the cloud's, number by number.

    Safe while the device runs. Exit code 0: nothing is missing; 1: something is; 2: it could not be compared.
    """
    settings = read(config, flags)
    try:
        finding = trio.run(find, settings)
    except Unreachable as exc:
        fail(f"CLOUD_LOGGING_ENDPOINT {settings.cloud_logging_endpoint}: {exc}; nothing could be compared")
    except (NoBooks, ValueError) as exc:
        fail(str(exc))
    print(json.dumps(attrs.asdict(finding)) if as_json else f"{settings.edge_device_id}: {finding.sentence()}")
    sys.exit(0 if finding.good else 1)


@main.command("config")
@settings_options
def config_(config: Path | None, **flags: object) -> None:
    """Show the effective settings and where each came from; secrets are masked."""
    rows = describe(read(config, flags))
    name_width = max(len(row.name) for row in rows)
    value_width = max(len(row.value) for row in rows)
    for row in rows:
        print(f"{row.name:<{name_width}}  {row.value:<{value_width}}  {row.origin}")


@main.command("version")
def version_() -> None:
    """Show the version."""
    print(version_of("holdfast"))


async def find(settings: Settings) -> Finding:
    """Ask the cloud, and hold its answer against the buffer. `NoBooks`, `Unreachable`, `ValueError`."""
    account = read_account(settings.buffer_db_path, settings.edge_device_id)
    async with fitting.client(settings, thread_lane()) as client:
        answer = await client.audit(account.device_id)
    if answer.status == 404:
        return compare(account, {})
    if answer.status != 200:
        raise ValueError(f"{settings.cloud_logging_endpoint}: the cloud answered {answer.status} to the audit")
    return compare(account, json.loads(answer.body))


async def run_device(settings: Settings) -> None:
    """The device, from the first frame to the last flush."""
    stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            pipelines: list[Pipeline] = []
            nursery.start_soon(heed, signals, stop, pipelines)
            async with open_pipeline(settings) as pipeline:
                pipelines.append(pipeline)
                tell_start(settings, pipeline)
                window = status_door.Window(pipeline.status, pipeline.picture, pipeline.log_many)
                # In the outer nursery: whoever waits for a receipt gets it while the pipeline stops.
                nursery.start_soon(status_door.serve, window, settings.status_bind, stop)
                nursery.start_soon(systemd.keep_posted, pipeline.status, stop)
                await stop.wait()
            nursery.cancel_scope.cancel()
    last = pipeline.status()
    log.info("stopped", accepted=last["last_seq"], sent=last["sent"], pending=last["pending"], failed=last["failed"])


async def heed(signals: Any, stop: trio.Event, pipelines: list[Pipeline]) -> None:
    """SIGHUP exchanges the model. Of the others the first one stops; the next ones stop waiting for the network."""
    async for number in signals:
        if number == signal.SIGHUP:
            for pipeline in pipelines:
                pipeline.reload_model()
            continue
        log.info("signal", name=signal.Signals(number).name, then="skip the network" if stop.is_set() else "stop")
        if stop.is_set():
            for pipeline in pipelines:
                pipeline.skip_network()
        stop.set()


def tell_start(settings: Settings, pipeline: Pipeline) -> None:
    """What an operator wants to know of a start."""
    saved = pipeline.recovered
    log.info(
        "started",
        edge_device_id=settings.edge_device_id,
        sources=",".join(settings.sources),
        cloud=settings.cloud_logging_endpoint if settings.cloud_logging_enabled else "off",
        buffer=str(settings.buffer_db_path),
    )
    if saved.predictions or saved.lost or saved.bytes_set_aside or saved.buffer_set_aside:
        log.info(
            "recovered",
            summary=str(saved),
            lost=saved.lost,
            bytes_set_aside=saved.bytes_set_aside,
            buffer_set_aside=saved.buffer_set_aside,
        )


def end(run_to_the_end: Callable[[], Any]) -> None:
    """Run on Trio. What an operator can mend is told in a sentence; anything else is a defect, and loud."""
    matters: list[str] = []
    try:
        trio.run(run_to_the_end)
    except* OPERATORS_MATTERS as group:
        matters = [str(error) for error in leaves(group)]
    if matters:
        fail(*matters)


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """The single errors in a group of groups."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


def fail(*sentences: str) -> NoReturn:
    """Exit code 2, and why."""
    for sentence in sentences:
        print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)


def log_to_stderr() -> None:
    """Readable on a terminal, JSON lines otherwise."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    last: Any = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer(serializer=partial(json.dumps, default=str))
    )
    structlog.configure(
        processors=[*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


if __name__ == "__main__":
    main()
