"""What every test shares."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.places import MEMORY_DISK

# How long an example takes says more of the machine's other work than of ours.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A private folder on a disk that does not make a test wait for fsyncs, where the machine has one."""
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK) as name:
        yield Path(name)
