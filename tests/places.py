"""Where tests put their files, and who else is there."""

import fcntl
import os
from pathlib import Path

MEMORY_DISK = "/dev/shm" if Path("/dev/shm").is_dir() and os.access("/dev/shm", os.W_OK) else None
"""A file system in memory, for tests that sync a thousand times; None means the usual temporary folder."""

ROOT = Path(__file__).parents[1]
"""The checkout."""


def locked_by_somebody(db_path: Path) -> int:
    """A buffer's lock as another process holds it; the buffer is closed to the device until this is closed."""
    held = os.open(db_path.with_name(f"{db_path.name}.lock"), os.O_CREAT | os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    os.pwrite(held, b"%d" % os.getpid(), 0)
    return held
