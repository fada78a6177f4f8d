import errno
import os
import re
import socket

import httpx
import pytest
import structlog
import trio
from quart import Response, request
from quart_trio import QuartTrio

from actors.ports.client import ANSWER_BYTES_MAX, ApiKey, CloudClient, Unreachable
from actors.ports.lane import run_inline
from cloud import wire
from cloud.intake import ERROR_CHARS_MAX
from tests.network import Network

ENDPOINT = "http://10.0.0.1:8001/api/log"
BIG = b'{"x":"' + b"abcdefgh" * 1000 + b'"}'


class World:
    """A cloud that answers as it is told, and a client at the other end of the network."""

    def __init__(self, nursery, *, endpoint=ENDPOINT, key=None, timeout_s=30.0):
        self.requests = []
        self.answer = lambda: Response(b"{}", 200)
        self.app = QuartTrio(__name__)
        self.app.before_request(self._take)
        self.network = Network(nursery, self.app)
        self.client = CloudClient(
            endpoint, timeout_s=timeout_s, key=key, run_sync=run_inline, transport=self.network.transport()
        )

    async def _take(self):
        body = await request.get_data()
        self.requests.append((request.method, request.path, dict(request.headers), body))
        answer = self.answer()
        return await answer if hasattr(answer, "__await__") else answer

    def sent_as(self):
        return [headers.get("Content-Encoding", "identity") for _, _, headers, _ in self.requests]

    def keys(self):
        return [headers.get("Authorization") for _, _, headers, _ in self.requests]


@pytest.fixture
async def nursery_of_servers():
    async with trio.open_nursery() as nursery:
        yield nursery
        nursery.cancel_scope.cancel()


@pytest.fixture
def world(nursery_of_servers):
    return World(nursery_of_servers)


# --- what goes out


async def test_a_tiny_body_travels_as_it_is_and_a_large_one_as_gzip_until_the_server_says_zstd(autojump_clock, world):
    async with world.client as client:
        await client.post(b"{}")
        await client.post(BIG)
        world.answer = lambda: Response(b"{}", 200, {"Accept-Encoding": wire.ENCODINGS_TAKEN})
        await client.post(BIG)
        await client.post(BIG)
    assert world.sent_as() == ["identity", "gzip", "gzip", "zstd"]
    for _, _, headers, body in world.requests[1:]:
        assert wire.decompress(body, headers["Content-Encoding"]) == BIG
        assert len(body) < len(BIG)
    assert world.requests[0][3] == b"{}"


async def test_a_probe_teaches_the_codings_too(autojump_clock, world):
    async with world.client as client:
        world.answer = lambda: Response(b"", 200, {"Accept-Encoding": "br, zstd"})
        await client.probe(timeout_s=5)
        await client.post(BIG)
    assert world.sent_as()[-1] == "zstd"


async def test_what_a_server_excludes_is_not_sent(autojump_clock, world):
    async with world.client as client:
        world.answer = lambda: Response(b"{}", 200, {"Accept-Encoding": "zstd;q=0, gzip;q=0.0, identity"})
        await client.post(BIG)
        await client.post(BIG)
    assert world.sent_as() == ["gzip", "identity"]


async def test_a_coding_that_is_refused_falls_back_within_the_same_post_and_is_not_tried_again(autojump_clock, world):
    async with world.client as client:

        def answer():
            taken = {"Accept-Encoding": wire.ENCODINGS_TAKEN}
            return Response(b"{}", 415 if "Content-Encoding" in request.headers else 200, taken)

        world.answer = answer
        assert (await client.post(BIG)).status == 200
        assert world.sent_as() == ["gzip", "zstd", "identity"]
        assert (await client.post(BIG)).status == 200
    assert world.sent_as()[3:] == ["identity"]


async def test_415_for_a_plain_body_is_the_answer_and_no_loop(autojump_clock, world):
    async with world.client as client:
        world.answer = lambda: Response(b"{}", 415)
        assert (await client.post(BIG)).status == 415
    assert world.sent_as() == ["gzip", "identity"]


async def test_the_probe_goes_beside_the_endpoint_without_key_or_body(nursery_of_servers, autojump_clock):
    world = World(nursery_of_servers, key=ApiKey("sesame"))
    async with world.client as client:
        world.answer = lambda: Response(b"", 200, {"Holdfast-Wire": "1"})
        answer = await client.probe(timeout_s=5)
        assert (answer.status, answer.headers["holdfast-wire"], answer.body) == (200, "1", b"")
    method, path, headers, body = world.requests[0]
    assert (method, path, body) == ("HEAD", "/api/health", b"")
    assert "Authorization" not in headers


