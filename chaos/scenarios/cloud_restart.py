"""The cloud is killed and stopped again and again under load."""

import signal

from chaos.stage import Stage


async def play(stage: Stage) -> None:
    """What it said yes to is there after the restart; what it did not answer is sent again."""
    async with stage.cloud():
        pass  # its port is known now
    async with stage.device(per_second=200) as device:
        for round_ in range(stage.rounds(20, 4)):
            async with stage.cloud() as cloud:
                await stage.pass_time(3, 1.5)
                how = signal.SIGTERM if round_ % 2 else signal.SIGKILL
                await cloud.end(how)
                stage.tell(f"the cloud was ended with {how.name}")
        async with stage.cloud():
            await stage.finish(device)
