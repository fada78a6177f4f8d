"""Checks of the model, of the sources and of the status port; a running device keeps its own."""

import socket
import time
from collections.abc import AsyncIterator

import trio

from actors import fitting
from actors.commands.checks import Begun, Check, Step, failed, ok, warn
from actors.ports.detector import DetectorError
from actors.ports.frames import (
    Frame,
    FrameUnreadable,
    LibraryMissing,
    NoFrameYet,
    Source,
    SourceDown,
    SourcesWrong,
)
from actors.settings import Settings

MODEL_S = 90.0
SOURCE_S = 10.0


async def vision(settings: Settings, runs: bool) -> AsyncIterator[Step]:
    """All of them, or that the running device has it in hand."""
    if runs:
        yield ok("vision", "model and cameras are left to the running device; `app.py status` says how they are")
        return
    yield port(settings.status_bind)
    yield Begun("model", MODEL_S)
    yield await model(settings)
    try:
        sources = await trio.to_thread.run_sync(fitting.sources, settings, time.time, abandon_on_cancel=True)
    except SourcesWrong as exc:
        yield failed("sources", str(exc), "mend SOURCES")
        return
    if not sources:
        yield warn("sources", "none", "set SOURCES, unless a program logs predictions of its own")
    for source in sources:
        yield Begun(f"source {source.name}", SOURCE_S)
        yield await look(source)


async def model(settings: Settings) -> Check:
    """Load it, as the device would."""
    began = time.monotonic()
    with trio.move_on_after(MODEL_S):
        try:
            detector = await trio.to_thread.run_sync(fitting.detector, settings, abandon_on_cancel=True)
            await trio.to_thread.run_sync(detector.load, abandon_on_cancel=True)
        except (DetectorError, LibraryMissing) as exc:
            return failed("model", str(exc), "see MODEL_PATH and DETECTOR")
        took_s = time.monotonic() - began
        return ok("model", f"{detector.model_name} {detector.model_version} loaded in {took_s:.1f} s")
    return failed("model", f"not loaded within {MODEL_S:g} s", "is the machine busy, or the model on a slow disk?")


async def look(source: Source) -> Check:
    """Open a source and read a frame, without noting that it was read."""
    name = f"source {source.name}"
    with trio.move_on_after(SOURCE_S):
        return await trio.to_thread.run_sync(_look, source, name, abandon_on_cancel=True)
    return failed(name, f"no frame within {SOURCE_S:g} s", "is the camera connected and not in use by another program?")


def _look(source: Source, name: str) -> Check:
    try:
        source.open()
        frame = _first(source)
    except (SourceDown, FrameUnreadable, LibraryMissing) as exc:
        return failed(name, str(exc), "see SOURCES; is it connected, and may this user open it?")
    finally:
        source.close()
    if frame is None:
        return ok(name, "opened; nothing new in it to see")
    height, width = frame.image.shape[:2]
    return ok(name, f"gives frames of {width} x {height}")


def _first(source: Source) -> Frame | None:
    deadline = time.monotonic() + SOURCE_S / 2
    while time.monotonic() < deadline:
        try:
            return source.read()
        except NoFrameYet:
            time.sleep(0.1)
    return None


def port(bind: str) -> Check:
    """Whether the status endpoints can be had."""
    host, _, number = bind.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind((host.strip("[]"), int(number)))
    except OSError as exc:
        return warn("status port", f"{bind}: {exc.strerror}", "free it, or give this device a STATUS_BIND of its own")
    return ok("status port", f"{bind} is free")
