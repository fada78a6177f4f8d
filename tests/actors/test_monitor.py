"""monitor: the figures mean what they say, and an alert is told once when it begins and once when it ends."""

import attrs
import pytest
import trio
from structlog.testing import capture_logs

from actors import monitor
from actors.messages import Books, Drain, Link, LinkState, Traffic, Vision
from actors.monitor import Cells, alerts, oldest_pending_age_s, status

WELL = Books(stream_id="S", pending=3, capacity_bytes=100, size_bytes=10, oldest_pending_at=900.0)
UP = Link(LinkState.UP)


@pytest.mark.parametrize(
    ("books", "link", "vision", "name"),
    [
        (attrs.evolve(WELL, pending=1_001), UP, Vision(), "pending_high"),
        (attrs.evolve(WELL, size_bytes=91), UP, Vision(), "buffer_nearly_full"),
        (attrs.evolve(WELL, failed=101), UP, Vision(), "failed_high"),
        (attrs.evolve(WELL, trouble="buffer full"), UP, Vision(), "disk_trouble"),
        (attrs.evolve(WELL, in_memory=1), UP, Vision(), "not_durable"),
        (attrs.evolve(WELL, degraded="read-only"), UP, Vision(), "journal_unwritable"),
        (WELL, Link(LinkState.REFUSED, "401: no such key"), Vision(), "link_refused"),
        (WELL, UP, Vision(cameras_down=("dock",)), "camera_down"),
    ],
)
def test_each_alert_by_its_name(books, link, vision, name):
    assert set(alerts(books, link, vision)) == {name}


def test_at_the_threshold_all_is_well():
    edge = attrs.evolve(WELL, pending=1_000, size_bytes=90, failed=100)
    assert alerts(edge, UP, Vision()) == {}


def test_an_age_is_told_only_while_something_waits():
    assert oldest_pending_age_s(WELL, 960.0) == 60.0
    assert oldest_pending_age_s(attrs.evolve(WELL, pending=0), 960.0) is None
    assert oldest_pending_age_s(WELL, 100.0) == 0.0, "a clock that was set back"


def test_status_puts_the_cells_together():
    cells = Cells()
    cells.books.value = WELL
    cells.link.value = Link(LinkState.UP, "probe: 200", since=5.0)
    cells.drain.value = Drain(active=True, runs=2)
    cells.traffic.value = Traffic(retried=4, duplicates=1)
    seen = status("cam", cells, now=960.0, monotonic=20.0)
    assert (seen["pending"], seen["buffered"], seen["capacity_percent"]) == (3, 3, 10.0)
    assert seen["is_connected"] is True
    assert seen["link"] == {"state": "up", "reason": "probe: 200", "for_s": 15.0}
    assert (seen["recovery_active"], seen["recovery_count"], seen["retried"]) == (True, 2, 4)


async def test_an_alert_is_told_once_and_its_end_with_how_long_it_held(autojump_clock, nursery):
    cells = Cells()
    with capture_logs() as told:
        nursery.start_soon(monitor.run, cells)
        await trio.sleep(0.5)
        cells.books.value = attrs.evolve(WELL, failed=101)
        await trio.sleep(10.0)
        cells.books.value = WELL
        await trio.sleep(2.0)
    assert [(event["event"], event["name"]) for event in told] == [
        ("alert", "failed_high"),
        ("alert_over", "failed_high"),
    ]
    assert told[1]["held_s"] == 10.0
