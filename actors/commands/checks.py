"""What a check of `doctor` finds, and that a slow one has begun."""

import enum

import attrs


class Verdict(enum.Enum):
    """How it stands."""

    OK = "ok"
    WARN = "warn"
    """The device works, but somebody should look."""
    FAIL = "fail"
    """The device does not do its work so."""


@attrs.frozen
class Check:
    """One line: what was checked, how it stands, what was seen, and what to do about it."""

    name: str
    verdict: Verdict
    seen: str
    remedy: str = ""


@attrs.frozen
class Begun:
    """A check that may take long has begun: what is said meanwhile, and after how long it is given up."""

    name: str
    limit_s: float


Step = Check | Begun


def ok(name: str, seen: str) -> Check:
    """All is well."""
    return Check(name, Verdict.OK, seen)


def warn(name: str, seen: str, remedy: str) -> Check:
    """Worth a look."""
    return Check(name, Verdict.WARN, seen, remedy)


def failed(name: str, seen: str, remedy: str) -> Check:
    """Must be mended."""
    return Check(name, Verdict.FAIL, seen, remedy)
