"""Who may speak to the service: bearer keys, held only as hashes and compared in constant time."""

import enum
import hashlib
import hmac
from collections.abc import Iterable
from typing import Self

import attrs


class Verdict(enum.Enum):
    """What an `Authorization` header is worth."""

    ADMITTED = "admitted"
    NO_KEY = "no key"
    UNKNOWN_KEY = "unknown key"


@attrs.frozen
class Keys:
    """The keys that are taken. Without any, everybody is admitted: then the service must listen on loopback only."""

    _hashes: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, keys: Iterable[str]) -> Self:
        """Keys in plain text, which are not kept."""
        return cls(tuple(_hash(key) for key in keys))

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def judge(self, authorization: str | None) -> Verdict:
        """Whether this `Authorization` header admits. Every key is compared, whichever fits."""
        if not self._hashes:
            return Verdict.ADMITTED
        scheme, _, key = (authorization or "").strip().partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            return Verdict.NO_KEY
        offered = _hash(key.strip())
        fits = [hmac.compare_digest(offered, known) for known in self._hashes]
        return Verdict.ADMITTED if any(fits) else Verdict.UNKNOWN_KEY


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
