"""The table of outcomes, row by row: a whole device, real HTTP over memory streams, and a cloud app with a fault ahead.

Each row tells what the fault does to a batch of 32 that is offered at 5 s: when it is offered again, what the buffer
says of it, what the link is thought to be; and after the fault is gone at 60 s, that all is stored once, by itself.
"""

import math
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, closing
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import msgspec
import pytest
import structlog
import trio

from actors.audit import compare
from actors.messages import LinkState
from actors.pipeline import RECOVERY_JITTER_S
from actors.ports.account import read_account
from actors.ports.client import ApiKey
from cloud import wire
from tests.network import Network
from tests.world import DEVICE, EPOCH, HALF, Wire, World, open_world, predictions

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
Fault = Callable[["Front", Scope, Receive, Send], Awaitable[None]]

OFFERED_AT = 5.0
HEALED_AT = 60.0
HOME_BY = 100.0
"""An interval of the probe, and a drain, after the fault is gone."""
OURS = {"content-type": "application/json", "holdfast-wire": "1"}
HTML = {"content-type": "text/html"}
BAD = 777


@attrs.define(eq=False)
class Front:
    """The cloud app behind a fault: `POST /log`, or every request, is the fault's while there is one."""

    app: Any
    network: Network = attrs.field(init=False)
    wire: Wire = attrs.field(init=False)
    fault: Fault | None = None
    everywhere: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_post = scope.get("method") == "POST"
        if self.fault is None or scope["type"] != "http" or not (is_post or self.everywhere):
            await self.app(scope, receive, send)
        else:
            await self.fault(self, scope, receive, send)


