"""What the tests of the storage share."""

from pathlib import Path

import pytest

from tests.storage.disk import build_shim


@pytest.fixture(scope="session")
def shim(tmp_path_factory) -> Path:
    made = build_shim(tmp_path_factory.mktemp("shim"))
    if made is None:
        pytest.skip("no Linux, or no C compiler (cc): the recorder of system calls can't be built")
    return made
