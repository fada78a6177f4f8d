"""What a test needs of the machine beyond Python: it is there, or the test says why it did not run.

Under CI a missing tool is a failure, since a skipped test must never read as a passed one; `.ci/debian-packages` lists
what CI installs.
"""

import os
import shutil
from typing import NoReturn

import pytest


def tool(name: str, package: str) -> str:
    """The path of a program; `package` is the Debian package that brings it."""
    found = shutil.which(name)
    if found is None:
        missing(f"'{name}' is not on this machine; on Debian: apt install {package}")
    return found


def missing(reason: str) -> NoReturn:
    """Skip, with the reason in the summary; under CI fail."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
