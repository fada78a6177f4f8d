"""TLS: whom the device trusts and how it shows itself, made of certificate files, and anew when these change."""

import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import attrs
import structlog

log = structlog.get_logger()


class TlsUnusable(Exception):
    """The certificate files make no context; the text names the setting and the file, never what is in it."""


@attrs.define
class Tls:
    """Whom the device trusts: the system's authorities, or a private one's file. What it shows: a client certificate.

    `key_file` may be left out where `cert_file` holds the key too. An encrypted key is refused: nobody is there to be
    asked for its password.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    _seen: tuple[object, ...] = attrs.field(default=(), init=False, repr=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that may change."""
        return tuple(file for file in (self.ca_file, self.cert_file, self.key_file) if file is not None)

    def context(self) -> ssl.SSLContext:
        """A context of the files as they are now. Blocks on the disk. `TlsUnusable`."""
        self._seen = tuple(_stamp(file) for file in self.files)
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as exc:
            raise TlsUnusable(f"CLOUD_TLS_CA_FILE {self.ca_file}: {_why(exc)}") from exc
        if self.cert_file is not None:
            try:
                context.load_cert_chain(self.cert_file, self.key_file, password=lambda: b"")
            except (OSError, ssl.SSLError) as exc:
                key = f" with CLOUD_TLS_KEY_FILE {self.key_file}" if self.key_file else ""
                raise TlsUnusable(f"CLOUD_TLS_CERT_FILE {self.cert_file}{key}: {_why(exc)}") from exc
        return context

    def reread(self) -> ssl.SSLContext | None:
        """A new context if a file has changed since the last look; None if none has, or if they make none just now.

        A rotation replaces one file after the other: in between, the context before stays in force.
        """
        if tuple(_stamp(file) for file in self.files) == self._seen:
            return None
        try:
            context = self.context()
        except TlsUnusable as exc:
            log.error("tls_files_unusable", error=str(exc), then="those read before stay in force")  # noqa: TRY400
            return None
        log.info("tls_files_reread", files=[str(file) for file in self.files])
        return context


def _stamp(file: Path) -> tuple[int, ...]:
    """What changes when a file does; also when it is a link that is turned to another one. Empty if it is not there."""
    try:
        stat = os.stat(file)  # noqa: PTH116 - in one call
    except OSError:
        return ()
    return (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino)


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        known = {
            "KEY_VALUES_MISMATCH": "the key does not belong to the certificate",
            "NO_CERTIFICATE_OR_CRL_FOUND": "there is no certificate in it",
            "NO_START_LINE": "it is not in PEM format",
            "PEM_LIB": "it is not in PEM format, or the key is missing or encrypted",
            "BAD_DECRYPT": "the key is encrypted; give one without a password",
            "BAD_PASSWORD_READ": "the key is encrypted; give one without a password",
        }
        reason = (error.reason or "").replace(" ", "_").upper() or ("PEM_LIB" if "PEM lib" in str(error) else "")
        return known.get(reason, reason.replace("_", " ").lower() or "it can't be used")
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def fault(error: BaseException) -> ssl.SSLError | None:
    """The TLS error behind a failed connection, if there is one."""
    return next((cause for cause in causes(error) if isinstance(cause, ssl.SSLError)), None)


def explain(error: BaseException) -> str | None:
    """What lies behind a failed connection, where the error itself does not say it, in words for a log; else None."""
    tls = fault(error)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return f"the cloud's certificate is not trusted: {tls.verify_message}".rstrip(".")
    if tls is not None:
        reason = (tls.reason or "handshake failed").replace("_", " ").lower()
        shown = " (is CLOUD_TLS_CERT_FILE the one it expects?)" if "certificate" in reason else ""
        return f"TLS: {reason}{shown}"
    name = next((cause for cause in causes(error) if isinstance(cause, socket.gaierror)), None)
    if name is not None:
        return f"the name of the cloud can't be resolved: {name.strerror}"
    tries = next((cause.exceptions for cause in causes(error) if isinstance(cause, BaseExceptionGroup)), ())
    said = sorted({os.strerror(one.errno) for one in tries if isinstance(one, OSError) and one.errno})
    return f"{', '.join(said)} ({error})" if said else None


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what lies behind it, each of several that came together too."""
    at: BaseException | None = error
    while at is not None:
        yield at
        if isinstance(at, BaseExceptionGroup):
            for one in at.exceptions:
                yield from causes(one)
        at = at.__cause__ or at.__context__
