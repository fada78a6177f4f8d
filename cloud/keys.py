"""Who may speak to the service, and for what: keys that are known by their hashes alone and compared in constant time.

A key is sent as `Authorization: Bearer KEY`. A browser may send it as the password of HTTP Basic, with any user name,
for reading only: a browser adds what it remembers to requests that other sites make it send, so it must not store.
"""

import base64
import binascii
import enum
import hashlib
import hmac
from collections.abc import Iterable
from typing import Self

import attrs


class Scope(enum.StrEnum):
    """What a key is good for."""

    INGEST = "ingest"
    """To send predictions, and to read the audit of the device that sent them."""
    READ = "read"
    """To read everything."""


EVERYTHING = frozenset(Scope)


@attrs.frozen
class Key:
    """A key without its secret: what the service keeps."""

    digest: bytes = attrs.field(repr=False)
    """SHA-256 of the secret. Nothing slower is needed: a secret of 256 random bits can't be guessed."""
    name: str = ""
    scopes: frozenset[Scope] = EVERYTHING
    device_id: str | None = None
    """The only device that it may speak for; None: any."""

    def may_speak_for(self, device_id: str) -> bool:
        """Whether it may send predictions of that device, and read its audit."""
        return self.device_id is None or self.device_id == device_id


class Verdict(enum.Enum):
    """What an `Authorization` header is worth."""

    ADMITTED = "admitted"
    NO_KEY = "no key"
    UNKNOWN_KEY = "unknown key"
    OUT_OF_SCOPE = "the key is for something else"


@attrs.frozen
class Judgement:
    """A verdict, and the key that it is about where one is known."""

    verdict: Verdict
    key: Key | None = None


@attrs.frozen
class Keys:
    """The keys that are taken. Where none are `needed`, everybody is admitted: then only loopback may be served."""

    known: tuple[Key, ...] = ()
    needed: bool = attrs.field(default=attrs.Factory(lambda self: bool(self.known), takes_self=True))

    @classmethod
    def of(cls, secrets: Iterable[str]) -> Self:
        """Keys for everything, in plain text, which is not kept."""
        return cls(tuple(Key(digest_of(secret), name=f"key {n}") for n, secret in enumerate(secrets, 1)))

    def __bool__(self) -> bool:
        return self.needed

    def judge(self, authorization: str | None, scopes: frozenset[Scope] = EVERYTHING) -> Judgement:
        """Whether this `Authorization` header admits to what any of `scopes` is enough for.

        Every key is compared, whichever fits.
        """
        if not self.needed:
            return Judgement(Verdict.ADMITTED)
        secret = _secret_in(authorization or "", basic_taken=Scope.READ in scopes)
        if not secret:
            return Judgement(Verdict.NO_KEY)
        offered = digest_of(secret)
        fitting = [key for key in self.known if hmac.compare_digest(offered, key.digest)]
        if not fitting:
            return Judgement(Verdict.UNKNOWN_KEY)
        key = fitting[0]
        return Judgement(Verdict.ADMITTED if key.scopes & scopes else Verdict.OUT_OF_SCOPE, key)


def digest_of(secret: str) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def _secret_in(authorization: str, *, basic_taken: bool) -> str:
    scheme, _, rest = authorization.strip().partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic" and basic_taken:
        try:
            return base64.b64decode(rest.strip(), validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, ValueError):
            return ""
    return ""
