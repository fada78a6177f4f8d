"""Replicas on one PostgreSQL: whatever dies in mid-load, nothing is lost or doubled; the answer meanwhile is 503."""

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import attrs
import httpx
import pytest
import trio

from tests.cloud.world import envelope, payload

pytestmark = pytest.mark.process

DEVICES = 6
BATCHES = 40
BATCH = 25
PATIENCE_S = 120.0


@contextmanager
def replica(database: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A service on that database: its process, and where it listens."""
    command = [sys.executable, "-m", "cloud", "--bind", "127.0.0.1:0"]
    env = os.environ | {"CLOUD_DATABASE_URL": database}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
            assert found
            yield process, found[0]
        finally:
            process.kill()


@attrs.define
class Load:
    """Devices that send numbered batches, each to one replica after the other until one has confirmed it."""

    urls: list[str]
    answers: Counter[int | str] = attrs.field(factory=Counter)
    confirmed: int = 0
    told: trio.Event = attrs.field(factory=trio.Event)

    async def run(self) -> None:
        async with httpx.AsyncClient(timeout=10) as client, trio.open_nursery() as nursery:
            for n in range(DEVICES):
                nursery.start_soon(self._device, client, n)

    async def _device(self, client: httpx.AsyncClient, n: int) -> None:
        for start in range(1, BATCHES * BATCH, BATCH):
            body = envelope(*(payload(seq) for seq in range(start, start + BATCH)), device=f"cam{n}")
            attempt = n
            while not await self._send(client, self.urls[attempt % len(self.urls)], body):
                attempt += 1
                await trio.sleep(0.05)
            self.confirmed += 1

    async def _send(self, client: httpx.AsyncClient, url: str, body: bytes) -> bool:
        try:
            answer = await client.post(f"{url}/log", content=body)
            heard: int | str = answer.status_code
        except httpx.TransportError:
            heard = "none"
        self.answers[heard] += 1
        self.told.set()
        self.told = trio.Event()
        return heard == 200

    async def reach(self, share: float) -> None:
        """Wait until that share of all batches is confirmed."""
        while self.confirmed < share * DEVICES * BATCHES:
            await self.told.wait()


async def test_one_replica_killed_and_the_server_restarted_in_mid_load_lose_and_double_nothing(server, database):
    with ExitStack() as stack:
        start = partial(stack.enter_context, replica(database))
        (first, first_url), (_, second_url) = (
            await trio.to_thread.run_sync(start),
            await trio.to_thread.run_sync(partial(stack.enter_context, replica(database))),
        )
        load = Load([first_url, second_url])
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(load.run)
                await load.reach(0.2)
                first.send_signal(signal.SIGKILL)
                await load.reach(0.4)
                await trio.to_thread.run_sync(server.stop)
                before = load.answers[503]
                while load.answers[503] == before:
                    await load.told.wait()
                await trio.to_thread.run_sync(server.start)
        print(dict(load.answers))
        async with httpx.AsyncClient(base_url=second_url, timeout=30) as client:
            stats: Any = (await client.get("/stats")).json()
            assert stats["total_predictions"] == DEVICES * BATCHES * BATCH
            for n in range(DEVICES):
                audit = (await client.get(f"/devices/cam{n}/audit")).json()
                assert (audit["stored"], audit["missing"], audit["conflicts"]) == (BATCHES * BATCH, 0, 0)
                page = (await client.get("/predictions", params={"edge_device_id": f"cam{n}", "limit": 1000})).json()
                assert sorted(item["seq"] for item in page["predictions"]) == list(range(1, BATCHES * BATCH + 1))
    assert load.answers.keys() <= {200, 503, "none"}
    assert load.answers["none"], "the killed replica was asked in mid-load"
