"""`kill -9` at random moments, on real processes, real sockets and real files: what was acknowledged arrives."""

import random
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import httpx
import pytest
import trio

from chaos.proxy import Proxy
from tests.chaos.logger_process import DEVICE

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
SEED = 4711
ROUNDS = 20
TASKS = 4
START_S_MAX = 30.0
DRAIN_S_MAX = 60.0


@attrs.define
class Process:
    """A child, and the lines that it has printed so far."""

    trio_process: trio.Process
    lines: list[str] = attrs.Factory(list)
    spoke: trio.Event = attrs.Factory(trio.Event)
    finished: trio.Event = attrs.Factory(trio.Event)

    async def listen(self) -> None:
        held = b""
        assert self.trio_process.stdout is not None
        async for data in self.trio_process.stdout:
            *whole, held = (held + data).split(b"\n")
            self.lines += [line.decode() for line in whole]
            if self.lines:
                self.spoke.set()
        self.finished.set()
        self.spoke.set()

    async def end(self, number: signal.Signals) -> int:
        self.trio_process.send_signal(number)
        code = await self.trio_process.wait()
        await self.finished.wait()
        return code


@asynccontextmanager
async def started(*command: str) -> AsyncIterator[Process]:
    """A child that has printed its first line; whatever becomes of the test, it does not outlive it."""
    open_process = partial(trio.lowlevel.open_process, stdout=subprocess.PIPE, cwd=ROOT)
    process = Process(await open_process([sys.executable, *command]))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.listen)
            with trio.fail_after(START_S_MAX):
                await process.spoke.wait()
            yield process
            nursery.cancel_scope.cancel()
    finally:
        process.trio_process.kill()
        with trio.CancelScope(shield=True):
            await process.trio_process.wait()


@attrs.define
class World:
    """A cloud process, and the wire to it; devices come and go."""

    folder: Path
    proxy: Proxy
    url: str
    printed: dict[tuple[str, int], str] = attrs.Factory(dict)

    @property
    def buffer(self) -> Path:
        return self.folder / "device" / "buffer.db"

    @asynccontextmanager
    async def device(self, name: str, *more: str) -> AsyncIterator[Process]:
        endpoint = f"http://127.0.0.1:{self.proxy.port}/log"
        command = ("-m", "tests.chaos.logger_process", endpoint, str(self.buffer), name, *more)
        async with started(*command) as process:
            yield process

    def keep(self, process: Process) -> int:
        """Take what a device printed into the books."""
        for line in process.lines:
            stream, seq, image = line.split()
            given = (stream, int(seq))
            assert given not in self.printed, f"{given} was given out twice"
            self.printed[given] = image
        return len(process.lines)


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    async with cloud(folder) as url, trio.open_nursery() as nursery:
        proxy = Proxy("127.0.0.1", int(url.rpartition(":")[2]))
        await nursery.start(proxy.serve)
        yield World(folder, proxy, url)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def cloud(folder: Path) -> AsyncIterator[str]:
    async with started("-m", "cloud", "--bind", "127.0.0.1:0", "--database", str(folder / "cloud.db")) as process:
        found = re.search(r"http://127\.0\.0\.1:\d+", process.lines[0])
        assert found
        yield found[0]


async def flap(proxy: Proxy, rng: random.Random) -> None:
    while True:
        for act in (proxy.sever, proxy.heal, proxy.blackhole, proxy.heal):
            act()
            await trio.sleep(rng.uniform(0.02, 0.15))


async def drain(one: World) -> None:
    """A last start on a good link must bring everything home, and stop cleanly."""
    one.proxy.heal()
    with trio.fail_after(START_S_MAX + DRAIN_S_MAX):
        async with one.device("last") as device:
            assert device.lines == ["drained"]
            assert await device.end(signal.SIGTERM) == 0


