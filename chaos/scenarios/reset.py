"""Connections are reset in the middle of an answer: stored, but never told."""

from chaos.stage import Failed, Stage


async def play(stage: Stage) -> None:
    """The device sends again what the cloud has already; the cloud knows the numbers."""
    async with stage.cloud(), stage.device() as device:
        await stage.pass_time(5, 1)
        stage.proxy.tear_answers()
        stage.tell("of each answer the device reads half")
        await stage.pass_time(30, 5)
        stage.proxy.heal()
        stage.tell("answers arrive whole again")
        await stage.finish(device)
    if not stage.figures["duplicates"]:
        raise Failed("nothing was sent twice: the fault was never met")
