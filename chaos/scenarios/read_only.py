"""The disk turns read-only under load, as ext4 does when it has seen an error; later it is repaired and comes back."""

import signal
from pathlib import Path

import trio

from chaos.disks import mounted, remount
from chaos.logger import NOT_DURABLE
from chaos.stage import LOOK_EVERY_S, Child, Failed, Stage, run

NEEDS = ("loop disk",)
INSIDE = ("mount",)
SIZE_MB = 32
BUFFER_MB = 24
TELL_S_MAX = 30.0
"""How long the device may take to say what is wrong: a look at the disk a second, an alert a second."""


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
            await tells(device)
            await stage.pass_time(20, 4)
            await device.end(signal.SIGKILL)
        await run("e2fsck", "-fy", str(image), codes=(0, 1))
        stage.tell("the device was killed, and the disk repaired")
        async with mounted(stage, "-o", "loop", str(image)):
            await remount(stage, "ro")
            async with stage.device(buffer_max_size_mb=BUFFER_MB) as device:
                stage.tell("the device was started on a read-only disk")
                await tells(device)
                await stage.pass_time(10, 3)
                await remount(stage, "rw")
                stage.tell("the disk can be written again, while the device runs")
                await logs(device, "alert_over", "not_durable")
                await device.says(lambda line: line.count(" ") == 2, TELL_S_MAX)
                stage.tell("receipts are durable again, and the alert is over")
                await stage.pass_time(10, 4)
                await stage.finish(device)


async def tells(device: Child) -> None:
    """Receipts and alerts say that nothing is durable; `Failed` if they do not in time."""
    await device.says(lambda line: line.startswith(NOT_DURABLE), TELL_S_MAX)
    for alert in ("disk_trouble", "not_durable"):
        await logs(device, "alert", alert)


async def logs(device: Child, event: str, name: str) -> None:
    """Wait for a line of its log that tells of this alert."""
    with trio.move_on_after(TELL_S_MAX):
        while True:
            life = device.log.read_bytes()[device.log_from :].decode(errors="replace")
            if any(f"{event} " in line and f"name={name}" in line for line in life.splitlines()):
                return
            await trio.sleep(LOOK_EVERY_S)
    raise Failed(f"the device's log has no {event!r} of {name} within {TELL_S_MAX:.0f} s")


def fail(stage: Stage) -> None:
    """Tell ext4 of an error on the disk below the device's folder, as the kernel would tell itself."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    disk = next(line[0] for line in mounts if line[1] == str(stage.buffer.parent))
    trigger = Path("/sys/fs/ext4") / Path(disk).name / "trigger_fs_error"
    trigger.write_text("1")
