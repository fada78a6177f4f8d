"""Who is let in to which path, and what every answer carries for a browser's and a device's sake."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import attrs
from quart import Response, request
from quart_trio import QuartTrio

from cloud import wire
from cloud.connection import CloudRequest
from cloud.keys import EVERYTHING, Key, Keys, Scope, Verdict
from cloud.problems import CONTENT_TYPE, DeviceOfAnotherKey, Problem
from cloud.settings import API_KEYS, API_KEYS_FILE, is_loopback

OPEN_PATHS = frozenset({"/health", "/ready", "/openapi.json", "/docs"})
"""What needs no key: it tells nothing of what is stored."""
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Everything that a page needs comes from here; nothing may be written into it.
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self';"
    " frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
INTRODUCTION = [
    ("Accept-Encoding", wire.ENCODINGS_TAKEN),
    ("Holdfast-Wire", str(wire.WIRE_VERSION)),
    ("Holdfast-Batch-Max", str(wire.RECORDS_TAKEN_MAX)),
    *SECURITY_HEADERS.items(),
]
"""What every answer says unless its route has said otherwise."""
_INTRODUCTION = {name.lower().encode(): value.encode() for name, value in INTRODUCTION}


def scopes_for(path: str) -> frozenset[Scope]:
    """Any of these is enough for that path."""
    if path == "/log":
        return frozenset({Scope.INGEST})
    if path.startswith("/devices/") and path.endswith("/audit"):
        return EVERYTHING
    return frozenset({Scope.READ})


def this_request() -> CloudRequest:
    """The request under way."""
    current = cast("Any", request)._get_current_object()  # noqa: SLF001 - werkzeug's public door
    assert isinstance(current, CloudRequest)
    return current


def check_device(device_id: str) -> None:
    """`DeviceOfAnotherKey` where the request's key is bound to another device."""
    key = this_request().key
    if key and not key.may_speak_for(device_id):
        raise DeviceOfAnotherKey(key)


def respond(problem: Problem) -> Response:
    """The answer that tells a problem."""
    response = Response(problem.json(this_request().request_id), problem.status, content_type=CONTENT_TYPE)
    response.headers.update(problem.headers)
    return response


def name_in(host: str) -> str:
    """The name or the address in a `Host` header, without its port."""
    name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.rpartition(":")[0] or host
    return name.lower().removesuffix(".")


def _stranger(peer: str | None, host: str, names: frozenset[str]) -> Problem | None:
    """Why a request is not of this machine: it comes from another one, or a page of another site made it.

    Such a page can have its own name lead here (DNS rebinding) and read what is answered; but the browser then sends
    that name. Who sends no `Host` at all is no browser.
    """
    remedy = f"set {API_KEYS} or {API_KEYS_FILE} and restart"
    if not is_loopback(peer or "127.0.0.1"):
        return Problem(403, "no keys are set, so only this machine is served", remedy)
    if host and not is_loopback(name_in(host)) and name_in(host) not in names:
        what = "Host: no keys are set, so this machine is served by its own names only"
        return Problem(403, what, f"ask for localhost or 127.0.0.1, or {remedy}")
    return None


@attrs.frozen
class Gate:
    """Who is let in: checked before anything of a request's body is read."""

    keys: Callable[[], Keys]
    names: frozenset[str] | None
    """Without keys this machine alone is served, under loopback's names and these; None: whoever asks."""

    def admit(self, path: str, *, peer: str | None, host: str, authorization: str) -> tuple[Key | None, Problem | None]:
        """The key that came, where one is asked for, and why the request is not let in."""
        held = self.keys()
        if self.names is not None and not held:
            stranger = _stranger(peer, host, self.names)
            if stranger:
                return None, stranger
        if path in OPEN_PATHS:
            return None, None
        scopes = scopes_for(path)
        judgement = held.judge(authorization, scopes)
        by_browser = authorization[:6].lower() == "basic "
        return judgement.key, _refusal(judgement.verdict, scopes, by_browser=by_browser)


def introduced(headers: Mapping[str, str], request_id: str) -> list[tuple[bytes, bytes]]:
    """An answer's headers, and what every answer says unless they say otherwise."""
    given = {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in headers.items()}
    return [*(_INTRODUCTION | given).items(), (b"x-request-id", request_id.encode("latin-1"))]


def guard(app: QuartTrio, gate: Gate) -> None:
    """Let nobody in whom `gate` does not, and say in every answer what each one says."""

    @app.before_request
    async def admit() -> Response | None:
        asked = this_request()
        asked.key, problem = gate.admit(
            request.path,
            peer=request.remote_addr,
            host=request.headers.get("Host", ""),
            authorization=request.headers.get("Authorization") or "",
        )
        return respond(problem) if problem else None

    @app.after_request
    async def introduce(response: Response) -> Response:
        given = {name.lower() for name, _ in response.headers}
        response.headers.extend([(name, value) for name, value in INTRODUCTION if name.lower() not in given])
        response.headers.add("X-Request-Id", this_request().request_id)
        return response


def _refusal(verdict: Verdict, scopes: frozenset[Scope], *, by_browser: bool) -> Problem | None:
    """Why a request is not let in. A browser asks its user for another key only where it gets a 401."""
    wanted = " or ".join(sorted(scopes))
    scheme = "Basic" if Scope.READ in scopes else "Bearer"
    challenge = {"WWW-Authenticate": f'{scheme} realm="holdfast", charset="UTF-8"'}
    status, headers = (401, challenge) if by_browser else (403, {})
    match verdict:
        case Verdict.ADMITTED:
            return None
        case Verdict.NO_KEY:
            remedy = "send 'Authorization: Bearer KEY'"
            return Problem(401, "Authorization: a key is needed", remedy, challenge)
        case Verdict.UNKNOWN_KEY:
            remedy = "python -m cloud keys list shows the keys that are taken"
            return Problem(status, "Authorization: this key is not known", remedy, headers)
        case Verdict.OUT_OF_SCOPE:
            return Problem(
                status, f"Authorization: this key is not for {wanted}", f"use a key for {wanted}", dict(headers)
            )
