"""Bits flip in segments and in the database between one life and the next."""

import signal
from pathlib import Path

import trio

from chaos.stage import Stage

BITS = 3
"""Flipped in one file before each start."""
REASON = "bad_sector"


async def play(stage: Stage) -> None:
    """It always starts, keeps what is good, and names what it lost."""
    async with stage.cloud():
        stage.proxy.sever()
        for _ in range(stage.rounds(30, 5)):
            async with stage.device(per_second=200) as device:
                await trio.sleep(stage.rng.uniform(0.3, 1.0))
                await device.end(signal.SIGKILL)
            files = sorted(path for path in stage.buffer.parent.rglob("*.jsonl") if "quarantine" not in str(path))
            for path in stage.rng.sample([*files, stage.buffer], 1):
                flip(stage, path)
        stage.proxy.heal()
        async with stage.device(tasks=0) as device:
            await stage.finish(device, lost_allowed=(REASON,))
        stage.tell(
            f"{stage.figures['explained']} of {stage.figures['receipts']} were lost to bad bits, each with its reason"
        )


def flip(stage: Stage, path: Path) -> None:
    """Turn some bits over."""
    content = bytearray(path.read_bytes())
    for _ in range(BITS):
        content[stage.rng.randrange(len(content))] ^= 1 << stage.rng.randrange(8)
    path.write_bytes(content)
    stage.tell(f"{BITS} bits flipped in {path.name} ({len(content)} bytes)")