async def test_environment_cookies_and_redirects_are_left_alone(nursery_of_servers, autojump_clock, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://10.9.9.9:3128")
    world = World(nursery_of_servers)
    async with world.client as client:
        world.answer = lambda: Response(b"", 302, {"Location": "http://portal.example/", "Set-Cookie": "a=b"})
        answer = await client.post(b"{}")
        assert (answer.status, answer.headers["location"]) == (302, "http://portal.example/")
        await client.post(b"{}")
    assert len(world.requests) == 2
    assert "Cookie" not in world.requests[1][2]


# --- the key


async def test_who_repeats_the_key_in_his_answer_brings_it_into_no_log(nursery_of_servers, autojump_clock):
    world = World(nursery_of_servers, key=ApiKey("sesame"))
    world.answer = lambda: Response(b"you said sesame", 401, {"Location": "/login?was=sesame"})
    async with world.client as client:
        answers = [await client.post(b"{}"), await client.audit("cam")]
    for answer in answers:
        assert answer.body == b"you said ********"
        assert answer.headers["location"] == "/login?was=********"


async def test_a_key_rotated_on_disk_is_used_by_the_next_post(nursery_of_servers, autojump_clock, tmp_path):
    file = tmp_path / "key"
    file.write_text("first\n")
    world = World(nursery_of_servers, key=ApiKey(file=file))
    async with world.client as client:
        await client.post(b"{}")
        fresh = tmp_path / "fresh"
        fresh.write_text("second\n")
        os.replace(fresh, file)  # noqa: PTH105
        await client.post(b"{}")
        file.unlink()
        await client.post(b"{}")
    assert world.keys() == ["Bearer first", "Bearer second", "Bearer second"]


async def test_an_unusable_key_in_the_file_is_never_sent_nor_shown(nursery_of_servers, autojump_clock, tmp_path):
    file = tmp_path / "key"
    file.write_text("line-one\nline-two")
    world = World(nursery_of_servers, key=ApiKey(file=file))
    with structlog.testing.capture_logs() as logs:
        async with world.client as client:
            await client.post(b"{}")
    assert world.keys() == [None]
    assert [entry["event"] for entry in logs] == ["api_key_unusable"]
    assert "line-one" not in repr(logs)


async def test_the_key_never_shows_itself(nursery_of_servers, autojump_clock):
    key = ApiKey("s3same")
    world = World(nursery_of_servers, key=key)
    world.network.sever()
    shown = [repr(key), str(key), repr(world.client), str(vars(world.client))]
    with structlog.testing.capture_logs() as logs, pytest.raises(Unreachable) as caught:
        await world.client.post(b"{}")
    cause = caught.value.__cause__
    assert "s3same" not in "".join([*shown, repr(logs), repr(caught.value), caught.value.reason, repr(cause)])
    with pytest.raises(ValueError) as refused:
        CloudClient(
            ENDPOINT, timeout_s=1, key=ApiKey("s3same\n"), transport=httpx.MockTransport(lambda _: httpx.Response(200))
        )
    assert "s3same" not in str(refused.value)


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "cloud",
        "ftp://host/log",
        "http://",
        "http:///log",
        "http://user:pw@host/log",
        "http://h:port/log",
        f"http://{'x' * 64}.example/log",
        "http://cloud..example/log",
    ],
)
def test_an_endpoint_that_is_none_is_refused_at_once(endpoint):
    with pytest.raises(ValueError) as refused:
        CloudClient(endpoint, timeout_s=1)
    assert "pw" not in str(refused.value)


# --- what comes back, or does not


async def reason_of(client, post=True):
    with pytest.raises(Unreachable) as caught:
        await (client.post(BIG) if post else client.probe(timeout_s=5))
    return caught.value.reason


async def test_a_refused_connection_and_then_a_healed_one(autojump_clock, world):
    async with world.client as client:
        world.network.sever()
        assert await reason_of(client) == "ConnectError: connection refused"
        world.network.heal()
        assert (await client.post(BIG)).status == 200


async def test_a_black_hole_ends_at_exactly_the_timeout(autojump_clock, world):
    world.network.swallows = True
    async with world.client as client:
        assert await reason_of(client) == "no answer within 30 s"
        assert trio.current_time() == 30.0
        assert await reason_of(client, post=False) == "no answer within 5 s"
        assert trio.current_time() == 35.0


async def test_a_server_that_never_answers_ends_at_exactly_the_timeout(autojump_clock, world):
    world.answer = trio.sleep_forever
    async with world.client as client:
        assert await reason_of(client) == "no answer within 30 s"
    assert trio.current_time() == 30.0


async def test_an_answer_that_drips_ends_at_the_timeout_too(autojump_clock, world):
    def drip():
        async def body():
            for _ in range(1000):
                yield b"."
                await trio.sleep(1)

        return Response(body(), 200)

    world.answer = drip
    async with world.client as client:
        assert await reason_of(client) == "no answer within 30 s"
    assert trio.current_time() == 30.0


