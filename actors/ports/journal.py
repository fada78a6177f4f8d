"""The journal: append-only segments of JSON lines, the commit point of every prediction.

A segment's first line is its header, then comes one line a prediction:

    {"crc32c":"50dfcad1","header":{"holdfast_journal":1,"stream_id":…}}
    {"seq":17,"crc32c":"9ae0daaf","payload":{"seq":17,"image_id":…}}

The CRC-32C is of the header's or the payload's bytes; the payload is what goes on the wire. A group of predictions is
one write and one fdatasync. A write that fails is cut off again; a sync that fails ends the segment, since nobody can
say which of its pages the kernel then still holds (the group is written anew, under the same numbers, into the next
one). The format is described in `docs/journal.md`.
"""

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import attrs
import google_crc32c
import msgspec

from actors.ports.private import make_folder, sync_folder

FORMAT_VERSION = 1
SEGMENT_BYTES_MAX = 8 * 1024 * 1024
SUFFIX = ".jsonl"

_LINE = re.compile(
    rb'\{"seq":([0-9]{1,19}),"crc32c":"([0-9a-f]{8})","payload":(\{"seq":([0-9]{1,19}),.*\})\}', re.DOTALL
)

_HEADER = re.compile(rb'\{"crc32c":"([0-9a-f]{8})","header":(\{.*\})\}', re.DOTALL)
_NAME = re.compile(r"([0-9]{20})-[0-9a-f]{16}" + re.escape(SUFFIX))
"""First number and session, as `Journal` and `session` make them; a file of another form is nobody's witness."""
_LINE_START = re.compile(rb'\{"seq":[0-9]{1,19},"crc32c":"')


class JournalError(Exception):
    """The journal could not be written: the disk is full, read-only, or failing. Nothing was accepted."""


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model as a segment's header tells of it: its file's name, the digest of its weights, what it can see."""

    name: str = ""
    version: str = ""
    """Empty where it was not loaded yet."""
    classes: tuple[str, ...] = ()


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """A segment's first line: whose numbers these are, and who wrote them when."""

    holdfast_journal: int
    """The format's version."""
    stream_id: str
    device_id: str
    session_id: str
    """One run of the device process."""
    boot_id: str
    """One boot of the machine; empty where the system does not tell."""
    started_at: float
    """When the session began, seconds since 1970."""
    first_seq: int
    """The number of the first prediction in this segment; every lower number was given out before."""
    model: str = ""
    """The name of the model in use when the segment was begun; every prediction names its own."""
    model_version: str = ""
    model_classes: tuple[str, ...] = ()


@attrs.frozen
class Damage:
    """Bytes of a segment that are no good line: where they are, and how many complete lines they make."""

    offset: int
    data: bytes
    lines: int


@attrs.frozen
class Scan:
    """What a segment holds. `torn` is an unfinished last line: a write that was cut before it was acknowledged."""

    path: Path
    header: Header | None
    records: tuple[tuple[int, bytes], ...]
    """(seq, payload) of every good line, in the order of the file."""
    damage: tuple[Damage, ...]
    torn: bytes
    lost: tuple[tuple[int, int], ...]
    """Ranges of numbers (both ends included) whose lines are damaged beyond reading."""

    @property
    def last_seq(self) -> int:
        """The highest number that this segment shows to have been given out (0 if none)."""
        return max(
            (_first_seq(self.path, self.header) or 1) - 1,
            max((seq for seq, _ in self.records), default=0),
            max((to for _, to in self.lost), default=0),
        )


def _first_seq(path: Path, header: Header | None) -> int | None:
    """A segment's first number: by its header, or by its name where that does not read; None if neither tells."""
    if header:
        return header.first_seq
    named = _NAME.fullmatch(path.name)
    return int(named[1]) if named else None


def encode_line(seq: int, payload: bytes, crc32c: int) -> bytes:
    """One prediction's line, newline included; the checksum is the payload's."""
    return b'{"seq":%d,"crc32c":"%08x","payload":%b}\n' % (seq, crc32c, payload)


def decode_line(line: bytes) -> tuple[int, bytes] | None:
    """(seq, payload) of a line without its newline, or None if it is not exactly what `encode_line` wrote."""
    found = _LINE.fullmatch(line)
    if found is None:
        return None
    seq, crc, payload, seq_inside = found.groups()
    if seq != seq_inside or google_crc32c.value(payload) != int(crc, 16):
        return None
    return int(seq), payload


