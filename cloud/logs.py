"""The service's log on stderr: one JSON object a line, or lines for people on a terminal.

A thread of its own writes it, a handful of lines at a time: whoever reads a log slowly, or not at all, never holds up a
request. Lines that find too many waiting are dropped and counted.
"""

import atexit
import logging
import sys
import threading
from typing import Any, TextIO

import structlog

LINES_MAX = 10_000
GATHER_S = 0.05
"""How long a line waits for others: a thread woken for each one would take the interpreter from the request."""
CLOSE_S_MAX = 1.0


class LineWriter:
    """What structlog hands its lines to."""

    def __init__(self, stream: TextIO, lines_max: int = LINES_MAX) -> None:
        self._stream = stream
        self._lines_max = lines_max
        self._lines: list[str] = []
        self._dropped = 0
        self._lock = threading.Lock()
        self._waiting = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def msg(self, line: str) -> None:
        """Take a line at once, or drop it."""
        with self._lock:
            if len(self._lines) < self._lines_max:
                self._lines.append(line)
            else:
                self._dropped += 1
        if not self._waiting.is_set():
            self._waiting.set()

    debug = info = warning = error = critical = exception = msg

    def close(self) -> None:
        """Write what waits, unless nobody takes it."""
        self._closing.set()
        self._waiting.set()
        self._thread.join(CLOSE_S_MAX)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._waiting.wait()
            self._closing.wait(GATHER_S)
            self._waiting.clear()
            with self._lock:
                lines, self._lines = self._lines, []
                dropped, self._dropped = self._dropped, 0
            if dropped:
                lines.append(f'{{"event": "log_lines_dropped", "lines": {dropped}}}')
            try:
                self._stream.write("".join(f"{line}\n" for line in lines))
                self._stream.flush()
            except (OSError, ValueError):
                return  # Nobody is there any more; the rest waits or is dropped.


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
