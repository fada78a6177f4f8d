"""The disk turns read-only under load, as ext4 does when it has seen an error; later it is repaired and comes back."""

import signal
from pathlib import Path

from chaos.disks import mounted, remount
from chaos.stage import Stage, run

NEEDS = ("loop disk",)
INSIDE = ("mount",)
SIZE_MB = 32
BUFFER_MB = 24


async def play(stage: Stage) -> None:
    """Every write fails from one moment on. The device works on from memory, and says that it is not durable."""
    image = stage.folder / "disk.img"
    await run("truncate", "-s", f"{SIZE_MB}M", str(image))
    await run("mkfs.ext4", "-q", str(image))
    async with stage.cloud():
        disk = mounted(stage, "-o", "loop,errors=remount-ro", str(image))
        async with disk, stage.device(buffer_max_size_mb=BUFFER_MB) as device:
            await stage.pass_time(5, 1)
            fail(stage)
            stage.tell("the file system has seen an error: it is read-only now")
            await stage.pass_time(20, 4)
            await device.end(signal.SIGKILL)
        await run("e2fsck", "-fy", str(image), codes=(0, 1))
        stage.tell("the device was killed, and the disk repaired")
        async with mounted(stage, "-o", "loop", str(image)):
            await remount(stage, "ro")
            async with stage.device(buffer_max_size_mb=BUFFER_MB) as device:
                stage.tell("the device was started on a read-only disk")
                await stage.pass_time(10, 3)
                await remount(stage, "rw")
                stage.tell("the disk can be written again, while the device runs")
                await stage.pass_time(10, 4)
                await stage.finish(device)


def fail(stage: Stage) -> None:
    """Tell ext4 of an error on the disk below the device's folder, as the kernel would tell itself."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    disk = next(line[0] for line in mounts if line[1] == str(stage.buffer.parent))
    trigger = Path("/sys/fs/ext4") / Path(disk).name / "trigger_fs_error"
    trigger.write_text("1")
