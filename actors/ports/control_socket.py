"""Where the control door of a buffer is: a unix socket beside it, under a name that the system takes."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

SOCKET_PATH_BYTES_MAX = 100
"""What the system takes as a socket's name is about this long; a longer one is reached by way of its folder."""


def control_path(db_path: Path) -> Path:
    """Where the door of the device that owns this buffer is."""
    return db_path.with_name(db_path.name + ".sock")


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A name for a socket that the system takes, however long its path is; it holds only inside the block."""
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
