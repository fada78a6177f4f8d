"""Small file systems below the device's folder, in a mount namespace that ends with the scenario."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from chaos.stage import Stage, run


@asynccontextmanager
async def mounted(stage: Stage, *what: str) -> AsyncIterator[None]:
    """Mount on the device's folder; `what` are the arguments of `mount` before the folder."""
    folder = str(stage.buffer.parent)
    await run("mount", *what, folder)
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            await run("umount", "--lazy", folder)


async def remount(stage: Stage, how: str) -> None:
    """`ro` or `rw`. The kernel refuses `ro` while a file is open for writing."""
    await run("mount", "-o", f"remount,{how}", str(stage.buffer.parent))
