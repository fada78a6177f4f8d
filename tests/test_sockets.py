"""Outcomes over real sockets: what the kernel makes of a fault, what the client makes of that, and an audit in the end.

Time is real here, so nothing is said of how long anything takes: each wait is for what must come, and ends with it.
"""

import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NoReturn

import httpx
import pytest
import structlog
import trio

from actors.audit import compare
from actors.messages import LinkState
from actors.pipeline import Pipeline, Ports, open_pipeline
from actors.ports.account import read_account
from actors.ports.client import CloudClient, Unreachable
from actors.settings import Settings
from chaos.liar import answering
from chaos.proxy import Proxy
from tests.commands_world import Shell
from tests.world import DEVICE, prediction, predictions

PATIENCE_S = 100.0
"""What takes longer never comes; below the time at which the suite calls a test stuck."""
ROOT = Path(__file__).parents[1]


@contextmanager
def cloud(folder: Path) -> Iterator[int]:
    """The real service in a process of its own; its port."""
    command = [sys.executable, "-m", "cloud", "--bind", "127.0.0.1:0", "--database", str(folder / "cloud.db")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            yield int(server.stdout.readline().split("http://127.0.0.1:")[1].split()[0].rstrip("/"))
        finally:
            server.terminate()
            server.wait(timeout=PATIENCE_S)


@asynccontextmanager
async def behind_a_proxy(folder: Path, **settings: object) -> AsyncIterator[tuple[Pipeline, Proxy, int]]:
    """A device on real sockets, a wire that can be broken, and the cloud at its other end."""
    with cloud(folder) as port, trio.fail_after(PATIENCE_S):
        proxy = Proxy("127.0.0.1", port)
        async with trio.open_nursery() as wires:
            through = await wires.start(proxy.serve)
            known = {"batch_size": 4, "timeout_seconds": 1.0, "connectivity_timeout_seconds": 1.0} | settings
            fields = {"buffer_db_path": folder / "buffer.db", "edge_device_id": DEVICE, "sources": ("none",)} | known
            endpoint = f"http://127.0.0.1:{through}/log"
            async with open_pipeline(Settings(cloud_logging_endpoint=endpoint, **fields), Ports()) as device:  # type: ignore[arg-type]
                await device.cells.link.wait_value(lambda link: link.state is LinkState.UP)
                yield device, proxy, port
            wires.cancel_scope.cancel()


def drip(proxy: Proxy) -> None:
    """An answer takes longer than anybody waits, though a byte of it comes now and then."""
    proxy.slow(delay_s=0.0, bytes_per_s=40.0)


FAULTS: dict[str, tuple[Callable[[Proxy], None], str]] = {
    "refused, and reset under way": (Proxy.sever, ""),
    "reset before the cloud acted": (Proxy.tear_requests, "Error"),
    "black hole": (Proxy.blackhole, "no answer within 1 s"),
    "the answer is lost after the cloud acted": (Proxy.one_way, "no answer within 1 s"),
    "half an answer": (Proxy.tear_answers, "Error"),
    "slow drip": (drip, "no answer within 1 s"),
}


@pytest.mark.process
@pytest.mark.parametrize("name", FAULTS)
async def test_whatever_the_wire_does_nothing_is_lost_and_nothing_is_stored_twice(folder: Path, name: str):
    fault, error = FAULTS[name]
    async with behind_a_proxy(folder) as (device, proxy, port):
        await device.log_many(predictions(4))
        await device.cells.traffic.wait_value(lambda traffic: traffic.sent == 4)
        fault(proxy)
        await device.log_many(predictions(8))
        await device.cells.traffic.wait_value(lambda traffic: traffic.last_error != "")
        assert error in device.cells.traffic.value.last_error
        await device.cells.books.wait_value(lambda books: books.pending == 8)
        proxy.heal()
        await device.cells.books.wait_value(lambda books: books.pending == 0)
        answer = await trio.to_thread.run_sync(httpx.get, f"http://127.0.0.1:{port}/devices/{DEVICE}/audit")
    found = compare(read_account(folder / "buffer.db"), {DEVICE: answer.json()})
    assert found.good, found.sentence()
    assert (found.accepted, found.stored) == (12, 12)


async def test_a_tls_handshake_with_a_plain_server_and_then_nobody_at_its_port_have_a_reason():
    async with (
        answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as liar,
        CloudClient(f"https://127.0.0.1:{liar.port}/log", timeout_s=PATIENCE_S) as client,
    ):
        with pytest.raises(Unreachable, match="TLS") as caught:
            await client.post(b"{}")
        assert not caught.value.silent, "somebody is there"
    async with CloudClient(f"http://127.0.0.1:{liar.port}/log", timeout_s=PATIENCE_S) as client:
        with pytest.raises(Unreachable, match="ConnectError") as caught:
            await client.post(b"{}")
        assert not caught.value.silent


class NoSuchName(trio.abc.HostnameResolver):
    """A resolver that knows no name; so none is troubled."""

    async def getaddrinfo(self, *_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, *_: object) -> NoReturn:
        raise NotImplementedError


async def test_a_name_that_does_not_exist_has_a_reason():
    trio.socket.set_custom_hostname_resolver(NoSuchName())
    async with CloudClient("http://cloud.invalid/log", timeout_s=PATIENCE_S) as client:
        with pytest.raises(Unreachable, match="can't be resolved: Name or service not known") as caught:
            await client.post(b"{}")
    assert caught.value.silent


@pytest.mark.process
def test_audit_says_no_with_exit_code_1_where_a_server_answered_success_and_stored_nothing(tmp_path: Path):
    """The device believed it and sleeps well; the real cloud has never heard of two of its predictions."""

    async def deliver_twice(port: int) -> None:
        async def send(to: int, count: int, sent: int) -> None:
            settings = Settings(
                cloud_logging_endpoint=f"http://127.0.0.1:{to}/log",
                buffer_db_path=tmp_path / "buffer.db",
                edge_device_id=DEVICE,
                sources=("none",),
                batch_size=count,
            )
            async with open_pipeline(settings, Ports()) as device:
                await device.log_many([prediction(number) for number in range(count)])
                await device.cells.traffic.wait_value(lambda traffic: traffic.sent == sent)

        with trio.fail_after(PATIENCE_S), structlog.testing.capture_logs():
            await send(port, 3, 3)
            text = b'{"accepted":2}'
            lie = b"HTTP/1.1 200 OK\r\nholdfast-wire: 1\r\ncontent-type: application/json\r\n"
            async with answering(
                lie + b"content-length: %d\r\nconnection: close\r\n\r\n%s" % (len(text), text)
            ) as liar:
                await send(liar.port, 2, 2)

    with cloud(tmp_path) as port:
        trio.run(deliver_twice, port)
        shell = Shell(tmp_path, {"CLOUD_LOGGING_ENDPOINT": f"http://127.0.0.1:{port}/log"})
        done = shell.run("audit")
        assert done.exit_code == 1, done.output
        assert "missing are 4-5" in done.stdout
    done = shell.run("audit")
    assert done.exit_code == 2, "and nobody to ask is not the same as nothing missing"
    assert "nothing could be compared" in done.stderr
