"""Checks of the way to the cloud: name, connection, TLS, the cloud itself, its contract, our key, and the clock."""

import re
import socket
import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import trio

from actors import fitting
from actors.commands import checks_tls
from actors.commands.checks import Check, Verdict, failed, ok, warn
from actors.commands.checks_tls import ENDPOINT
from actors.commands.words import duration, moment
from actors.ports.client import CloudAnswer, Unreachable
from actors.ports.lane import thread_lane
from actors.settings import Settings
from actors.verdict import MARK, judge
from cloud.wire import WIRE_VERSION

CONNECT_S = 10.0
SKEW_MAX_S = 60.0
EARLIEST = 1_735_689_600.0
"""The first of January 2025: a clock before it was never set."""


async def cloud(settings: Settings, runs: bool) -> AsyncIterator[Check]:
    """One after the other, as far as there is something to check behind it."""
    del runs
    now = time.time()
    if now < EARLIEST:
        yield failed("clock", f"it says {moment(now)}", "set the clock, and let NTP keep it (timedatectl set-ntp true)")
    if not settings.cloud_logging_enabled:
        yield warn("cloud", "CLOUD_LOGGING_ENABLED is false: nothing is sent", "set it to true to deliver")
        return
    parts = urlsplit(settings.cloud_logging_endpoint)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with trio.fail_after(CONNECT_S):
            found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, trio.TooSlowError) as exc:
        yield failed("name", f"{host}: {why(exc)}", f"are network and DNS server up, and is {ENDPOINT} right?")
        return
    yield ok("name", f"{host} is {', '.join(sorted({str(entry[4][0]) for entry in found}))}")
    try:
        with trio.fail_after(CONNECT_S):
            await (await trio.open_tcp_stream(host, port)).aclose()
    except (OSError, trio.TooSlowError) as exc:
        yield failed("connection", f"{host}:{port}: {why(exc)}", "does the cloud run, and no firewall stand between?")
        return
    yield ok("connection", f"{host}:{port} takes connections")
    if parts.scheme == "https":
        tls = await checks_tls.certificate(settings, host, port, within_s=CONNECT_S)
        if tls.verdict is Verdict.FAIL:
            yield tls
            return
    else:
        tls = warn("tls", "http: key and predictions can be read on the way", f"use https in {ENDPOINT}")
    async for check in _ask(settings, tls, secure=parts.scheme == "https"):
        yield check


async def _ask(settings: Settings, tls: Check, *, secure: bool) -> AsyncIterator[Check]:
    async with fitting.client(settings, thread_lane()) as client:
        try:
            answer = await client.probe(timeout_s=CONNECT_S)
        except Unreachable as exc:
            yield checks_tls.hung_up(exc.reason, settings) if secure else failed("cloud", exc.reason, f"see {ENDPOINT}")
            return
        yield tls
        yield contract(answer, settings.cloud_logging_endpoint)
        if MARK not in answer.headers:
            return  # a stranger: its clock says nothing of ours, and our key is none of its business
        if "date" in answer.headers:
            yield skew(answer.headers["date"], time.time())
        try:
            with trio.fail_after(CONNECT_S):
                asked = await client.audit(settings.edge_device_id)
        except (Unreachable, trio.TooSlowError) as exc:
            yield failed("key", why(exc), "try again; the cloud answered a moment ago")
            return
        yield key(asked, given=bool(settings.cloud_logging_api_key or settings.cloud_logging_api_key_file))


def contract(answer: CloudAnswer, endpoint: str) -> Check:
    """Whether it is our cloud that answers, and one that we understand."""
    version = answer.headers.get(MARK)
    if answer.status >= 500:
        return failed("cloud", f"it answers {answer.status}", "look into the cloud's log")
    if version is None:
        return failed("cloud", f"{endpoint}: status {answer.status}, but not from our cloud", f"is {ENDPOINT} right?")
    if version != str(WIRE_VERSION):
        remedy = "update this device" if version.isdecimal() and int(version) > WIRE_VERSION else "update the cloud"
        return failed("cloud", f"it speaks version {version} of the contract, we speak {WIRE_VERSION}", remedy)
    return ok("cloud", f"it answers, and speaks version {version} of the contract as we do")


def skew(date: str, now: float) -> Check:
    """Our clock against the cloud's; the header has whole seconds."""
    try:
        apart_s = now - parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError):
        return warn("clock", f"the cloud's Date header can't be read: {date[:40]!r}", "is there a proxy in between?")
    if abs(apart_s) > SKEW_MAX_S:
        side = "ahead of" if apart_s > 0 else "behind"
        seen = f"{duration(abs(apart_s))} {side} the cloud's"
        return warn("clock", seen, "let NTP set it; predictions bear the time of this clock")
    return ok("clock", f"{moment(now)}, as the cloud's")


def key(answer: CloudAnswer, *, given: bool) -> Check:
    """What the cloud says to an authenticated request that changes nothing."""
    if answer.status in (401, 403):
        said = judge(answer.status, answer.headers, answer.body, records=0, now=0.0).reason
        what = f"refused, {said}" if given else "none is set, and the cloud wants one"
        return failed("key", what, "set CLOUD_LOGGING_API_KEY_FILE (or _KEY) to one that it knows for this device")
    if answer.status in (200, 404):
        return ok("key", "accepted" if given else "none is set, and the cloud wants none")
    return warn("key", f"the cloud answers {answer.status}", "look into the cloud's log")


def why(error: BaseException) -> str:
    """An error in words; some have none of their own."""
    if isinstance(error, trio.TooSlowError):
        return f"no answer within {CONNECT_S:g} s"
    inner = error.__cause__
    causes = inner.exceptions if isinstance(inner, BaseExceptionGroup) else (inner or error,)
    texts = {getattr(one, "strerror", None) or str(one) or type(one).__name__ for one in causes}
    return "; ".join(sorted(re.sub(r"^Error connecting to \(.*?\): ", "", text) for text in texts))
