"""Packets to the cloud are dropped, in a network of the suite's own."""

from chaos.stage import Stage, run

NEEDS = ("packet filter",)
INSIDE = ("net",)
TABLE = "table inet chaos { chain in { type filter hook input priority 0; tcp dport %d drop; }; }"


async def play(stage: Stage) -> None:
    """Online, then an outage that no end of the connection is told of, then online again."""
    async with stage.cloud(), stage.device() as device:
        await stage.pass_time(10, 2)
        await run("nft", TABLE % stage.cloud_port)
        stage.tell("every packet to the cloud is dropped; the device works on")
        await stage.pass_time(60, 5)
        await run("nft", "delete table inet chaos")
        stage.tell("packets pass again")
        await stage.finish(device)
