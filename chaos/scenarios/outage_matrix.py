"""Minutes online and offline by turns, twenty times as fast as in the field."""

import math

import trio

from chaos.outages import MATRIX, Weather
from chaos.stage import CONVERGE_S_MAX, Child, Stage

FASTER = 20.0
SHORT_FASTER = 2_000.0
"""In the short form an outage is a blink."""
PER_SECOND = 20.0
CYCLES = 2
"""How often a row's link goes down and up."""


async def play(stage: Stage) -> None:
    """One device lives through all of it; after each outage the backlog drains by itself, with live ones among it."""
    faster = SHORT_FASTER if stage.short else FASTER
    async with stage.cloud(), stage.device(per_second=PER_SECOND) as device:
        for weather in MATRIX:
            accepted = len(device.lines)
            drains = [await outage(stage, device, weather, faster) for _ in range(CYCLES)]
            stage.tell(
                f"{weather.name:<16} {CYCLES} outages of {weather.offline_min * 60 / faster:.1f} s:"
                f" {len(device.lines) - accepted} accepted, backlog home within {max(drains):.1f} s"
            )
        stage.proxy.heal()
        await stage.finish(device)


async def outage(stage: Stage, device: Child, weather: Weather, faster: float) -> float:
    """Offline, then online as the row has it; how long the backlog needed."""
    stage.proxy.sever()
    await trio.sleep(weather.offline_min * 60 / faster)
    stage.proxy.heal()
    speed = weather.bits_per_s / 8 or math.inf
    stage.proxy.slow(delay_s=weather.delay_s, bytes_per_s=speed)
    took_s = await stage.come_home(device, CONVERGE_S_MAX)
    await trio.sleep(max(0.0, weather.online_min * 60 / faster - took_s))
    return took_s
