"""kill -9, again and again, with the link up, down and silent."""

import signal

import trio

from chaos.stage import Stage


async def play(stage: Stage) -> None:
    """Each life is killed at a random moment; the last one must bring everything home."""
    weathers = (stage.proxy.heal, stage.proxy.sever, stage.proxy.blackhole)
    async with stage.cloud():
        for round_ in range(stage.rounds(100, 9)):
            weathers[round_ % len(weathers)]()
            async with stage.device(per_second=500) as device:
                await trio.sleep(stage.rng.uniform(0.02, 0.6))
                await device.end(signal.SIGKILL)
        stage.proxy.heal()
        stage.tell(f"{stage.lives} lives were killed, {len(stage.books)} receipts given; the last life drains")
        async with stage.device(tasks=0) as device:
            await stage.finish(device)
