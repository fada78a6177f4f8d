"""What every test shares."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.places import MEMORY_DISK


@pytest.fixture
def folder() -> Iterator[Path]:
    """A private folder on a disk that does not make a test wait for fsyncs, where the machine has one."""
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK) as name:
        yield Path(name)