async def test_a_transport_that_enforces_no_timeout_is_bounded_all_the_same(autojump_clock):
    app = QuartTrio(__name__)

    @app.post("/log")
    async def hang():
        await trio.sleep(60)
        return {}

    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    async with CloudClient("http://10.0.0.1/log", timeout_s=7, run_sync=run_inline, transport=transport) as client:
        assert await reason_of(client) == "no answer within 7 s"
    assert trio.current_time() == 7.0


async def test_a_reset_before_any_answer(autojump_clock, world):
    async def reset():
        world.network.cut()
        await trio.sleep(1)

    world.answer = reset
    async with world.client as client:
        assert (await reason_of(client)).startswith(("ReadError", "RemoteProtocolError"))
    assert trio.current_time() < 1.0


async def test_half_an_answer_is_no_answer(autojump_clock, world):
    def half():
        async def body():
            yield b'{"accepted": 3'
            await trio.sleep(2)
            world.network.cut()

        return Response(body(), 200, {"Content-Length": "40"})

    world.answer = half
    async with world.client as client:
        assert (await reason_of(client)).startswith(("ReadError", "RemoteProtocolError"))
    assert trio.current_time() == 2.0


async def test_an_endless_answer_is_read_up_to_its_bound(autojump_clock, world):
    def endless():
        async def body():
            while True:
                yield b"z" * (ANSWER_BYTES_MAX // 4)
                await trio.sleep(1)

        return Response(body(), 200)

    world.answer = endless
    async with world.client as client:
        assert (await client.post(b"{}")).body == b"z" * ANSWER_BYTES_MAX
        assert trio.current_time() == 3.0
        world.answer = lambda: Response(b"{}", 200)
        assert (await client.post(b"{}")).status == 200, "on another connection"


async def test_an_answer_compressed_unasked_is_read_and_a_bomb_is_not(autojump_clock, world):
    async with world.client as client:
        world.answer = lambda: Response(wire.compress(b'{"a":1}', "gzip"), 200, {"Content-Encoding": "gzip"})
        assert (await client.post(b"{}")).body == b'{"a":1}'
        bomb = wire.compress(b"0" * (20 * ANSWER_BYTES_MAX), "gzip")
        world.answer = lambda: Response(bomb, 200, {"Content-Encoding": "gzip"})
        assert (await client.post(b"{}")).body == bomb


async def test_a_redirect_to_nonsense_is_an_answer(autojump_clock, world):
    async with world.client as client:
        world.answer = lambda: Response(b"", 302, {"Location": "http://[::bad"})
        assert (await client.post(b"{}")).status == 302


async def test_a_connection_that_the_server_closed_while_idle_costs_no_post(autojump_clock, world):
    async with world.client as client:
        await client.post(b"{}")
        await trio.sleep(2)
        world.network.cut()
        assert (await client.post(b"{}")).status == 200
    assert world.network.connects == 2


@pytest.mark.parametrize("error", [httpx.UnsupportedProtocol("x"), httpx.ProxyError("x"), httpx.PoolTimeout("x")])
async def test_every_transport_error_has_the_one_name(error, autojump_clock):
    def fail(request):
        raise error

    async with CloudClient(ENDPOINT, timeout_s=1, run_sync=run_inline, transport=httpx.MockTransport(fail)) as client:
        assert await reason_of(client) == f"{type(error).__name__}: x"


async def test_a_real_closed_port_is_told_as_that():
    async with CloudClient("http://127.0.0.1:9/log", timeout_s=5) as client:
        assert re.fullmatch(r"ConnectError: Connection refused \(.*127\.0\.0\.1:9 failed\)", await reason_of(client))


def failed(*errnos):
    """As it comes through the HTTP library when a name has several addresses."""
    error = OSError("all attempts to connect to 10.0.0.1:80 failed")
    error.__cause__ = ExceptionGroup("", [OSError(number, "told") for number in errnos])
    return error


@pytest.mark.parametrize(
    ("cause", "silent"),
    [
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), True),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), True),
        (failed(errno.ENETUNREACH, errno.EHOSTUNREACH), True),
        (failed(errno.ENETUNREACH, errno.ECONNREFUSED), False),
        (OSError(errno.ECONNREFUSED, "Connection refused"), False),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), False),
        (None, False),
    ],
)
async def test_it_says_whether_anybody_was_met_at_all(cause, silent, autojump_clock):
    def fail(request):
        raise httpx.ConnectError("no way") from cause

    async with CloudClient(ENDPOINT, timeout_s=1, run_sync=run_inline, transport=httpx.MockTransport(fail)) as client:
        with pytest.raises(Unreachable) as caught:
            await client.probe(timeout_s=1)
    assert caught.value.silent is silent


def test_the_answer_to_the_largest_batch_is_read_whole_even_if_it_minds_every_record():
    worst = [wire.Rejection(index, "\0" * ERROR_CHARS_MAX, wire.SEQ_MAX) for index in range(wire.RECORDS_TAKEN_MAX)]
    assert len(wire.encode_answer(wire.Answer(accepted=0, rejected=worst))) < ANSWER_BYTES_MAX
