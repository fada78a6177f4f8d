"""The file of keys: written whole or not at all, and read again by the running service when it changes.

One key a line. A line that starts with `{` is a named key as `python -m cloud keys add` writes it, with the hash of its
secret; any other line is a secret in plain text, good for everything. `#` starts a comment.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import attrs
import msgspec
import structlog
import trio

from cloud.folder import make_private
from cloud.keys import Key, Keys, Scope, digest_of
from cloud.ledger.lane import RunSync, thread_lane
from cloud.wire import Name

FILE_BYTES_MAX = 1024 * 1024
"""Some four thousand keys: each request is compared with every one."""
LOOK_EVERY_S = 1.0
SECRET_BYTES = 32
SECRET_PREFIX = "holdfast_"  # noqa: S105 - so that scanners and people know a key that was leaked
log = structlog.get_logger()


class KeysWrong(Exception):
    """The file can't be read or holds something else than keys; the text names the line, never a secret."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A named key as its line says it. `created_at` is ISO 8601, for people."""

    name: Name
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    scopes: Annotated[tuple[Scope, ...], msgspec.Meta(min_length=1)]
    device: Name | None = None
    created_at: str = ""

    @property
    def key(self) -> Key:
        """What the service compares with."""
        return Key(bytes.fromhex(self.sha256), self.name, frozenset(self.scopes), self.device)


_entry_decoder = msgspec.json.Decoder(Entry)


def new_secret() -> str:
    """A key that nobody can guess."""
    return SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def is_sendable(secret: str) -> bool:
    """Whether a header can carry it."""
    return secret.isascii() and secret.isprintable() and " " not in secret


def read_entries(text: str) -> list[Entry | Key | None]:
    """What each line holds: a named key, one in plain text, or none. `KeysWrong` names the first bad line."""
    found: list[Entry | Key | None] = []
    names: set[str] = set()
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        entry: Entry | Key | None = None
        if line.startswith("{"):
            try:
                entry = _entry_decoder.decode(line)
            except msgspec.DecodeError as exc:
                raise KeysWrong(f"line {number} is no key: {exc}") from exc
            if entry.name in names:
                raise KeysWrong(f"line {number} names {entry.name!r} again")
            names.add(entry.name)
        elif line and not line.startswith("#"):
            if not is_sendable(line):
                raise KeysWrong(f"line {number}: key (***) has a character that no header can carry")
            entry = Key(digest_of(line), name=f"line {number}")
        found.append(entry)
    return found


def read_file(path: Path) -> tuple[Key, ...]:
    """The keys in a file; `KeysWrong` or `OSError` where it can't be used."""
    return tuple(entry.key if isinstance(entry, Entry) else entry for entry in read_entries(_text_of(path)) if entry)


def _text_of(path: Path) -> str:
    with path.open("rb") as file:
        text = file.read(FILE_BYTES_MAX + 1)
    if len(text) > FILE_BYTES_MAX:
        raise KeysWrong(f"more than {FILE_BYTES_MAX} bytes")
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise KeysWrong(f"no UTF-8 at byte {exc.start}") from exc


@attrs.define(eq=False)
class Keyring:
    """The keys that hold now: those given at start, and those in the file, if there is one.

    `current` follows the file while `watch` runs. A file that vanishes or is damaged changes nothing: the keys read
    last hold on, and the log says so. A file without any key admits nobody.
    """

    given: Keys = attrs.field(factory=Keys)
    path: Path | None = None
    current: Keys = attrs.field(init=False)
    _seen: tuple[int, int, int] | None = attrs.field(init=False, default=None)
    _trouble: str = attrs.field(init=False, default="")

    def __attrs_post_init__(self) -> None:
        self.current = self.given

    def load(self) -> None:
        """Read the file if it changed since the last time; `KeysWrong` or `OSError` where that fails."""
        if self.path is None:
            return
        status = self.path.stat()
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen == self._seen:
            return
        keys = read_file(self.path)
        self._seen = seen
        self.current = Keys(self.given.known + keys, needed=True)

    async def watch(self, run_sync: RunSync | None = None) -> None:
        """Follow the file until cancelled; `run_sync` reads it (tests: inline)."""
        read = run_sync or thread_lane()
        while self.path is not None:
            await trio.sleep(LOOK_EVERY_S)
            await read(self._look)

    def _look(self) -> None:
        before = self.current
        try:
            self.load()
        except (OSError, KeysWrong) as exc:
            trouble = str(exc)
        else:
            trouble = ""
        if trouble and trouble != self._trouble:
            log.error("keys_not_read", file=str(self.path), error=trouble, hold="the keys read last")
        self._trouble = trouble
        if self.current is not before:
            log.info("keys_read", file=str(self.path), keys=len(self.current.known))


# --- changing the file


@contextmanager
def changing(path: Path) -> Iterator[list[str]]:
    """The file's lines, to be changed in place; at the end they are written, durably and all at once, for us alone.

    Others who change it wait. Nothing is written where the body raises.
    """
    target = path.resolve()
    make_private(target.parent)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        text = _text_of(target) if target.exists() else ""
        lines = text.splitlines()
        yield lines
        _replace(target, "".join(f"{line}\n" for line in lines).encode())
        os.fsync(folder)
    finally:
        os.close(folder)


def _replace(target: Path, content: bytes) -> None:
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