async def check(one: World) -> None:
    """Every printed number is in the cloud exactly once, with its own image, and the audit has nothing open."""
    stored: dict[tuple[str, int], list[str]] = {}
    async with httpx.AsyncClient(base_url=one.url) as client:
        params: dict[str, str] = {"limit": "1000"}
        while True:
            page = (await client.get("/predictions", params=params)).raise_for_status().json()
            for item in page["predictions"]:
                stored.setdefault((item["stream_id"], item["seq"]), []).append(item["image_id"])
            if not page.get("next_cursor"):
                break
            params["cursor"] = page["next_cursor"]
        audit = (await client.get(f"/devices/{DEVICE}/audit")).json()
    wrong = {given: stored.get(given) for given, image in one.printed.items() if stored.get(given) != [image]}
    assert not wrong, f"{len(wrong)} of {len(one.printed)}: {dict(list(wrong.items())[:5])}"
    images = [image for found in stored.values() for image in found]
    assert len(images) == len(set(images))
    assert [(stream["unexplained"], stream["conflicts"]) for stream in audit["streams"]] == [(0, 0)]
    assert sorted(seq for _, seq in stored) == list(range(1, len(stored) + 1))


async def test_every_number_that_was_acknowledged_before_a_kill_is_in_the_cloud_once(tmp_path):
    rng = random.Random(SEED)
    counts = []
    async with world(tmp_path) as one:
        weathers: list[Callable[[], None]] = [one.proxy.heal, one.proxy.sever, one.proxy.blackhole, one.proxy.heal]
        for round_ in range(ROUNDS):
            kind = round_ % len(weathers)
            weathers[kind]()
            async with trio.open_nursery() as nursery:
                if kind == len(weathers) - 1:
                    nursery.start_soon(flap, one.proxy, random.Random(rng.random()))
                async with one.device(f"round{round_}", "--tasks", str(TASKS)) as device:
                    await trio.sleep(rng.uniform(0.05, 0.6))
                    assert await device.end(signal.SIGKILL) == -signal.SIGKILL
                counts.append(one.keep(device))
                nursery.cancel_scope.cancel()
        assert min(counts) > 0
        await drain(one)
        await check(one)


async def test_the_check_finds_what_a_journal_that_does_not_write_has_lost(tmp_path):
    async with world(tmp_path) as one:
        one.proxy.sever()
        async with one.device("sabotaged", "--tasks", "1", "--sabotage") as device:
            await trio.sleep(0.1)
            await device.end(signal.SIGKILL)
        assert one.keep(device) > 0
        await drain(one)
        with pytest.raises(AssertionError, match=r"[0-9]+ of [0-9]+: "):
            await check(one)


def pending(one: World) -> set[int]:
    with sqlite3.connect(one.buffer) as connection:
        rows = connection.execute("SELECT id FROM prediction_buffer WHERE status = 'pending'").fetchall()
    connection.close()
    return {seq for (seq,) in rows}


async def test_a_stop_into_a_black_hole_keeps_its_word_and_everything_accepted(tmp_path):
    grace_s = 5.0
    async with world(tmp_path) as one:
        one.proxy.blackhole()
        async with one.device("stopped", "--tasks", "1", "--grace-s", str(grace_s)) as device:
            await trio.sleep(0.5)
            began = trio.current_time()
            assert await device.end(signal.SIGTERM) == 0
            assert trio.current_time() - began < grace_s + 1.0
        assert one.keep(device) > 0
        assert {seq for _, seq in one.printed} <= pending(one)
        await drain(one)
        await check(one)


async def test_a_second_signal_does_not_wait_for_the_network(tmp_path):
    async with world(tmp_path) as one:
        one.proxy.blackhole()
        async with one.device("stopped", "--tasks", "1", "--grace-s", "60") as device:
            await trio.sleep(0.5)
            device.trio_process.send_signal(signal.SIGTERM)
            with trio.move_on_after(0.5):
                await device.finished.wait()
            assert not device.finished.is_set(), "the first signal leaves the network its time"
            began = trio.current_time()
            assert await device.end(signal.SIGTERM) == 0
            assert trio.current_time() - began < 1.5
        assert one.keep(device) > 0
        assert {seq for _, seq in one.printed} <= pending(one)
