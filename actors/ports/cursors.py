"""Where each source stood: which files and frames are durable already, so that a start neither skips nor repeats.

A cursor is a small file per source, lines of JSON. A line is added after the receipt of a durable prediction, never
before; so a crash between the two leaves a frame that is durable but not in the cursor. It would be repeated under
the same `image_id`, and nobody downstream would drop it: both rows count. Hence `recent_ids`: what the buffer took
last is compared at the start, and what lies there is not read again. What remains: after a loss of power the cursor
may lack its last lines (it is synced every `SYNC_EVERY` lines), and a buffer that keeps no sent rows can't tell; then
such a frame is repeated. Never is one skipped.
"""

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import structlog

from actors.ports.private import make_folder, open_private, sync_folder

SYNC_EVERY = 64
SPARE_LINES = 1_000
"""A cursor file is written anew when it has so many lines more than twice its marks."""
RECENT_MAX = 4_096
"""So many of the buffer's last rows are compared at the start: what 32 sources may have waiting for their receipts."""

log = structlog.get_logger()


@attrs.frozen
class Mark:
    """What became durable: a file or a film, and numbers that tell this state of it from another."""

    key: str
    numbers: tuple[int, ...]


@attrs.define(eq=False)
class Cursor:
    """What of one source is durable. `of` says what the source was; a source that has moved starts afresh.

    Without a path it remembers for this session only. A disk that refuses it costs repeated frames after a restart,
    not the source: it is logged once, and kept in memory.
    """

    path: Path | None = None
    of: str = ""
    resumed: bool = attrs.field(default=False, init=False)
    """Whether there was a cursor at the start."""
    _sync: Callable[[int], None] = attrs.field(default=os.fdatasync, kw_only=True)
    _marks: dict[str, tuple[int, ...]] = attrs.field(factory=dict, init=False)
    _lines: int = attrs.field(default=0, init=False)
    _unsynced: int = attrs.field(default=0, init=False)
    _trouble: bool = attrs.field(default=False, init=False)
    _opened: bool = attrs.field(default=False, init=False)

    def open(self) -> None:
        """Read what was noted, and write it anew, without a torn tail and what is out of date."""
        if self._opened or self.path is None:
            return
        self._opened = True
        try:
            self._marks, self.resumed = _read(self.path, self.of)
        except FileNotFoundError:
            pass
        except OSError as exc:
            self._complain(exc)
        self._rewrite()

    def get(self, key: str) -> tuple[int, ...] | None:
        """The numbers noted last for `key`."""
        return self._marks.get(key)

    def items(self) -> Iterable[tuple[str, tuple[int, ...]]]:
        """All that is noted."""
        return self._marks.items()

    def note(self, marks: Sequence[Mark]) -> None:
        """These are durable now. What is written survives the end of the process at once, a loss of power mostly."""
        self._marks.update((mark.key, mark.numbers) for mark in marks)
        if self.path is None or not self._opened or not marks:
            return
        self._unsynced += len(marks)
        self._lines += len(marks)
        try:
            self._append(b"".join([_line(mark.key, mark.numbers) for mark in marks]))
        except OSError as exc:
            self._complain(exc)
            return
        if self._lines > 2 * len(self._marks) + SPARE_LINES:
            self._rewrite()

    def forget(self, key: str) -> None:
        """Nothing will ask for `key` again; it is left out when the file is written anew."""
        self._marks.pop(key, None)

    def close(self) -> None:
        """Sync; nothing is held open between two calls."""
        if self.path is None or not self._unsynced:
            return
        try:
            with open_private(self.path, "ab") as file:
                self._sync_now_and_then(file.fileno(), at=1)
        except OSError as exc:
            self._complain(exc)

    def _append(self, data: bytes) -> None:
        """A few times a second, by the system's own calls: a file object takes twice as long to come and go."""
        assert self.path is not None
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            self._sync_now_and_then(fd)
        finally:
            os.close(fd)

    def _sync_now_and_then(self, descriptor: int, at: int = SYNC_EVERY) -> None:
        if self._unsynced >= at:
            self._sync(descriptor)
            self._unsynced = 0

    def _rewrite(self) -> None:
        assert self.path is not None
        fresh = self.path.with_suffix(".new")
        try:
            make_folder(self.path.parent)
            with open_private(fresh, "wb") as file:
                file.write(json.dumps({"cursor": 1, "of": self.of}).encode() + b"\n")
                file.writelines(_line(key, numbers) for key, numbers in self._marks.items())
                file.flush()
                self._sync(file.fileno())
            fresh.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as exc:
            self._complain(exc)
            return
        self._lines, self._unsynced = len(self._marks), 0

    def _complain(self, error: OSError) -> None:
        if not self._trouble:
            log.warning(
                "cursor_unwritable", cursor=str(self.path), error=str(error), then="a restart may repeat frames"
            )
        self._trouble = True


def cursor_path(folder: Path, source: str) -> Path:
    """The cursor's file of a source, whatever it is called."""
    return folder / f"{quote(source, safe='')[:200]}.jsonl"


def recent_ids(buffer: Path, rows_max: int = RECENT_MAX) -> dict[str, float]:
    """The image ids that a buffer took last, and when each image was taken; nothing where it can't be read."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(buffer))}?mode=ro", uri=True, timeout=5.0)) as connection:
            rows = connection.execute(
                "SELECT image_id, timestamp FROM prediction_buffer ORDER BY id DESC LIMIT ?", (rows_max,)
            ).fetchall()
    except sqlite3.Error:
        return {}
    return dict(reversed(rows))


def _line(key: str, numbers: Sequence[int]) -> bytes:
    """As `json.dumps([key, *numbers])` has it, but a text alone is encoded in a tenth of the time that a list takes."""
    return f"[{', '.join([json.dumps(key), *map(str, numbers)])}]\n".encode()


def _read(path: Path, of: str) -> tuple[dict[str, tuple[int, ...]], bool]:
    """The marks of a file, and whether it is this source's; a line that can't be read is left out."""
    marks: dict[str, tuple[int, ...]] = {}
    with path.open(encoding="utf-8", errors="replace") as file:
        head = _parsed(file.readline())
        if not isinstance(head, Mapping) or head.get("of") != of:
            return {}, False
        for line in file:
            match _parsed(line):
                case [str(key), *numbers] if all(isinstance(number, int) for number in numbers):
                    marks[key] = tuple(numbers)
    return marks, True


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
