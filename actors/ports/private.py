"""Files and folders that only this user may read, made so that a power cut does not take their names."""

import os
from pathlib import Path
from typing import BinaryIO, Literal


def make_folder(folder: Path) -> None:
    """A private folder, with those above it where they are missing; each name made is synced, so that it stays."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Fsync a folder, so that the names made or removed in it survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_private(path: Path, mode: Literal["ab", "wb"]) -> BinaryIO:
    """A file to write; if it is made by that, nobody else may read it from its first moment on."""
    return open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600))


def write_private(path: Path, data: bytes, mode: Literal["ab", "wb"] = "wb") -> None:
    """Write (or append) and sync; the name is certain once its folder was synced too."""
    with open_private(path, mode) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
