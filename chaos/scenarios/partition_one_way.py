"""Requests arrive, answers do not: the maker of duplicates."""

from chaos.stage import Failed, Stage


async def play(stage: Stage) -> None:
    """The cloud stores each batch, and the device can't know; in the end each prediction is stored once."""
    async with stage.cloud(), stage.device() as device:
        await stage.pass_time(5, 1)
        stage.proxy.one_way()
        stage.tell("the cloud hears the device; the device does not hear the cloud")
        await stage.pass_time(60, 6)
        stage.proxy.heal()
        stage.tell(f"healed; {stage.proxy.bytes_swallowed} bytes of answers were swallowed")
        await stage.finish(device)
    if not stage.figures["duplicates"]:
        raise Failed("nothing was sent twice: the fault was never met")
