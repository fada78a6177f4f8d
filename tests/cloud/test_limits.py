"""What one client may cost: slow bodies, fast devices, full rooms, long headers; real HTTP under a virtual clock."""

from contextlib import aclosing, asynccontextmanager, suppress

import httpcore
import pytest
import trio

from cloud import wire
from cloud.__main__ import HEADERS_BYTES_MAX, KEEP_ALIVE_S, hosting
from cloud.keys import Keys
from cloud.ledger import LedgerBusy
from cloud.limits import (
    BODY_BYTES_PER_S_MIN,
    BODY_GRACE_S,
    BODY_S_MAX,
    DEVICES_MAX,
    Limits,
    Rates,
    Room,
    TooManyRequests,
    body_s_max,
)
from tests.cloud.world import envelope, payload, service
from tests.network import Network


class Wire:
    """A connection, byte by byte."""

    def __init__(self, stream):
        self._stream = stream
        self._read = b""

    async def send(self, data: bytes) -> None:
        await self._stream.write(data)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer."""
        while b"\r\n\r\n" not in self._read:
            await self._more()
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers["content-length"])
        while len(self._read) < length:
            await self._more()
        body, self._read = self._read[:length], self._read[length:]
        return int(first.split()[1]), headers, body

    async def closed(self) -> bool:
        """Whether nothing more comes; waits for it."""
        return bool(await self._stream.read(1) == b"")

    async def close(self) -> None:
        await self._stream.aclose()

    async def _more(self) -> None:
        data = await self._stream.read(65_536)
        assert data, "closed in the middle of an answer"
        self._read += data


@asynccontextmanager
async def raw(**knobs):
    """A service, and a function that opens a connection to it."""
    async with service(**knobs) as cloud, trio.open_nursery() as nursery:
        network = Network(nursery, cloud.app, hosting("127.0.0.1:0"))

        async def connect() -> Wire:
            return Wire(await network.connect_tcp("10.0.0.1", 80))

        yield cloud, connect
        nursery.cancel_scope.cancel()


def post(length: int, *more: str) -> bytes:
    return "\r\n".join(("POST /log HTTP/1.1", "Host: x", f"Content-Length: {length}", *more, "", "")).encode()


async def test_a_body_that_trickles_is_cut_off_after_the_grace_and_a_good_one_is_served_meanwhile(autojump_clock):
    async with raw() as (cloud, connect):
        slow = await connect()
        await slow.send(post(1_000))
        for _ in range(int(BODY_GRACE_S) - 1):
            await slow.send(b"x")
            await trio.sleep(1)
        assert (await cloud.post(payload(1))).status_code == 200
        status, _, body = await slow.answer()
        assert status == 408
        assert trio.current_time() == pytest.approx(BODY_GRACE_S, abs=0.1)
        assert b"9 bytes in 10 s" in body
        assert await slow.closed()


async def test_a_body_over_a_slow_but_honest_link_arrives(autojump_clock):
    body = envelope(*(payload(n) for n in range(1, 101)))
    async with raw() as (_, connect):
        link = await connect()
        await link.send(post(len(body)))
        pace = BODY_BYTES_PER_S_MIN * 2
        for start in range(0, len(body), pace):
            await trio.sleep(1)
            await link.send(body[start : start + pace])
        status, _, _ = await link.answer()
        assert status == 200
        assert BODY_GRACE_S < trio.current_time() < BODY_S_MAX


def test_a_body_may_take_longer_the_more_of_it_is_here_and_never_for_ever():
    assert [body_s_max(n) for n in (0, 5_000, 10**9)] == [BODY_GRACE_S, BODY_GRACE_S + 5, BODY_S_MAX]


async def test_headers_that_trickle_or_never_come_are_cut_off(autojump_clock):
    async with raw() as (_, connect):
        silent, trickling = await connect(), await connect()
        await trickling.send(b"GET /stats HTTP/1.1\r\n")
        with suppress(httpcore.WriteError):
            while trio.current_time() < KEEP_ALIVE_S * 2:
                await trickling.send(b"X: y\r\n")
                await trio.sleep(1)
        assert await silent.closed()
        assert trio.current_time() == pytest.approx(KEEP_ALIVE_S, abs=1.1)


async def test_headers_have_a_size_and_the_next_connection_is_none_the_worse(autojump_clock):
    async with raw() as (_, connect):
        wordy = await connect()
        await wordy.send(b"GET /stats HTTP/1.1\r\nHost: x\r\nX: " + b"y" * (HEADERS_BYTES_MAX + 65_536))
        status, _, _ = await wordy.answer()
        assert status == 431
        assert await wordy.closed()
        fine = await connect()
        await fine.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await fine.answer())[0] == 200


async def test_what_is_refused_is_refused_before_its_body_comes(autojump_clock):
    """No key, too large, no room: nobody waits for a body that nobody reads."""
    async with raw(keys=Keys.of(["k"])) as (_, connect):
        keyed = "Authorization: Bearer k"
        for request, status in ((post(100), 401), (post(wire.BODY_BYTES_MAX + 1, keyed), 413)):
            link = await connect()
            await link.send(request)
            assert (await link.answer())[0] == status
            assert await link.closed()
        assert trio.current_time() == 0


async def test_a_chunked_body_without_a_length_is_bounded_too(autojump_clock):
    async with raw() as (cloud, connect):
        link = await connect()
        await link.send(b"POST /log HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                for _ in range(wire.BODY_BYTES_MAX // 65_536 + 2):
                    await link.send(b"10000\r\n" + b"x" * 65_536 + b"\r\n")

            nursery.start_soon(flood)
            status, _, _ = await link.answer()
            nursery.cancel_scope.cancel()
        assert status == 413
        assert (await cloud.post(payload(1))).status_code == 200


async def test_a_full_room_sheds_before_the_body_and_says_when_to_come_back(autojump_clock):
    async with raw(limits=Limits(requests_max=2)) as (_, connect):
        waiting = [await connect() for _ in range(2)]
        for link in waiting:
            await link.send(post(100))
        await trio.testing.wait_all_tasks_blocked()
        late = await connect()
        await late.send(post(100))
        status, headers, body = await late.answer()
        assert (status, headers["retry-after"], trio.current_time()) == (503, "1", 0)
        assert b"nothing was stored" in body
        assert [(await link.answer())[0] for link in waiting] == [408, 408]
        again = await connect()
        body = envelope(payload(1))
        await again.send(post(len(body)) + body)
        assert (await again.answer())[0] == 200


async def test_the_bytes_of_all_bodies_together_are_bounded_and_given_back():
    async def body(size: int):
        yield b"x" * size

    room = Room(requests_max=9, bytes_max=100)
    with room.hold() as first:
        await first.read(body(60))
        with pytest.raises(LedgerBusy), room.hold() as second:
            async with aclosing(body(60)) as too_much:
                await second.read(too_much)
        with room.hold() as third:
            await third.read(body(40))
            with pytest.raises(LedgerBusy), room.hold():
                raise AssertionError("there is no room")
    assert (room.requests, room.held) == (0, 0)


async def test_a_device_that_asks_too_often_is_told_when_to_come_back_and_its_neighbour_is_served(autojump_clock):
    async with service(limits=Limits(device_requests_per_s=2)) as cloud:
        answers = [await cloud.post(payload(n)) for n in range(1, 7)]
        assert [answer.status_code for answer in answers] == [200] * 4 + [429] * 2
        assert answers[-1].headers["Retry-After"] == "1"
        assert answers[-1].json()["detail"].startswith("edge_device_id: ")
        assert (await cloud.post(payload(1), device="neighbour")).status_code == 200
        await trio.sleep(1)
        assert [(await cloud.post(payload(n))).status_code for n in range(5, 8)] == [200, 200, 429]
        assert (await cloud.audit())["stored"] == 6


def test_a_bucket_lets_through_its_burst_and_then_its_rate():
    rates = Rates(per_s=10)
    assert sum(_passes(rates, "cam", now=0.0) for _ in range(100)) == 20
    assert sum(_passes(rates, "cam", now=tick / 64) for tick in range(1, 193)) == 30
    assert sum(_passes(rates, "cam", now=1000.0) for _ in range(100)) == 20


def test_a_device_slower_than_one_request_a_burst_still_gets_through():
    rates = Rates(per_s=0.1)
    assert [_passes(rates, "cam", now=now) for now in (0.0, 1.0, 10.0, 19.0, 20.0)] == [True, False, True, False, True]


def test_turned_away_requests_do_not_push_the_wait_further():
    rates = Rates(per_s=1)
    waits = []
    for _ in range(5):
        try:
            rates.take("cam", 0.0)
        except TooManyRequests as exc:
            waits.append(exc.wait_s)
    assert waits == [1.0, 1.0, 1.0]


def test_only_so_many_devices_are_remembered():
    rates = Rates(per_s=1)
    for number in range(DEVICES_MAX * 2):
        rates.take(f"made-up-{number}", 0.0)
    assert len(rates._buckets) == DEVICES_MAX


def _passes(rates: Rates, device: str, *, now: float) -> bool:
    try:
        rates.take(device, now)
    except TooManyRequests:
        return False
    return True
