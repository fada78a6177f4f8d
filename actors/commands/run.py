"""`run`: the device, from the first frame to the last flush; SIGHUP re-reads the settings, SIGTERM and SIGINT stop."""

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import structlog
import trio

from actors.commands.logs import Logs
from actors.commands.options import SettingsCommand, fail, find_config, read_settings, settings_flags
from actors.loading import load_settings
from actors.pipeline import Pipeline, open_pipeline
from actors.ports import control_door, status_door, systemd
from actors.ports.detector import DetectorError
from actors.ports.frames import LibraryMissing, SourcesWrong
from actors.ports.opening import StoreLocked, StoreMisplaced
from actors.reloading import reload
from actors.settings import LogLevel, Settings, SettingsError

OPERATORS_MATTERS = (SettingsError, SourcesWrong, StoreLocked, StoreMisplaced, DetectorError, LibraryMissing)
"""Errors that an operator can mend: they are told in a sentence, without a traceback, and end with exit code 2."""

log = structlog.get_logger()


@click.command(cls=SettingsCommand)
@settings_flags()
def run(config: Path | None = None, **flags: Any) -> None:
    """Run the device until SIGINT or SIGTERM; a second signal skips the network, never the disk.

    SIGHUP reads the settings again. Batching, pace, key, model and LOG_LEVEL change at once; the log names what needs
    a restart. A wrong new value leaves all the old ones in force.
    """
    settings = read_settings(config, flags)
    logs = Logs()
    logs.begin(settings.log_level)
    read_again = partial(load_settings, os.environ, flags=flags)
    matters: list[str] = []
    try:
        trio.run(run_device, settings, lambda: read_again(find_config(config)), logs)
    except* OPERATORS_MATTERS as group:
        matters = [str(error) for error in leaves(group)]
    finally:
        logs.end()
    if matters:
        fail(*matters)


async def run_device(settings: Settings, read_again: Callable[[], Settings], logs: Logs) -> None:
    """The device with its doors, until it is told to stop."""
    stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            pipelines: list[Pipeline] = []
            reread = partial(reread_settings, read_again=read_again, set_level=logs.set_level)
            nursery.start_soon(heed, signals, stop, pipelines, reread)
            async with open_pipeline(settings) as pipeline:
                pipelines.append(pipeline)
                tell_start(settings, pipeline)
                window = status_door.Window(pipeline.status, pipeline.picture, pipeline.log_many)
                control = control_door.Control(pipeline.status, pipeline.perform, pipeline.log_many)
                # In the outer nursery: whoever waits for a receipt gets it while the pipeline stops.
                nursery.start_soon(status_door.serve, window, settings.status_bind, stop)
                nursery.start_soon(control_door.serve, control, settings.buffer_db_path, stop)
                nursery.start_soon(systemd.keep_posted, pipeline.status, stop)
                await stop.wait()
            nursery.cancel_scope.cancel()
    last = pipeline.status()
    log.info(
        "stopped",
        accepted=last["last_seq"],
        sent=last["sent"],
        pending=last["pending"],
        failed=last["failed"],
        evicted=last["evicted"],
        turned_away=last["turned_away"],
    )


async def heed(
    signals: Any, stop: trio.Event, pipelines: list[Pipeline], reread: Callable[[Pipeline], None] | None = None
) -> None:
    """SIGHUP re-reads. Of the others the first one stops; the next ones stop waiting for the network."""
    async for number in signals:
        if number == signal.SIGHUP:
            for pipeline in pipelines:
                (reread or Pipeline.reload_model)(pipeline)
            continue
        log.info("signal", name=signal.Signals(number).name, then="skip the network" if stop.is_set() else "stop")
        if stop.is_set():
            for pipeline in pipelines:
                pipeline.skip_network()
        stop.set()


def reread_settings(
    pipeline: Pipeline, read_again: Callable[[], Settings], set_level: Callable[[LogLevel], None]
) -> None:
    """Take over what may change; a wrong value changes nothing at all, and is told."""
    try:
        found = reload(pipeline.settings, read_again())
    except SettingsError as exc:
        log.error("settings_wrong", problems=list(exc.problems), then="the settings before stay in force")  # noqa: TRY400
        return
    set_level(found.settings.log_level)
    pipeline.apply(found.settings)
    log.info("settings_reread", changed=list(found.changed))
    if found.restart:
        log.warning("settings_need_restart", names=list(found.restart), then="the values before stay until then")


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


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """The single errors in a group of groups."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error
