"""The service's log on stderr: one JSON object a line, or lines for people on a terminal.

A thread of its own writes it, behind a bounded queue: whoever reads a log slowly, or not at all, never holds up a
request. Lines that find the queue full are dropped and counted.
"""

import atexit
import logging
import queue
import sys
import threading
from typing import Any, TextIO

import structlog

LINES_MAX = 10_000
CLOSE_S_MAX = 1.0


class LineWriter:
    """What structlog hands its lines to."""

    def __init__(self, stream: TextIO, lines_max: int = LINES_MAX) -> None:
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(lines_max)
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def msg(self, line: str) -> None:
        """Take a line at once, or drop it."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    debug = info = warning = error = critical = exception = msg

    def close(self) -> None:
        """Write what waits, unless nobody takes it."""
        try:
            self._lines.put(None, timeout=CLOSE_S_MAX)
        except queue.Full:
            return
        self._thread.join(CLOSE_S_MAX)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            dropped, self._dropped = self._dropped, 0
            if dropped:
                line = f'{line}\n{{"event": "log_lines_dropped", "lines": {dropped}}}'
            try:
                self._stream.write(f"{line}\n")
                self._stream.flush()
            except (OSError, ValueError):
                return  # Nobody is there any more; the queue fills and the rest is dropped.


def log_to_stderr() -> None:
    """Configure the log of this process, once."""
    writer = LineWriter(sys.stderr)
    atexit.register(writer.close)
    render: Any = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            render,
        ],
        logger_factory=lambda *_: writer,
    )
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