def encode_header(header: Header) -> bytes:
    """A segment's first line, newline included."""
    body = msgspec.json.encode(header)
    return b'{"crc32c":"%08x","header":%b}\n' % (google_crc32c.value(body), body)


def decode_header(line: bytes) -> Header | None:
    """The header in a segment's first line without its newline, or None if it is not one that this version reads."""
    found = _HEADER.fullmatch(line)
    if found is None or google_crc32c.value(found[2]) != int(found[1], 16):
        return None
    try:
        header = msgspec.json.decode(found[2], type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return header if 1 <= header.holdfast_journal <= FORMAT_VERSION else None


def scan(path: Path) -> Scan:
    """Read a segment, whatever state it is in: good lines before *and* behind bad ones are all kept."""
    return scan_bytes(path, path.read_bytes())


def scan_bytes(path: Path, data: bytes) -> Scan:
    """`scan` of bytes already read. A pure function: of `path` only the name counts, where no header reads."""
    first, newline, rest = data.partition(b"\n")
    header = decode_header(first) if newline else None
    offset = len(first) + 1 if header else 0
    found: list[tuple[int, bytes]] = []
    damage: list[Damage] = []
    lost: list[tuple[int, int]] = []
    expected = _first_seq(path, header)
    bad_since_good = (
        0 if header else -1
    )  # what does not read at the beginning is the header itself, which was no number
    *lines, torn = (rest if header else data).split(b"\n")
    # The last line may lack nothing but its newline: then it is whole, and it counts.
    for whole in (torn, torn[:-1]):  # the newline may be gone, or damaged
        if decode_line(whole):
            lines, torn = [*lines, whole], b""
    for piece, record in _pieces(lines):
        if record is None:
            bad_since_good += 1
            _add_damage(damage, offset, piece)
        else:
            if expected is not None and record[0] > expected:
                lost.append((expected, record[0] - 1))
            expected = max(expected or 0, record[0] + 1)
            found.append(record)
            bad_since_good = 0
        offset += len(piece)
    if bad_since_good > 0 and expected is not None:
        # Complete lines at the end that can't be read: each was a number, and it must not be given out again.
        lost.append((expected, expected + bad_since_good - 1))
    return Scan(path, header, tuple(found), tuple(damage), torn, tuple(lost))


def _pieces(lines: Sequence[bytes]) -> Iterator[tuple[bytes, tuple[int, bytes] | None]]:
    """Every line with its newline, and what it says (None: nothing good).

    A bad line is cut where another begins inside it: there a newline was damaged, and what follows may be whole.
    """
    for line in lines:
        if record := decode_line(line):
            yield line + b"\n", record
            continue
        starts = [found.start() for found in _LINE_START.finditer(line) if found.start() > 0]
        for start, end in pairwise([0, *starts, len(line) + 1]):
            piece = (line + b"\n")[start:end]
            yield piece, decode_line(piece[:-1])


def _add_damage(damage: list[Damage], offset: int, data: bytes) -> None:
    """Note bad bytes; neighbours become one piece."""
    if damage and damage[-1].offset + len(damage[-1].data) == offset:
        last = damage[-1]
        damage[-1] = Damage(last.offset, last.data + data, last.lines + 1)
    else:
        damage.append(Damage(offset, data, 1))


@attrs.define
class Closed:
    """A full segment that waits until the buffer holds all of it."""

    path: Path
    last_seq: int
    size_bytes: int


class Journal:
    """The segments of one session. Not for two threads at once; every method blocks on the disk.

    `sync` is `os.fdatasync`; a test may hand in another.
    """

    def __init__(
        self,
        folder: Path,
        *,
        describe: Callable[[int], Header],
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
        sync: Callable[[int], None] = os.fdatasync,
    ) -> None:
        self._folder = folder
        self._describe = describe
        self._segment_bytes_max = segment_bytes_max
        self._sync = sync
        self._fd: int | None = None
        self._path = folder
        self._good_bytes = 0
        self._first_seq = 0
        self._last_seq = 0
        self._closed: list[Closed] = []

    @property
    def size_bytes(self) -> int:
        """All bytes in this session's segments."""
        return self._good_bytes + sum(segment.size_bytes for segment in self._closed)

    @property
    def retirable(self) -> bool:
        """Whether there are full segments, to be deleted once the buffer holds them."""
        return bool(self._closed)

    def append(self, first_seq: int, lines: Sequence[bytes]) -> None:
        """Make lines (`encode_line`) durable, of the numbers from `first_seq` on: one write, one fdatasync.

        `JournalError` if that failed; then none of them counts as accepted.
        """
        data = b"".join(lines)
        try:
            if self._fd is not None and first_seq != self._last_seq + 1:
                self.rotate()  # a segment has no holes: what lies between was committed elsewhere
            if self._fd is None:
                self._begin(first_seq)
            self._write(data)
        except OSError as exc:
            raise JournalError(f"{self._path}: {exc.strerror or exc}") from exc
        self._last_seq = first_seq + len(lines) - 1
        if self._good_bytes >= self._segment_bytes_max:
            self.rotate()

    def rotate(self) -> None:
        """Close the segment that is being written; the next append begins a new one."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            self._closed.append(Closed(self._path, self._last_seq, self._good_bytes))
            self._good_bytes = 0

    def retire(self, up_to_seq: int) -> int:
        """Delete the full segments that end at or below `up_to_seq`, and say how many those were."""
        done = [segment for segment in self._closed if segment.last_seq <= up_to_seq]
        for segment in done:
            segment.path.unlink(missing_ok=True)
            self._closed.remove(segment)
        return len(done)

    def _begin(self, first_seq: int) -> None:
        """A new segment, its header written; the folder's own entry is synced so that the file can't vanish."""
        make_folder(self._folder)
        header = self._describe(first_seq)
        self._path = self._folder / f"{first_seq:020d}-{header.session_id}{SUFFIX}"
        # A file of this name can only be one whose first group failed: nothing in it was acknowledged.
        self._fd = os.open(self._path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._closed = [segment for segment in self._closed if segment.path != self._path]
        self._first_seq = first_seq
        self._last_seq = first_seq - 1
        self._good_bytes = 0
        try:
            self._write(encode_header(header))
            sync_folder(self._folder)
        except OSError:
            if self._fd is not None:
                self._abandon()
            raise

    def _write(self, data: bytes) -> None:
        assert self._fd is not None
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            self._cut_off()
            raise
        try:
            self._sync(self._fd)
            _check_writable(self._fd)
        except OSError:
            self._abandon()
            raise
        self._good_bytes += len(data)

    def _cut_off(self) -> None:
        """Take a half-written group back, so that the next one does not begin in the middle of a line."""
        assert self._fd is not None
        try:
            os.ftruncate(self._fd, self._good_bytes)
        except OSError:
            self._abandon()

    def _abandon(self) -> None:
        """End a segment that can't be trusted any further; without an acknowledged record in it, remove it."""
        assert self._fd is not None
        if self._last_seq >= self._first_seq:
            # What follows the last acknowledged group may reach the disk after all: better that it does not.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._good_bytes)
            self.rotate()
        else:
            os.close(self._fd)
            self._fd, self._good_bytes = None, 0
            try:
                self._path.unlink(missing_ok=True)
            except OSError:  # the disk is read-only by now, say: it goes with those that are retired
                self._closed.append(Closed(self._path, self._last_seq, 0))


def _check_writable(fd: int) -> None:
    """`OSError` where the file system is read-only by now: then ext4 says "synced" of what it never wrote."""
    if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def orphans(folder: Path) -> list[Path]:
    """The segments that lie in the folder, oldest numbers first."""
    return sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []


def scan_all(folder: Path) -> list[Scan]:
    """The segments as somebody sees them who does not own them: one that goes meanwhile is in SQLite by then."""
    found = []
    for path in orphans(folder):
        with contextlib.suppress(FileNotFoundError):
            found.append(scan(path))
    return found


def session(stream_id: str, device_id: str, model: Callable[[], Model], started_at: float) -> Callable[[int], Header]:
    """What writes the headers of one run of the device process, given the first number of a segment."""
    session_id = f"{int(started_at * 1000):012x}{secrets.token_hex(2)}"

    def describe(first_seq: int) -> Header:
        in_use = model()
        return Header(
            holdfast_journal=FORMAT_VERSION,
            stream_id=stream_id,
            device_id=device_id,
            session_id=session_id,
            boot_id=boot_id(),
            started_at=started_at,
            first_seq=first_seq,
            model=in_use.name,
            model_version=in_use.version,
            model_classes=in_use.classes,
        )

    return describe


def boot_id() -> str:
    """One boot of the machine; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
