"""Hours of flapping, kills of the cloud and bursts: memory, handles, threads and disk stay flat."""

import contextlib
import os
import statistics
import time

import attrs
import trio

from chaos.stage import Child, Failed, Stage

LOOK_EVERY_S = 1.0
GROWTH_MAX = {"memory_mib": 24.0, "handles": 4.0, "threads": 2.0, "disk_mib": 16.0}
"""The last third of the time against the second one, in medians; the first one is for warming up."""
BUFFER_MB = 48
FULL_S = 120.0
SHORT_S = 15.0


@attrs.frozen
class Sample:
    """What a process holds."""

    memory_mib: float
    handles: float
    threads: float
    disk_mib: float


async def play(stage: Stage) -> None:
    """The device logs all the time, the wire does what wires do, and somebody looks every second."""
    seconds = SHORT_S if stage.short else stage.hours * 3_600 or FULL_S
    samples: list[Sample] = []
    async with stage.cloud(), stage.device(per_second=100, buffer_max_size_mb=BUFFER_MB) as device:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            stage.rng.choice((stage.proxy.sever, stage.proxy.blackhole, stage.proxy.heal, stage.proxy.heal))()
            for _ in range(stage.rng.randrange(2, 6)):
                await trio.sleep(LOOK_EVERY_S)
                samples.append(look(stage, device))
        stage.proxy.heal()
        await stage.finish(device)
    judge(stage, samples)


def look(stage: Stage, device: Child) -> Sample:
    """One sample, out of /proc and the folder."""
    pid = device.process.pid
    with open(f"/proc/{pid}/status", encoding="ascii") as file:  # noqa: PTH123
        status = dict(line.split(":", 1) for line in file)
    handles = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - only how many
    disk = 0
    for path in stage.buffer.parent.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a segment that has just retired
            disk += path.stat().st_size
    return Sample(int(status["VmRSS"].split()[0]) / 1024, handles, int(status["Threads"]), disk / 2**20)


def judge(stage: Stage, samples: list[Sample]) -> None:
    """`Failed` if anything has grown."""
    third = len(samples) // 3
    for name, growth_max in GROWTH_MAX.items():
        before = statistics.median(getattr(sample, name) for sample in samples[third : 2 * third])
        after = statistics.median(getattr(sample, name) for sample in samples[2 * third :])
        stage.tell(f"{name.replace('_', ' ')}: {before:.1f}, then {after:.1f}")
        if after - before > growth_max:
            raise Failed(f"{name} has grown from {before:.1f} to {after:.1f} (at most {growth_max} more)")