async def body_of(receive: Receive) -> bytes:
    body: bytes = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def say(send: Send, status: int, headers: dict[str, str], body: bytes) -> None:
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def answers(status: int, headers: dict[str, str] = OURS, body: bytes = b"{}") -> Fault:
    async def fault(front: Front, scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        await say(send, status, headers, b"" if scope["method"] == "HEAD" else body)

    return fault


def busy(status: int, form: str) -> Fault:
    """Busy until the 20th second, said in seconds or as a date."""

    async def fault(front: Front, scope: Scope, receive: Receive, send: Send) -> None:
        until = 20.0
        if trio.current_time() >= until:
            await front.app(scope, receive, send)
            return
        after = str(round(until - trio.current_time())) if form == "seconds" else formatdate(EPOCH + until, usegmt=True)
        await answers(status, OURS | {"retry-after": after})(front, scope, receive, send)

    return fault


async def reset_before(front: Front, scope: Scope, receive: Receive, send: Send) -> None:
    await body_of(receive)
    front.network.cut()


async def reset_after(front: Front, scope: Scope, receive: Receive, send: Send) -> None:
    async def unheard(message: Scope) -> None:
        pass

    await front.app(scope, receive, unheard)
    front.network.cut()


async def half_an_answer(front: Front, scope: Scope, receive: Receive, send: Send) -> None:
    async def tear(message: Scope) -> None:
        body = message.get("body")
        await send(message if body is None else {**message, "body": body[: len(body) // 2], "more_body": True})

    await front.app(scope, receive, tear)
    front.network.cut()


async def slow_drip(front: Front, scope: Scope, receive: Receive, send: Send) -> None:
    await body_of(receive)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(100):
        await send({"type": "http.response.body", "body": b" ", "more_body": True})
        await trio.sleep(1.0)


def only_if(good: Callable[[list[int]], bool], status: int, error: str) -> Fault:
    """Takes the batches whose numbers are good and answers the others with an error."""

    async def fault(front: Front, scope: Scope, receive: Receive, send: Send) -> None:
        body = await body_of(receive)
        coding = dict(scope["headers"]).get(b"content-encoding", b"").decode()
        envelope = wire.open_envelope(wire.decompress(body, coding))
        seqs = [msgspec.json.decode(record)["seq"] for record in envelope.predictions]

        whole: list[Scope] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Scope:
            return whole.pop() if whole else await receive()

        if good(seqs):
            await front.app(scope, again, send)
        else:
            await say(send, status, OURS, msgspec.json.encode({"error": error}))

    return fault


async def a_success_of_nothing(front: Front, scope: Scope, receive: Receive, send: Send) -> None:
    """Says that it took 32, and stores none."""
    await answers(200, OURS, wire.encode_answer(wire.Answer(accepted=32)))(front, scope, receive, send)


def refuses(front: Front) -> None:
    front.network.sever()


def swallows(front: Front) -> None:
    front.network.cut()
    front.network.swallows = True


@attrs.frozen(kw_only=True)
class Row:
    """One row of the table."""

    name: str
    fault: Fault | None = None
    everywhere: bool = False
    network: Callable[[Front], None] | None = None
    offers: list[float]
    """Every time that any of it was offered before the fault was gone."""
    link: LinkState
    reason: str = ""
    """What stands in the link's reason."""
    status: str = "pending"
    retries: int = 0
    error: str | None = None
    """What stands in `last_error` of the rows."""
    duplicates: int = 0
    """What the cloud had to absorb in the end."""


LIVE = [5.0, 5.5, 6.5, 8.5]
"""Full jitter below 1, 2 and 4 seconds; of each the middle."""
FAILING = [*LIVE, *(8.5 + HALF * RECOVERY_JITTER_S + after for after in (0, 1, 3, 7, 15, 31))]
"""Then the backlog's: below 2, 4, 8, 16 and 32 seconds."""
REFUSED = [5.0, 35.0 + HALF * RECOVERY_JITTER_S]
"""One attempt each time that a probe finds the cloud there, an interval later."""
BUSY = [5.0, 20.0 + 1.0]
"""As asked, and up to 2 s on top of it."""

failing = partial(Row, offers=FAILING, link=LinkState.UP, reason="probe: 200", retries=7)
refused = partial(Row, offers=REFUSED, link=LinkState.REFUSED)
elsewhere = partial(Row, everywhere=True, offers=[5.0], link=LinkState.REFUSED)

ROWS = [
    Row(name="refused", network=refuses, offers=[5.0], link=LinkState.DOWN, retries=1, error="refused"),
    Row(name="blackhole", network=swallows, offers=[5.0], link=LinkState.DOWN, retries=1, error="within 30 s"),
    failing(name="reset before it acted", fault=reset_before, error="connection reset"),
    failing(name="reset after it acted", fault=reset_after, error="connection reset", duplicates=10 * 32),
    failing(name="half an answer", fault=half_an_answer, error="connection reset", duplicates=10 * 32),
    Row(name="slow drip", fault=slow_drip, offers=[5.0, 35.5], link=LinkState.UP),
    failing(name="500", fault=answers(500), error="500: {}"),
    failing(name="503 that names no time", fault=answers(503), error="503: {}"),
    *(
        Row(name=f"{code} in {form}", fault=busy(code, form), offers=BUSY, link=LinkState.UP, status="sent")
        for code in (429, 503)
        for form in ("seconds", "a date")
    ),
    Row(
        name="413",
        fault=only_if(lambda seqs: len(seqs) <= 8, 413, "too large"),
        offers=[5.0] * 6,
        link=LinkState.UP,
        status="sent",
    ),
    refused(
        name="400 for the envelope",
        fault=answers(400),
        offers=[5.0] * 8 + [REFUSED[1]] * 8,
        reason="even an empty batch",
    ),
    refused(
        name="422 for the envelope",
        fault=answers(422),
        offers=[5.0] * 8 + [REFUSED[1]] * 8,
        reason="even an empty batch",
    ),
    refused(name="401", fault=answers(401), reason="401"),
    refused(name="403", fault=answers(403), reason="403"),
    elsewhere(name="captive portal", fault=answers(200, HTML, b"<html>Hotel"), reason="not from our cloud (text/html)"),
    elsewhere(
        name="redirect", fault=answers(302, {"location": "http://portal/"}), reason="redirected to http://portal/"
    ),
    elsewhere(name="wrong host", fault=answers(404, HTML), reason="404, but not from our cloud"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_outcome(row: Row, folder: Path, autojump_clock: trio.abc.Clock):
    async with open_front(folder) as (world, front):
        async with world.device() as device:
            await trio.sleep_until(OFFERED_AT - 0.5)
            front.fault, front.everywhere = row.fault, row.everywhere
            if row.network:
                row.network(front)
            await trio.sleep_until(OFFERED_AT)
            await device.log_many(predictions(32))
            await trio.sleep_until(HEALED_AT)
            link = device.cells.link.value
            assert sorted(set(front.wire.offers)) == sorted(set(row.offers))
            if row.status == "pending":
                assert front.wire.offers == row.offers
            assert link.state is row.link
            assert row.reason in link.reason
            for status, retries, error in rows(world):
                assert (status, retries) == (row.status, row.retries)
                assert (error is None) if row.error is None else (row.error in error)
            front.fault = None
            front.network.heal()
            await trio.sleep_until(HOME_BY)
            assert device.status()["pending"] == 0
        audit = await audited(world)
        assert (audit["stored"], audit["conflicts"], audit["missing"]) == (32, 0, 0)
        assert audit["duplicates"] == row.duplicates
        assert compare(read_account(world.folder / "buffer.db"), {DEVICE: audit}).good


@pytest.mark.parametrize("status", [400, 422])
async def test_one_bad_record_among_1000_is_quarantined_alone(
    folder: Path, autojump_clock: trio.abc.Clock, status: int
):
    async with open_front(folder) as (world, front):
        async with world.device(batch_size=1_000) as device:
            front.fault = only_if(lambda seqs: BAD not in seqs, status, "bbox: bad")
            await device.log_many(predictions(1_000))
            await trio.sleep_until(HEALED_AT)
            assert len(front.wire.offers) <= 1 + 2 * math.log2(1_000)
            found = dict(enumerate(rows(world), start=1))
            assert [seq for seq, (state, _, _) in found.items() if state != "sent"] == [BAD]
            assert found[BAD][0] == "failed"
            assert "bbox: bad" in found[BAD][2]
            assert device.cells.link.value.state is LinkState.UP
        assert (await audited(world))["stored"] == 999


async def test_a_key_that_is_rotated_on_disk_opens_the_door_by_itself(folder: Path, autojump_clock: trio.abc.Clock):
    key = folder / "key"
    key.write_text("old-canary")

    async def guard(front: Front, scope: Scope, receive: Receive, send: Send) -> None:
        right = dict(scope["headers"]).get(b"authorization") == b"Bearer new-canary"
        await (front.app if right else partial(answers(401), front))(scope, receive, send)

    with structlog.testing.capture_logs() as logs:
        async with open_front(folder) as (world, front):
            world.key = ApiKey(file=key)
            async with world.device() as device:
                front.fault = guard
                await trio.sleep_until(OFFERED_AT)
                await device.log_many(predictions(32))
                await trio.sleep_until(10.0)
                assert device.cells.link.value.state is LinkState.REFUSED
                status = repr(device.status())
                key.write_text("new-canary")
                await trio.sleep_until(HEALED_AT)
                assert front.wire.offers == REFUSED, "noticed by the first attempt after it"
                assert device.status()["pending"] == 0
                status += repr(device.status())
            assert (await audited(world))["stored"] == 32
    assert "401" in status
    assert "post_not_stored" in repr(logs)
    assert "canary" not in status + repr(logs)


async def test_a_success_that_stored_nothing_is_found_by_the_audit(folder: Path, autojump_clock: trio.abc.Clock):
    async with open_front(folder) as (world, front):
        async with world.device() as device:
            await device.log_many(predictions(32))
            await trio.sleep_until(OFFERED_AT)
            front.fault = a_success_of_nothing
            await device.log_many(predictions(32))
            await trio.sleep_until(HEALED_AT)
            assert device.status()["pending"] == 0
        found = compare(read_account(world.folder / "buffer.db"), {DEVICE: await audited(world)})
        assert not found.good
        assert found.missing == ((33, 64),)
        assert "missing are 33-64" in found.sentence()


@asynccontextmanager
async def open_front(folder: Path) -> AsyncIterator[tuple[World, Front]]:
    """A world whose device speaks real HTTP, over a network of memory, to the cloud app behind a fault."""
    async with open_world(folder) as world, trio.open_nursery() as servers:
        app = world.wire.inner
        assert isinstance(app, httpx.ASGITransport)
        front = Front(app.app)
        front.network = Network(servers, front)
        front.wire = world.device_wire = Wire(front.network.transport())
        yield world, front
        servers.cancel_scope.cancel()


async def audited(world: World) -> dict[str, Any]:
    answer: dict[str, Any] = (await world.web.get(f"/devices/{DEVICE}/audit")).json()
    return answer


def rows(world: World) -> list[tuple[str, int, str]]:
    """Status, retry count and last error in the buffer, by number."""
    with closing(sqlite3.connect(world.folder / "buffer.db")) as db:
        return db.execute("SELECT status, retry_count, last_error FROM prediction_buffer ORDER BY id").fetchall()
