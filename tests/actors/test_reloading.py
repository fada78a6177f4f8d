"""Reloading: what SIGHUP changes at once, what waits for a restart, and that nobody has to guess which."""

from pathlib import Path

import pytest

from actors.reloading import reload
from actors.settings import FIELDS, LIVE, Settings

BUFFER = Path("/tmp/buffer.db")
RUNNING = Settings(buffer_db_path=BUFFER, edge_device_id="cam")


def test_every_name_of_the_live_ones_is_a_setting():
    assert set(FIELDS) >= LIVE


def test_what_may_change_is_taken_and_named():
    read = Settings(buffer_db_path=BUFFER, edge_device_id="cam", batch_size=7, recovery_max_per_second=50)
    found = reload(RUNNING, read)
    assert found.settings == read
    assert found.changed == ("BATCH_SIZE", "RECOVERY_MAX_PER_SECOND")
    assert found.restart == ()


def test_what_is_open_and_in_use_stays_and_is_named():
    read = Settings(buffer_db_path=Path("/tmp/other.db"), edge_device_id="other", buffer_max_size_mb=20, max_retries=9)
    found = reload(RUNNING, read)
    assert found.restart == ("EDGE_DEVICE_ID", "BUFFER_DB_PATH", "BUFFER_MAX_SIZE_MB")
    assert found.changed == ("MAX_RETRIES",)
    assert (found.settings.buffer_db_path, found.settings.edge_device_id) == (BUFFER, "cam")
    assert found.settings.max_retries == 9


def test_a_value_that_waits_for_a_restart_is_named_again_at_the_next_reload():
    read = Settings(buffer_db_path=Path("/tmp/other.db"), edge_device_id="cam")
    assert reload(reload(RUNNING, read).settings, read).restart == ("BUFFER_DB_PATH",)


def test_nothing_new_changes_nothing():
    found = reload(RUNNING, Settings(buffer_db_path=BUFFER, edge_device_id="cam"))
    assert (found.settings, found.changed, found.restart) == (RUNNING, (), ())


@pytest.mark.parametrize("name", sorted(name for name in FIELDS if name.startswith("buffer_")))
def test_the_buffer_is_never_touched(name):
    assert name not in LIVE
