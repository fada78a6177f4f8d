"""The folder of a file that may name people's factories: what is made of its path is for the service's user alone."""

from pathlib import Path


def make_private(folder: Path) -> None:
    """Make a folder with those above it where they are missing, readable for nobody else; `OSError`."""
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
