"""The cuttable wire: real loopback sockets, since the kernel's refusals and resets are the subject."""

import functools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import open_stream_to_socket_listener, wait_all_tasks_blocked

from chaos import proxy as module
from chaos.proxy import Mode, Proxy, main

PATIENCE_S = 5.0
"""How long real sockets may take before a test gives up; none of the tests waits for it when all is well."""
SILENCE_S = 0.05
"""How long nothing must come before we call it silent."""
ROOT = Path(__file__).parents[2]


@attrs.define
class Cloud:
    """An echo that notes what it was sent and how each connection ended."""

    port: int = 0
    heard: bytearray = attrs.field(factory=bytearray)
    taken: int = 0
    endings: list[str] = attrs.field(factory=list)

    async def serve(self, task_status=trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        await trio.serve_listeners(self._echo, listeners, task_status=task_status)

    async def _echo(self, stream: trio.SocketStream) -> None:
        self.taken += 1
        try:
            async for data in stream:
                self.heard += data
                await stream.send_all(data)
            self.endings.append("end")
        except trio.BrokenResourceError:
            self.endings.append("reset")


@asynccontextmanager
async def wired() -> AsyncIterator[tuple[Proxy, Cloud]]:
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            cloud = Cloud()
            await nursery.start(cloud.serve)
            proxy = Proxy("127.0.0.1", cloud.port)
            await nursery.start(proxy.serve)
            yield proxy, cloud
            nursery.cancel_scope.cancel()


async def dial(proxy: Proxy) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", proxy.port)


async def exchange(stream: trio.SocketStream, data: bytes) -> bytes:
    await stream.send_all(data)
    back = b""
    while len(back) < len(data):
        more = await stream.receive_some()
        assert more, "the wire ended early"
        back += more
    return back


async def meet_a_reset(proxy: Proxy) -> None:
    """The reset may come while the connection is still being made."""
    with pytest.raises((OSError, trio.BrokenResourceError)):
        async with await dial(proxy) as stream:
            await stream.receive_some()


async def is_silent(stream: trio.SocketStream) -> bool:
    with trio.move_on_after(SILENCE_S):
        await stream.receive_some()
        return False
    return True


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - what we wait for happens in the kernel
        await trio.sleep(0.001)


async def test_a_wire_that_is_up_carries_every_byte_both_ways_and_counts_it():
    payload = bytes(range(256)) * 4_096  # 1 MiB: many chunks, more than any one buffer on the way
    async with wired() as (proxy, cloud), await dial(proxy) as stream:
        back = bytearray()

        async def listen():
            async for data in stream:
                back.extend(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await stream.send_all(payload)
            await stream.send_eof()
        assert back == payload == cloud.heard
        assert (proxy.bytes_up, proxy.bytes_down, proxy.connections, proxy.resets) == (len(payload), len(payload), 1, 0)
        await until(lambda: cloud.endings)
        assert cloud.endings == ["end"]


async def test_a_listener_made_by_the_proxy_is_a_plain_trio_listener():
    async with wired() as (proxy, _):
        assert proxy._listener is not None
        async with await open_stream_to_socket_listener(proxy._listener) as stream:
            assert await exchange(stream, b"hello") == b"hello"


async def test_sever_resets_what_is_live_on_both_sides_and_refuses_what_is_new():
    async with wired() as (proxy, cloud), await dial(proxy) as stream:
        await exchange(stream, b"hello")
        proxy.sever()
        with pytest.raises(OSError, match="all attempts to connect") as refused:
            await dial(proxy)
        assert isinstance(refused.value.__cause__, ExceptionGroup)
        assert [type(attempt) for attempt in refused.value.__cause__.exceptions] == [ConnectionRefusedError]
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        await until(lambda: cloud.endings)
        assert cloud.endings == ["reset"]
        assert (proxy.mode, proxy.resets) == (Mode.REFUSE, 1)


async def test_heal_listens_again_on_the_same_port_however_often_it_was_severed():
    async with wired() as (proxy, _):
        port = proxy.port
        for _ in range(20):
            proxy.sever()
            await wait_all_tasks_blocked()
            proxy.sever()
            proxy.heal()
            proxy.heal()
            async with await dial(proxy) as stream:
                assert await exchange(stream, b"again") == b"again"
        assert proxy.port == port


async def test_a_severed_wire_healed_before_anyone_ran_still_accepts():
    async with wired() as (proxy, _), await dial(proxy) as stream:
        await exchange(stream, b"hello")
        proxy.sever()
        proxy.heal()
        async with await dial(proxy) as other:
            assert await exchange(other, b"back") == b"back"


async def test_a_severed_port_is_not_taken_by_another_program():
    async with wired() as (proxy, _):
        proxy.sever()
        with pytest.raises(OSError, match="in use"):
            await trio.open_tcp_listeners(proxy.port, host="127.0.0.1")


async def test_a_blackhole_takes_connections_and_bytes_and_never_answers_nor_tells_the_cloud():
    async with wired() as (proxy, cloud), await dial(proxy) as old:
        await exchange(old, b"before")
        proxy.blackhole()
        await old.send_all(b"lost")
        async with await dial(proxy) as new:
            await new.send_all(b"lost too")
            assert await is_silent(old)
            assert await is_silent(new)
        await until(lambda: proxy.bytes_swallowed == len(b"lostlost too"))
        assert (bytes(cloud.heard), cloud.taken, cloud.endings) == (b"before", 1, [])


async def test_the_end_of_a_blackholed_connection_reaches_nobody():
    async with wired() as (proxy, cloud):
        old = await dial(proxy)
        await exchange(old, b"before")
        proxy.blackhole()
        await old.send_eof()
        assert await is_silent(old)
        assert cloud.endings == []
        await old.aclose()


async def test_heal_resets_connections_that_lost_bytes_in_a_blackhole():
    async with wired() as (proxy, cloud), await dial(proxy) as stream:
        await exchange(stream, b"hello")
        proxy.blackhole()
        await stream.send_all(b"lost")
        proxy.heal()
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        async with await dial(proxy) as other:
            assert await exchange(other, b"fresh") == b"fresh"
        assert bytes(cloud.heard) == b"hellofresh"


async def test_a_blackhole_can_follow_a_cut():
    async with wired() as (proxy, _):
        proxy.sever()
        proxy.blackhole()
        async with await dial(proxy) as stream:
            assert await is_silent(stream)


async def test_on_a_one_way_wire_the_cloud_hears_and_is_not_heard_until_it_is_healed():
    async with wired() as (proxy, cloud), await dial(proxy) as stream:
        proxy.one_way()
        await stream.send_all(b"hello")
        assert await is_silent(stream)
        assert bytes(cloud.heard) == b"hello"
        assert proxy.bytes_swallowed == len(b"hello")
        proxy.heal()
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        async with await dial(proxy) as again:
            assert await exchange(again, b"world") == b"world"


async def test_a_torn_request_ends_in_a_reset_before_anything_of_it_has_arrived():
    async with wired() as (proxy, cloud), await dial(proxy) as stream:
        await exchange(stream, b"hello")
        proxy.tear_requests()
        await stream.send_all(b"world")
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        assert bytes(cloud.heard) == b"hello"


async def test_a_torn_answer_ends_in_a_reset_after_its_first_half():
    async with wired() as (proxy, cloud), await dial(proxy) as stream:
        proxy.tear_answers()
        await stream.send_all(b"helloworld")
        assert await stream.receive_some() == b"hello"
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        assert bytes(cloud.heard) == b"helloworld"


async def test_a_slow_wire_carries_late_and_no_faster_than_it_is_wide():
    async with wired() as (proxy, _), await dial(proxy) as stream:
        proxy.slow(delay_s=0.05, bytes_per_s=1_000)
        began = trio.current_time()
        assert await exchange(stream, bytes(100)) == bytes(100)
        assert trio.current_time() - began >= 2 * (0.05 + 0.1)
        proxy.heal()
        began = trio.current_time()
        assert await exchange(stream, bytes(100)) == bytes(100)
        assert trio.current_time() - began < 2 * (0.05 + 0.1)


async def test_a_wire_that_leads_elsewhere_resets_what_was_live():
    async with wired() as (proxy, cloud), wired() as (_, other), await dial(proxy) as stream:
        await exchange(stream, b"hello")
        proxy.turn_to(other.port)
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        async with await dial(proxy) as again:
            assert await exchange(again, b"world") == b"world"
        assert (bytes(cloud.heard), bytes(other.heard)) == (b"hello", b"world")


async def test_a_cloud_that_is_not_there_resets_the_device_and_the_proxy_lives_on():
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            cloud = Cloud()
            gone = await trio.open_tcp_listeners(0, host="127.0.0.1")
            proxy = Proxy("127.0.0.1", gone[0].socket.getsockname()[1])
            await gone[0].aclose()
            await nursery.start(proxy.serve)
            await meet_a_reset(proxy)
            await nursery.start(cloud.serve)
            proxy.target_port = cloud.port
            async with await dial(proxy) as stream:
                assert await exchange(stream, b"hello") == b"hello"
            nursery.cancel_scope.cancel()


async def test_a_device_that_dies_with_a_reset_is_a_reset_for_the_cloud_too():
    async with wired() as (proxy, cloud):
        stream = await dial(proxy)
        await exchange(stream, b"hello")
        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, module.RESET_ON_CLOSE)
        stream.socket.close()
        await until(lambda: cloud.endings)
        assert cloud.endings == ["reset"]
        await until(lambda: not proxy._live)


async def test_one_connection_too_many_is_reset_and_the_others_live(monkeypatch):
    monkeypatch.setattr(module, "CONNECTIONS_MAX", 1)
    async with wired() as (proxy, _), await dial(proxy) as first:
        await exchange(first, b"hello")
        await meet_a_reset(proxy)
        assert await exchange(first, b"still here") == b"still here"


async def test_cancelling_the_proxy_resets_everything_and_frees_its_port():
    async with wired() as (proxy, cloud), await dial(proxy) as stream:
        async with trio.open_nursery() as nursery:
            other = Proxy("127.0.0.1", cloud.port)
            await nursery.start(other.serve)
            through = await dial(other)
            await exchange(through, b"hello")
            nursery.cancel_scope.cancel()
        async with through:
            with pytest.raises(trio.BrokenResourceError):
                await through.receive_some()
        (await trio.open_tcp_listeners(other.port, host="127.0.0.1"))[0].socket.close()
        assert await exchange(stream, b"the other lives") == b"the other lives"


async def test_from_a_shell_lines_on_stdin_cut_and_heal_the_wire():
    async with wired() as (_, cloud), trio.open_nursery() as nursery:
        start = functools.partial(
            trio.run_process,
            [sys.executable, "-m", "chaos.proxy", "--target", f"127.0.0.1:{cloud.port}"],
            cwd=ROOT,
            stdin=-1,
            stdout=-1,
        )
        process = await nursery.start(start)
        said = _reader(process.stdout)
        port = int((await said()).removeprefix("listening on 127.0.0.1:"))
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            assert await exchange(stream, b"hello") == b"hello"
            await process.stdin.send_all(b"sever\n")
            assert await said() == "refuse connections=1 resets=1"
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
        await process.stdin.send_all(b"dance\nblackhole\nhe")
        assert (
            await said()
            == "unknown command 'dance'; one of: sever, blackhole, one_way, tear_requests, tear_answers, heal, quit"
        )
        assert await said() == "blackhole connections=1 resets=1"
        await process.stdin.send_all(b"al\n")
        assert await said() == "up connections=1 resets=1"
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            assert await exchange(stream, b"hello") == b"hello"
        await process.stdin.send_all(b"quit\n")
        assert await process.wait() == 0


def _reader(stdout: trio.abc.ReceiveStream) -> Callable[[], Awaitable[str]]:
    held = bytearray()

    async def line() -> str:
        while b"\n" not in held:
            data = await stdout.receive_some()
            assert data, "the process ended"
            held.extend(data)
        text, _, rest = bytes(held).partition(b"\n")
        held[:] = rest
        return text.decode()

    return line


@pytest.mark.parametrize("address", ["8001", "localhost", ":8001", "host:http", "host:70000"])
def test_an_address_that_is_none_is_refused_with_what_it_takes(address, capsys):
    with pytest.raises(SystemExit):
        main(["--target", address])
    assert "HOST:PORT" in capsys.readouterr().err
