"""Image files as a source: read once in the order of their names, or watched for new ones; none is ever skipped."""

import glob
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import structlog

from actors.ports.cursors import Cursor, Mark
from actors.ports.images import Frame, NoFrameYet, SourceDown, decode_image, image_id, opencv
from actors.settings import AfterAccept

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
LOOK_EVERY_S = 1.0
"""How often a watched folder is listed. A file is complete when it was the same for so long."""
ACCEPTED_FOLDER = "accepted"
TAKEN_MAX = 100_000
"""Beyond so many names, those are forgotten whose files are gone."""

log = structlog.get_logger()


def _nothing() -> Mapping[str, float]:
    return {}


@attrs.define(eq=False)
class FolderSource:
    """The image files of a folder that match `pattern`, sorted by name, each read once.

    With `watch` it never ends: new files are read when complete. The id of a watched file has the time of its last
    change, so that a file which is written anew is a new frame. `after` says what becomes of a watched file that is
    durable. `cursor` remembers what is durable; `recent` gives what the buffer took last, for what a crash kept from
    the cursor.
    """

    name: str
    folder: Path
    pattern: str = "*"
    watch: bool = attrs.field(default=False, kw_only=True)
    after: AfterAccept = attrs.field(default=AfterAccept.KEEP, kw_only=True)
    cursor: Cursor = attrs.field(factory=Cursor, kw_only=True)
    recent: Callable[[], Mapping[str, float]] = attrs.field(default=_nothing, kw_only=True)
    live: bool = attrs.field(default=False, init=False)
    period_s: float = attrs.field(default=0.0, init=False)
    _now: Callable[[], float] = attrs.field(default=time.time, kw_only=True)
    _tick: Callable[[], float] = attrs.field(default=time.monotonic, kw_only=True)
    _waiting: deque[Mark] = attrs.field(factory=deque, init=False)
    _taken: dict[str, tuple[int, ...]] = attrs.field(factory=dict, init=False)
    _since: dict[str, tuple[tuple[int, ...], float]] = attrs.field(factory=dict, init=False)
    _looked_at: float | None = attrs.field(default=None, init=False)

    def open(self) -> None:
        """List the files; `SourceDown` while the folder, or the one file that was named, is not there."""
        opencv()  # missing, it is missed now
        if self._looked_at is None:
            self._look()
        elif not self.folder.is_dir():
            raise self._missing()

    def read(self) -> Frame | None:
        """The next file's image; `FrameUnreadable` for a file that holds none, `NoFrameYet` if none is complete."""
        if not self._waiting and self.watch and self._tick() - (self._looked_at or 0.0) >= LOOK_EVERY_S:
            self._look()
        if not self._waiting:
            if self.watch:
                raise NoFrameYet
            return None
        mark = self._waiting.popleft()
        ident = self._ident(mark)
        self._taken[mark.key] = mark.numbers
        return Frame(ident, self.name, decode_image(self.folder / mark.key), self._now(), mark)

    def accepted(self, marks: Sequence[Mark], passed: Sequence[Mark] = ()) -> None:  # noqa: ARG002
        """These files' predictions are durable: note it, and keep, move or delete them.

        A file that was passed stays, and is tried again at the next start.
        """
        self.cursor.note(marks)
        if not self.watch or self.after is AfterAccept.KEEP:
            return
        for mark in marks:
            path = self.folder / mark.key
            try:
                if _stamp(path) == mark.numbers:  # not yet another file under the same name
                    self._put_away(path, mark)
            except FileNotFoundError:
                pass
            except OSError as exc:
                log.warning("file_stays", file=str(path), reason=exc.strerror, wanted=self.after.value)
            else:
                self.cursor.forget(mark.key)
                self._taken.pop(mark.key, None)
                self._since.pop(mark.key, None)

    def close(self) -> None:
        """Sync the cursor; no file is held open between two reads."""
        self.cursor.close()

    def _put_away(self, path: Path, mark: Mark) -> None:
        if self.after is AfterAccept.DELETE:
            path.unlink()
            return
        target = self.folder / ACCEPTED_FOLDER / mark.key
        if target.exists():
            target = target.with_name(f"{target.stem}-{mark.numbers[1]}{target.suffix}")
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)

    def _look(self) -> None:
        try:
            found = dict(_images(self.folder, self.pattern)) if self.folder.is_dir() else None
        except OSError as exc:
            raise SourceDown(f"folder {self.folder} can't be read ({exc.strerror}); mend its permissions") from exc
        if found is None:
            raise self._missing()
        if not found and not glob.has_magic(self.pattern.replace("[[]", "")):
            raise SourceDown(f"image {self.folder / self.pattern} does not exist; put it there, or correct SOURCES")
        tick = self._tick()
        first, self._looked_at = self._looked_at is None, tick
        if first:
            self._resume(found)
        elif len(self._taken) > TAKEN_MAX:
            self._taken = {key: stamp for key, stamp in self._taken.items() if key in found}
        since = {key: self._since.get(key, (stamp, tick)) for key, stamp in found.items()}
        self._since = {key: (found[key], tick if found[key] != was else at) for key, (was, at) in since.items()}
        ready = (key for key, (_, at) in self._since.items() if not self.watch or tick - at >= LOOK_EVERY_S)
        self._waiting.extend(Mark(key, found[key]) for key in sorted(ready) if self._taken.get(key) != found[key])

    def _resume(self, found: Mapping[str, tuple[int, ...]]) -> None:
        """What is durable already counts as taken: by the cursor, and by the buffer for what a crash kept from it."""
        self.cursor.open()
        self._taken.update(self.cursor.items())
        if not self.cursor.resumed:
            return
        recent, missed = self.recent(), []
        for key, stamp in found.items():
            mark = Mark(key, stamp)
            accepted_at = recent.get(self._ident(mark))
            if self._taken.get(key) != stamp and accepted_at is not None and stamp[1] / 1e9 <= accepted_at:
                missed.append(mark)
        self._taken.update((mark.key, mark.numbers) for mark in missed)
        done = [Mark(key, stamp) for key, stamp in found.items() if self._taken.get(key) == stamp]
        self.accepted(done if self.after is not AfterAccept.KEEP else missed)
        log.info("source_resumed", source=self.name, done=len(done), cursor=str(self.cursor.path))

    def _ident(self, mark: Mark) -> str:
        known = self._taken.get(mark.key)
        dated = self.watch or (known is not None and known != mark.numbers)
        return image_id(self.name, mark.key + (f"@{mark.numbers[1] / 1e9:.3f}" if dated else ""))

    def _missing(self) -> SourceDown:
        return SourceDown(f"folder {self.folder} does not exist; create or mount it, or correct SOURCES")


def images_in(folder: Path, pattern: str = "*") -> list[Path]:
    """The image files of a folder, sorted by name."""
    return sorted(folder / name for name, _ in _images(folder, pattern))


def _images(folder: Path, pattern: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name in glob.iglob(pattern, root_dir=folder, recursive=True):  # noqa: PTH207 (takes an escaped name)
        path = folder / name
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            try:
                yield name, _stamp(path)
            except FileNotFoundError:  # gone between the listing and now
                continue


def _stamp(path: Path) -> tuple[int, ...]:
    """Size and time of the last change, which tell a file from what is later written under its name."""
    facts = path.stat()
    return (facts.st_size, facts.st_mtime_ns)
