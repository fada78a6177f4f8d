"""The outage matrix in virtual time: hours online and offline by turns, with the device's default settings."""

import httpx
import pytest
import trio

from chaos.outages import MATRIX, Weather
from tests.world import World, open_world, prediction

LOG_EVERY_S = 10.0
MINUTES = 30.0
"""How long a row goes on, if that is more than one round of it."""
HOME_WITHIN_S = 60.0
"""After the link's return: at most 30 s until a probe sees it, then the backlog."""


class FarWire(httpx.AsyncBaseTransport):
    """The world's wire, as far away and as wide as a row says."""

    def __init__(self, near: httpx.AsyncBaseTransport, weather: Weather) -> None:
        self.near, self.weather = near, weather

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        carry_s = len(request.content) * 8 / self.weather.bits_per_s if self.weather.bits_per_s else 0.0
        await trio.sleep(self.weather.delay_s + carry_s)
        response = await self.near.handle_async_request(request)
        await trio.sleep(self.weather.delay_s)
        return response


async def log_for_ever(pipeline, accepted: list[int]) -> None:
    await trio.sleep(LOG_EVERY_S / 2)  # never in the moment of a stop, which leaves a receipt in doubt
    while True:
        receipt = await pipeline.log(prediction(len(accepted) + 1))
        assert receipt.durable
        accepted.append(receipt.seq)
        await trio.sleep(LOG_EVERY_S)


async def outage(world: World, weather: Weather, accepted: list[int]) -> None:
    """Offline, then online: the backlog is home in time, and stays home."""
    world.wire.up = False
    await trio.sleep(weather.offline_min * 60)
    assert set(accepted) > set(world.wire.seqs)
    world.wire.up = True
    missed = list(accepted)
    await trio.sleep(HOME_WITHIN_S)
    assert set(missed) <= set(world.wire.seqs), f"{weather.name}: {set(missed) - set(world.wire.seqs)}"
    await trio.sleep(weather.online_min * 60 - HOME_WITHIN_S)


@pytest.mark.parametrize("weather", MATRIX, ids=lambda weather: weather.name)
async def test_after_each_outage_the_backlog_comes_home_by_itself(weather, tmp_path, autojump_clock):
    async with open_world(tmp_path) as world:
        accepted: list[int] = []
        round_min = weather.online_min + weather.offline_min
        rounds = max(1, int(MINUTES // round_min))
        world.device_wire = FarWire(world.wire, weather)
        async with world.device() as pipeline, trio.open_nursery() as nursery:
            nursery.start_soon(log_for_ever, pipeline, accepted)
            for _ in range(rounds):
                await outage(world, weather, accepted)
            nursery.cancel_scope.cancel()
        stored = [item["seq"] for item in await world.stored()]
    assert stored == accepted
    assert len(accepted) == rounds * round_min * 60 / LOG_EVERY_S
