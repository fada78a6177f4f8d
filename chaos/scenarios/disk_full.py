"""The disk fills up to the last byte under load, and is freed again."""

from chaos.disks import mounted
from chaos.stage import Stage

NEEDS = ("own mounts",)
INSIDE = ("mount",)
DISK = ("-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs")
CHUNK = bytes(64 * 1024)


async def play(stage: Stage) -> None:
    """A real file system of 24 MiB; somebody else's file takes all that is left of it, three times."""
    async with stage.cloud(), mounted(stage, *DISK), stage.device(per_second=200, buffer_max_size_mb=20) as device:
        hog = stage.buffer.parent / "hog"
        for _ in range(stage.rounds(10, 2)):
            await stage.pass_time(3, 1)
            size = fill(str(hog))
            stage.tell(f"somebody's file of {size // 1024} KiB has filled the disk")
            await stage.pass_time(10, 3)
            hog.unlink()
            stage.tell("there is room again")
        await stage.pass_time(5, 2)
        await stage.finish(device)


def fill(path: str) -> int:
    """Write until nothing more fits; how much did."""
    written = 0
    with open(path, "wb", buffering=0) as file:  # noqa: PTH123 - unbuffered, so that the last bytes count too
        for chunk in (CHUNK, CHUNK[:512]):
            try:
                while True:
                    written += file.write(chunk)
            except OSError:
                continue
    return written
