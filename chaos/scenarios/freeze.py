"""SIGSTOP: the device freezes, then the cloud, then both wake up."""

import signal

from chaos.stage import Stage


async def play(stage: Stage) -> None:
    """A suspended laptop, a paused virtual machine: time jumps, connections have died meanwhile."""
    async with stage.cloud() as cloud, stage.device() as device:
        await stage.pass_time(5, 1)
        for child in (device, cloud):
            child.send(signal.SIGSTOP)
            stage.tell(f"{child.name} is frozen")
            await stage.pass_time(60, 4)
            child.send(signal.SIGCONT)
            stage.tell(f"{child.name} wakes up")
            await stage.pass_time(5, 1)
        await stage.finish(device)
