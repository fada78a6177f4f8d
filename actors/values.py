"""How one setting's value is read from text, TOML or code, and how it is shown without its secrets.

Pure: no environment, no disk. `Kind.read` is the one place where a value's bounds stand.
"""

import enum
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import attrs

T = TypeVar("T")
E = TypeVar("E", bound=enum.Enum)

MASK = "********"
SEEN_CHARS_MAX = 120
"""How much of a wrong value is repeated to its owner."""


@attrs.frozen
class Kind(Generic[T]):
    """What a setting takes, in words, and how a value of any source is read; `read` raises ValueError.

    `none` is the word for "no value" where there may be none. Reading what was read before changes nothing.
    """

    takes: str
    read: Callable[[object], T]
    none: str = ""


@attrs.frozen
class About:
    """What is known of a setting besides its name and default: what it takes, its unit, one sentence of help."""

    kind: Kind[Any]
    unit: str
    help: str
    secret: bool = False
    alias: str = ""

    def show(self, value: object) -> str:
        """The value as a person may see it: plain words, no secret."""
        if value is None:
            return self.kind.none
        if self.secret:
            return MASK
        if isinstance(value, enum.Enum):
            return str(value.value)
        shown = mask(", ".join(value) if isinstance(value, tuple) else str(value))
        if isinstance(value, bool):
            return shown.lower()
        return shown.removesuffix(".0") if isinstance(value, float) else shown

    def complaint(self, name: str, origin: str, value: object) -> str:
        """The sentence on a value that this setting does not take."""
        seen = MASK if self.secret else mask(repr(value))[:SEEN_CHARS_MAX]
        return f"{name.upper()} ({origin}): {seen}; it takes {self.kind.takes}"


def mask(text: str) -> str:
    """`text` without the passwords in addresses and queries (cameras often carry theirs so)."""
    text = re.sub(r"(?<=://)[^\s,]*@", "***@", text)
    return re.sub(r"(?i)([?&][^=&\s]*(?:key|token|pass|pwd|secret|auth)[^=&\s]*=)[^&\s,'\"]+", r"\1***", text)


def read_text(value: object) -> str:
    """Text with something in it, without the blanks around."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    return value.strip()


def text(chars_max: int) -> Kind[str]:
    """Printable characters, at most so many."""

    def read(value: object) -> str:
        line = read_text(value)
        if len(line) > chars_max or not line.isprintable():
            raise ValueError
        return line

    return Kind(f"1 to {chars_max} printable characters", read)


def key(chars_max: int) -> Kind[str]:
    """A secret that fits in a header."""

    def read(value: object) -> str:
        secret = read_text(value)
        if len(secret) > chars_max or not re.fullmatch(r"[\x21-\x7e]+", secret):
            raise ValueError
        return secret

    return Kind(f"up to {chars_max} printable ASCII characters without a space", read)


def whole(low: int, high: int) -> Kind[int]:
    """A whole number between two bounds that belong to it."""

    def read(value: object) -> int:
        number = int(value) if isinstance(value, str) else value
        if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
            raise ValueError
        return number

    return Kind(f"a whole number from {low} to {high}", read)


def number(low: float, high: float, *, above: bool = False) -> Kind[float]:
    """A finite number between two bounds; the lower one belongs to it unless `above`."""

    def read(value: object) -> float:
        is_number = isinstance(value, str | int | float) and not isinstance(value, bool)
        try:
            taken = float(value) if is_number else math.nan  # type: ignore[arg-type]
        except OverflowError:
            taken = math.inf
        if not low <= taken <= high or (above and taken == low):
            raise ValueError
        return taken

    return Kind(f"a number {'above' if above else 'from'} {low:g}{',' if above else ''} up to {_plain(high)}", read)


def _plain(bound: float) -> str:
    return f"{bound:.0f}" if bound == int(bound) else f"{bound:g}"


def optional(kind: Kind[T], none: str) -> Kind[T | None]:
    """What `kind` takes, or the word for none."""

    def read(value: object) -> T | None:
        absent = value is None or (isinstance(value, str) and value.strip().lower() in ("", none))
        return None if absent else kind.read(value)

    return Kind(f"{kind.takes}, or '{none}'", read, none)


def choice(options: type[E]) -> Kind[E]:
    """One of an enum's values."""
    return Kind(
        " or ".join(str(option.value) for option in options),
        lambda value: value if isinstance(value, options) else options(read_text(value).lower()),
    )


def _read_switch(value: object) -> bool:
    word = str(value).lower() if isinstance(value, bool) else read_text(value).lower()
    if word not in ("true", "yes", "on", "1", "false", "no", "off", "0"):
        raise ValueError
    return word in ("true", "yes", "on", "1")


def _read_path(value: object) -> Path:
    try:
        return Path(value if isinstance(value, os.PathLike) else read_text(value)).expanduser()
    except RuntimeError as exc:  # no such user behind '~'
        raise ValueError from exc


def _read_address(value: object) -> str:
    url = read_text(value)
    parts = urlsplit(url)
    clean = url.isprintable() and " " not in url and "@" not in parts.netloc and parts.port != 0
    labels = (parts.hostname or "").removesuffix(".").split(".")
    if parts.scheme not in ("http", "https") or not clean or not all(0 < len(label) < 64 for label in labels):
        raise ValueError
    return url


def _read_bind(value: object) -> str:
    host, colon, port = str(value).strip().rpartition(":")
    if not (colon and host and port.isdecimal() and int(port) < 65_536):
        raise ValueError
    return f"{host}:{port}"


def _read_sources(value: object) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names:
        raise ValueError
    return tuple(read_text(name) for name in names)


def _read_names(value: object) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names:
        raise ValueError
    return tuple(dict.fromkeys(read_text(name) for name in names))


def _read_device(value: object) -> str:
    device = read_text(value).lower()
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,2})?", device):
        raise ValueError
    return device


SWITCH = Kind("true or false", _read_switch)
PATH = Kind("a path", _read_path)
ADDRESS = Kind("an http:// or https:// address with a host, without user or password", _read_address)
SOURCES = Kind("'samples', or files, folders and camera addresses with commas between", _read_sources)
BIND = Kind("host:port; port 0 takes any free one", _read_bind)
DEVICE = Kind("auto, cpu, cuda, or cuda:N for the N-th graphics card from 0 on", _read_device)
NAMES = Kind("names with commas between", _read_names)
