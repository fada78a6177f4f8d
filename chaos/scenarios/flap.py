"""The link flaps: up and down faster than any probe."""

import trio

from chaos.stage import Stage


async def play(stage: Stage) -> None:
    """Cuts, silences and healings at random, a tenth of a second to two seconds apart."""
    async with stage.cloud(), stage.device() as device:
        acts = (stage.proxy.sever, stage.proxy.heal, stage.proxy.blackhole, stage.proxy.heal)
        for _ in range(stage.rounds(60, 8)):
            stage.rng.choice(acts)()
            await trio.sleep(stage.rng.uniform(0.1, 1.0 if stage.short else 2.0))
        stage.proxy.heal()
        stage.tell(f"the link stays up; {stage.proxy.resets} connections were torn")
        await stage.finish(device)
