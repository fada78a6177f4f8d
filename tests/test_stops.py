"""How a process stops while the cloud hangs: within its grace, or at a second signal; and a line says what is left."""

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.commands_world import make_buffer
from tests.silent import SilentCloud
from tests.test_app import PATIENCE_S, Device, device

COUNT = 5
GRACE_S = 3_000.0
"""Longer than anybody waits: what ends sooner did not wait for the network."""


@pytest.fixture
def cloud() -> Iterator[SilentCloud]:
    with SilentCloud() as listening:
        yield listening


@contextmanager
def waiting_for(cloud: SilentCloud, folder: Path, *, grace_s: float) -> Iterator[Device]:
    """A device with a backlog of five, one POST under way, and nobody who will ever answer it."""
    (folder / "device").mkdir()
    make_buffer(folder / "device" / "buffer.db", COUNT)
    settings = {"SOURCES": "none", "SHUTDOWN_GRACE_SECONDS": grace_s, "TIMEOUT_SECONDS": GRACE_S}
    with device(folder, CLOUD_LOGGING_ENDPOINT=cloud.endpoint, **settings) as running:
        running.wait_for("started")
        assert cloud.posted.wait(PATIENCE_S)
        yield running


def pending(folder: Path) -> int:
    """What the buffer says, once the process is gone."""
    with closing(sqlite3.connect(folder / "device" / "buffer.db")) as connection:
        found = connection.execute("SELECT count(*) FROM prediction_buffer WHERE status = 'pending'").fetchone()
    return int(found[0])


def ended(running: Device) -> dict[str, object]:
    """The line that it ends with; exit code 0."""
    stopped = running.wait_for("stopped")
    assert running.process.wait(timeout=PATIENCE_S) == 0
    return stopped


@pytest.mark.process
def test_a_second_signal_skips_the_network_and_the_last_line_says_how_many_are_left(tmp_path, cloud):
    with waiting_for(cloud, tmp_path, grace_s=GRACE_S) as running:
        running.process.send_signal(signal.SIGTERM)
        assert running.wait_for("signal")["then"] == "stop"
        running.process.send_signal(signal.SIGTERM)
        assert running.wait_for("signal")["then"] == "skip the network"
        stopped = ended(running)
    assert stopped["pending"] == stopped["accepted"] == pending(tmp_path) == COUNT
    assert stopped["sent"] == 0


@pytest.mark.process
def test_a_cloud_that_hangs_holds_up_a_stop_no_longer_than_the_grace(tmp_path, cloud):
    with waiting_for(cloud, tmp_path, grace_s=4) as running:
        running.process.send_signal(signal.SIGTERM)
        stopped = ended(running)
    assert stopped["pending"] == stopped["accepted"] == pending(tmp_path) == COUNT
