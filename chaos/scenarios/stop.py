"""SIGTERM in every state: online, cut off, into silence, at start, while draining; once and twice."""

import signal
import time

import trio

from chaos.stage import Child, Failed, Stage

GRACE_S = 3.0
SLACK_S = 2.0
"""What a busy machine may add to a stop."""


async def play(stage: Stage) -> None:
    """Exit code 0 within the grace, whatever the network does; a second signal waits for no network at all."""
    heal, sever, blackhole = stage.proxy.heal, stage.proxy.sever, stage.proxy.blackhole
    async with stage.cloud():
        for weather, after_s in ((heal, 1.0), (sever, 1.0), (blackhole, 1.0), (blackhole, 0.0), (heal, 0.05)):
            weather()
            async with stage.device(shutdown_grace_seconds=GRACE_S, timeout_seconds=30) as device:
                await trio.sleep(after_s)
                await stop(stage, device, f"{weather.__name__}, after {after_s} s", GRACE_S + SLACK_S)
        blackhole()
        async with stage.device(shutdown_grace_seconds=60, timeout_seconds=60) as device:
            await trio.sleep(1.0)
            device.send(signal.SIGTERM)
            await trio.sleep(0.5)
            if device.closed:
                raise Failed("the first signal left the network no time")
            await stop(stage, device, "a second signal", SLACK_S)
        heal()
        async with stage.device(tasks=0) as device:
            await stage.finish(device)


async def stop(stage: Stage, device: Child, when: str, within_s: float) -> None:
    """One stop: its exit code, and how long it took."""
    began = time.monotonic()
    code = await device.end(signal.SIGTERM)
    took_s = time.monotonic() - began
    stage.tell(f"stopped ({when}): exit code {code} after {took_s:.2f} s")
    if code or took_s > within_s:
        raise Failed(f"stop ({when}): exit code {code} after {took_s:.2f} s, allowed are {within_s} s")
