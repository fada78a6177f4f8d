"""What a command loads: an operator's question shall not wait for the libraries of the device."""

import os
import subprocess
import sys

import pytest

from tests.commands_world import Shell, make_buffer
from tests.places import ROOT

HEAVY = (
    "trio",
    "quart",
    "hypercorn",
    "httpx",
    "sqlite_utils",
    "structlog",
    "rich",
    "numpy",
    "cv2",
    "onnxruntime",
    "torch",
)
RUN = """
import sys
from app import main
try:
    main(sys.argv[1:])
finally:
    print("loaded:", *({heavy} & {{name.partition(".")[0] for name in sys.modules}}), file=sys.stderr)
"""


@pytest.mark.process
@pytest.mark.parametrize(
    "command",
    [
        *("--help", "version", "config", "status", "completion bash"),
        *("buffer --help", "buffer stats", "buffer list", "buffer show 1", "buffer export"),
    ],
)
def test_looking_loads_none_of_the_devices_libraries(tmp_path, command):
    shell = Shell(tmp_path)
    make_buffer(shell.db_path, 3)
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(heavy=set(HEAVY)), *command.split()],
        cwd=ROOT,
        env=shell.environment() | {"PYTHONPATH": str(ROOT), "PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert done.stderr.splitlines()[-1] == "loaded:"
