"""Run one function of a benchmark in a process of its own, so that its memory, CPU and disk writes are its own."""

import importlib
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

ROOT = Path(__file__).parents[1]
READY = "ready"


def quiet() -> None:
    """The device's log is not the benchmark's output."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


def call(function: str, **arguments: Any) -> Any:
    """What `package.module:function` returns when a fresh Python calls it; arguments and result travel as JSON."""
    command = [sys.executable, "-m", "bench.child", function, json.dumps(arguments, default=str)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.rstrip().rpartition("\n")[2])


@contextmanager
def start(function: str, **arguments: Any) -> "Iterator[subprocess.Popen[str]]":
    """The same, but going on beside us once it has said `READY`, until it is killed at the end."""
    command = [sys.executable, "-m", "bench.child", function, json.dumps(arguments, default=str)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            while (line := process.stdout.readline()).strip() != READY:
                assert line, f"{function} ended before it was ready"
            yield process
        finally:
            process.kill()


def main() -> None:
    """The other side of `call`."""
    quiet()
    module, _, name = sys.argv[1].partition(":")
    result = getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
