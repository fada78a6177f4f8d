"""A satellite's link that loses packets: 2 of 100 each way, 600 ms, 64 kbit a second."""

import re

import trio

from chaos.scenarios.slow import BYTES_PER_S, DELAY_S
from chaos.stage import Stage, run

NEEDS = ("packet filter",)
INSIDE = ("net",)
RULE = "tcp %s %d numgen random mod 100 < 2 counter name lost drop;"
TABLE = "table inet chaos { counter lost {} ; chain in { type filter hook input priority 0; %s %s }; }"

LOST_MIN = 3
"""Before that the fault has hardly been met."""


async def play(stage: Stage) -> None:
    """The backlog of an outage drains over it, with live predictions among it; TCP sends again what was lost."""
    async with stage.cloud(), stage.device(per_second=5, timeout_seconds=20, connectivity_timeout_seconds=5) as device:
        stage.proxy.sever()
        await stage.pass_time(30, 3)
        stage.proxy.heal()
        stage.proxy.slow(delay_s=DELAY_S, bytes_per_s=BYTES_PER_S)
        both_ways = (RULE % ("dport", stage.proxy.port), RULE % ("sport", stage.proxy.port))
        await run("nft", TABLE % both_ways)
        stage.tell(f"the link is back, {DELAY_S * 1000:.0f} ms away, and loses 2 packets of 100 each way")
        await stage.pass_time(60, 12)
        while (lost := await packets_lost()) < LOST_MIN:  # noqa: ASYNC110 - the kernel counts
            await trio.sleep(1)
        stage.tell(f"{lost} packets were lost so far")
        await stage.finish(device)


async def packets_lost() -> int:
    """As nftables has counted them."""
    found = re.search(r"packets (\d+)", await run("nft", "list", "counter", "inet", "chaos", "lost"))
    assert found
    return int(found[1])
