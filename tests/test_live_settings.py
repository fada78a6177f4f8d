"""What SIGHUP changes reaches the actors of a running device, and nothing accepted is touched by it."""

from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import httpx
import pytest
import trio

from tests.world import World, open_world, predictions


@pytest.fixture
async def world(folder: Path, autojump_clock: trio.abc.Clock) -> AsyncIterator[World]:
    async with open_world(folder) as opened:
        yield opened


@attrs.define(eq=False)
class Listening(httpx.AsyncBaseTransport):
    """Notes under which key each POST came."""

    inner: httpx.AsyncBaseTransport
    keys: list[str] = attrs.Factory(list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            self.keys.append(request.headers.get("authorization", ""))
        return await self.inner.handle_async_request(request)


async def test_batching_changes_with_the_next_batch(world, autojump_clock):
    async with world.device() as device:
        await device.log_many(predictions(5))
        await trio.sleep(10)
        device.apply(attrs.evolve(device.settings, batch_size=2, batch_timeout_seconds=1.0))
        await device.log_many(predictions(5))
        await trio.sleep(2)
        assert [(post.at, len(post.seqs)) for post in world.wire.posts] == [(10.0, 5), (10.0, 2), (10.0, 2), (11.0, 1)]
    assert len(await world.stored()) == 10


async def test_the_pace_of_a_drain_changes_while_it_runs(world, autojump_clock):
    world.wire.up = False
    async with world.device(recovery_max_per_second=1.0) as device:
        await device.log_many(predictions(300))
        await trio.sleep(100)
        world.wire.up = True
        await trio.sleep(80)
        slow = len(world.wire.seqs)
        assert slow < 200
        device.apply(attrs.evolve(device.settings, recovery_max_per_second=None))
        await trio.sleep(70)
        assert len(await world.stored()) == 300


async def test_a_new_key_is_used_from_the_next_post_on(world, autojump_clock, folder):
    world.wire.inner = heard = Listening(world.wire.inner)
    async with world.device(batch_size=1) as device:
        await device.log_many(predictions(1))
        await trio.sleep(1)
        device.apply(attrs.evolve(device.settings, cloud_logging_api_key="first"))
        await device.log_many(predictions(1))
        await trio.sleep(1)
        (folder / "key").write_text("second\n")
        device.apply(
            attrs.evolve(device.settings, cloud_logging_api_key=None, cloud_logging_api_key_file=folder / "key")
        )
        await device.log_many(predictions(1))
        await trio.sleep(1)
    assert heard.keys == ["", "Bearer first", "Bearer second"]
