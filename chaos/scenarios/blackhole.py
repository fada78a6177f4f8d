"""The cloud can be connected to, and is silent."""

from chaos.stage import Stage


async def play(stage: Stage) -> None:
    """As behind a firewall that forgot its state: no error, no answer."""
    async with stage.cloud(), stage.device() as device:
        await stage.pass_time(5, 1)
        stage.proxy.blackhole()
        stage.tell("connections open, and nothing ever comes back")
        await stage.pass_time(60, 5)
        stage.proxy.heal()
        stage.tell(f"healed; {stage.proxy.bytes_swallowed} bytes were swallowed")
        await stage.finish(device)
