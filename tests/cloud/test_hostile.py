"""Hundreds of requests that nobody should send, over real HTTP: no 5xx, nothing kept, and a good client beside them."""

import gc
import gzip
import os
import random
import tracemalloc

import httpcore
import trio
import zstandard

from cloud import wire
from tests.cloud.test_limits import Wire, raw
from tests.cloud.world import envelope, payload

ROUNDS = 300
GOOD = envelope(payload(1))
BOMBS = {
    "gzip": gzip.compress(b" " * (16 * 1024 * 1024), 9),
    "zstd": zstandard.compress(b" " * (16 * 1024 * 1024)),
}
ENDLESS = b"[" * 100_000


def request(body: bytes, *headers: str, line="POST /log HTTP/1.1", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return "\r\n".join((line, "Host: x", f"Content-Length: {size}", *headers, "", "")).encode("latin-1") + body


def mangled(dice: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.randint(1, 8)):
        changed[dice.randrange(len(changed))] = dice.randrange(256)
    return bytes(changed)


def garbage(dice: random.Random) -> bytes:
    """One hostile connection's bytes."""
    encoding = dice.choice(("gzip", "zstd"))
    whole = (
        request(dice.randbytes(dice.randint(0, 2_000))),
        request(mangled(dice, GOOD)),
        request(mangled(dice, wire.compress(GOOD, encoding)), f"Content-Encoding: {encoding}"),  # type: ignore[arg-type]
        request(BOMBS[encoding], f"Content-Encoding: {encoding}"),
        request(gzip.compress(BOMBS["gzip"]), "Content-Encoding: gzip"),
        request(GOOD, f"Content-Encoding: {dice.choice(('br', 'gzip, zstd', 'x' * 5_000, chr(233)))}"),
        request(ENDLESS),
        request(GOOD.replace(b'"cam"', ENDLESS)),
        request(GOOD, "Content-Length: 3"),
        request(GOOD, "Transfer-Encoding: chunked"),
        request(b"", length=2**80),
        request(GOOD, "Authorization: Basic " + "A" * 4_000),
        request(b"", line=f"GET /{'%00/..' * dice.randint(1, 200)} HTTP/1.1"),
        request(b"", line=f"GET /devices/{'%ff' * 50}/audit HTTP/1.1"),
        request(b"", line="GET /predictions?limit=%00&" + "&".join(f"a{n}=1" for n in range(500)) + " HTTP/1.1"),
        request(b"", line="GET http://elsewhere/stats HTTP/1.1"),
        request(b"", line="OPTIONS * HTTP/1.1"),
        request(b"", line="BREW /log HTTP/1.1"),
        request(b"", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", line="GET /log HTTP/1.1"),
        request(b"", "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: !", line="GET / HTTP/1.1"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + dice.randbytes(200),
        b"GET / HTTP/9.9\r\n\r\n",
        dice.randbytes(500),
        mangled(dice, request(GOOD)),
    )  # fmt: skip
    return dice.choice(whole)


async def test_a_storm_of_garbage_gets_no_5xx_keeps_no_memory_and_holds_up_no_good_client(autojump_clock):
    seed = int(os.environ.get("SEED", "7"))
    print(f"{seed=}")
    dice = random.Random(seed)
    statuses: dict[int, int] = {}
    kept: list[int] = []

    async def attack(link: Wire, data: bytes) -> None:
        try:
            with trio.move_on_after(5):
                await link.send(data)
                status, _, _ = await link.answer()
                statuses[status] = statuses.get(status, 0) + 1
        except (httpcore.WriteError, httpcore.ReadError, AssertionError, KeyError):
            pass  # Cut off without an answer, or spoken to in another protocol: fair enough.
        await link.close()

    async with raw() as (cloud, connect):
        for number in range(1, ROUNDS + 1):
            await attack(await connect(), garbage(dice))
            if number % 10 == 0:
                answer = await cloud.post(payload(number), device="good")
                assert answer.json()["accepted"] == 1
            if number in (ROUNDS // 3, ROUNDS):
                gc.collect()
                kept.append(tracemalloc.get_traced_memory()[0])
            if number == 20:
                tracemalloc.start()
        tracemalloc.stop()
        assert (await cloud.audit("good"))["stored"] == ROUNDS // 10
    assert sum(statuses.values()) > ROUNDS // 2
    assert not [status for status in statuses if status >= 500 and status != 503], statuses
    assert kept[1] - kept[0] < 4 * 1024 * 1024
