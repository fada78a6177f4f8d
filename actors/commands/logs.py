"""Logs: readable in a terminal, JSON lines otherwise; no secret in them, and no flood."""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import Any

import attrs
import structlog

from actors import values
from actors.repeats import Repeats
from actors.settings import LogLevel

LEVELS = {LogLevel.DEBUG: 10, LogLevel.INFO: 20, LogLevel.WARNING: 30, LogLevel.ERROR: 40}
OPENCV_QUIET = {"OPENCV_LOG_LEVEL": "OFF", "OPENCV_FFMPEG_LOGLEVEL": "-8"}
"""OpenCV writes to stderr as it likes, between our lines; what is wrong with a camera it tells by its answers too."""
LIMITED = ("warning", "error", "critical")
"""What may come from something that fails again and again. An info tells of a change, and is always told."""

Event = MutableMapping[str, Any]


@attrs.define
class Logs:
    """Where log lines go from here on. `set_level` may be called at any time."""

    clock: Callable[[], float] = time.monotonic
    repeats: Repeats = attrs.field(factory=Repeats)

    def begin(self, level: LogLevel) -> None:
        """Send structlog's events to stderr, and the warnings of libraries with them."""
        for name, quiet in OPENCV_QUIET.items():
            os.environ.setdefault(name, quiet)
        logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
        self.set_level(level)

    def set_level(self, level: LogLevel) -> None:
        """From now on tell of this, and of all that is worse."""
        last: Any = (
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
            if sys.stderr.isatty()
            else structlog.processors.JSONRenderer(serializer=partial(json.dumps, default=str))
        )
        structlog.configure(
            processors=[
                self.hold_back,
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.format_exc_info,
                without_secrets(last),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
            logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        )

    def hold_back(self, _: object, method: str, event: Event) -> Event:
        """Drop what was told a moment ago; the next one of its kind says how many there were."""
        if method not in LIMITED:
            return event
        words = tuple(f"{name}={value}" for name, value in sorted(event.items()) if not isinstance(value, int | float))
        held_back = self.repeats.see(str(event.get("event")), words, self.clock())
        if held_back is None:
            raise structlog.DropEvent
        if held_back:
            event["held_back"] = held_back
        return event

    def end(self) -> None:
        """Say what was held back and never told."""
        for event, count in self.repeats.leftover().items():
            structlog.get_logger().info("held_back", of=event, count=count)


def without_secrets(render: structlog.typing.Processor) -> structlog.typing.Processor:
    """Passwords in addresses and queries are masked, whoever logged them: in the finished line, tracebacks included."""

    def masked(logger: object, method: str, event: Event) -> str:
        return values.mask(str(render(logger, method, event)))

    return masked
