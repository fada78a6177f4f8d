"""An outage of hours with a window of two seconds in it, and a link that flaps faster than it is probed."""

from itertools import pairwise
from pathlib import Path

import structlog
import trio

from tests.world import open_world, predictions

HOUR_S = 3_600.0
WINDOW_S = 2.0


async def test_a_window_of_two_seconds_that_a_probe_meets_takes_the_whole_backlog(
    folder: Path, autojump_clock: trio.abc.Clock
):
    async with open_world(folder) as world:
        world.wire.up = False
        async with world.device() as device:
            await device.log_many(predictions(2_000))
            await trio.sleep_until(2 * HOUR_S)
            pause_s = world.wire.attempts[-1] - world.wire.attempts[-2]
            assert pause_s <= 30.0
            await trio.sleep_until(world.wire.attempts[-1] + pause_s - WINDOW_S / 4)
            began = trio.current_time()
            world.wire.up = True
            await trio.sleep(WINDOW_S)
            world.wire.up = False
            assert sorted(world.wire.seqs) == list(range(1, 2_001))
            assert all(began <= post.at <= began + WINDOW_S for post in world.wire.posts)
            await trio.sleep(HOUR_S)
            assert device.status()["pending"] == 0


async def test_a_link_that_flaps_faster_than_the_probe_loses_and_doubles_nothing(
    folder: Path, autojump_clock: trio.abc.Clock
):
    with structlog.testing.capture_logs() as logs:
        async with open_world(folder) as world, world.device() as device:
            for flap in range(120):
                world.wire.up = flap % 2 == 0
                await device.log_many(predictions(8))
                await trio.sleep(3.0)
            world.wire.up = True
            await trio.sleep(60.0)
            assert device.status()["pending"] == 0
            assert sorted(world.wire.seqs) == list(range(1, 961)), "each of them once"
    changes = [entry for entry in logs if entry["event"] == "link_changed"]
    assert all(entry["reason"] and entry["held_s"] >= 0 for entry in changes)
    assert all(after["before"] == before["state"] for before, after in pairwise(changes))
    assert {entry["state"] for entry in changes} == {"up", "suspect", "down"}
