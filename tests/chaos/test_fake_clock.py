"""A process that is told another time believes it, whatever others before it left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.machine import fake_clock
from chaos.scenarios.clock import told_the_time
from tests import needs

pytestmark = pytest.mark.process

LEFT_BEHIND = """
import os, pathlib, sys
for name in (f"sem.faketime_sem_{os.getpid()}", f"faketime_shm_{os.getpid()}"):
    pathlib.Path("/dev/shm", name).write_bytes(bytes(32))
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""What a process with this id would have left that was killed; then the command, which keeps the id."""


def test_a_clock_is_faked_although_a_killed_process_of_the_same_id_left_its_semaphore():
    if why := fake_clock():
        needs.missing(why)
    asked = [sys.executable, "-c", "import time; print(time.gmtime().tm_year)"]
    command = [sys.executable, "-c", LEFT_BEHIND, *told_the_time("1970-01-02 00:00:10"), *asked]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/")
    try:
        said, complained = child.communicate(timeout=60)
    finally:
        for left in Path("/dev/shm").glob(f"*faketime_s??_{child.pid}"):
            left.unlink()
    assert (child.returncode, said.strip()) == (os.EX_OK, "1970"), complained
