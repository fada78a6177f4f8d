"""monitor: what only shows from one look to the next, and alerts told once when they begin and once when they end."""

from functools import partial

import attrs
import pytest
import trio
from msgspec.structs import replace
from structlog.testing import capture_logs

from actors import monitor
from actors.alerts import Scene, holding
from actors.messages import AlertChange, Books, Drain, Link, LinkState, Pulse, Traffic, Vision
from actors.monitor import CLOCK_GRUDGE_S, Clock, Sample, Watch, full_in_s
from actors.readiness import Bounds
from actors.status import Cells, recovery_eta_s, status_of

WELL = Books(stream_id="S", pending=3, capacity_bytes=1_000, size_bytes=100, last_seq=3)
SET = 1.8e9
"""A wall clock that was set."""


def test_status_puts_the_cells_together():
    cells = Cells()
    cells.books.value = replace(WELL, disk_answered_at=18.0)
    cells.link.value = Link(LinkState.UP, "probe: 200", since=5.0)
    cells.drain.value = Drain(active=True, runs=2, sent=7, rate_per_s=1.5, since=4.0)
    cells.traffic.value = Traffic(retried=4, duplicates=1)
    cells.vision.value = Vision(cameras_down=("dock",))
    cells.pulse.value = Pulse(
        looked_at=20.0, delivered_per_s=2.0, accepted_per_s=0.5, alert_since={"camera_down": 12.0}
    )
    seen = status_of("cam", cells, now=960.0, monotonic=20.0, bounds=Bounds())
    assert (seen["pending"], seen["buffered"], seen["capacity_percent"]) == (3, 3, 10.0)
    assert seen["is_connected"] is True
    assert seen["link"] == {"state": "up", "reason": "probe: 200", "for_s": 15.0}
    assert (seen["recovery_active"], seen["recovery_count"], seen["retried"]) == (True, 2, 4)
    assert (seen["recovery_sent"], seen["recovery_eta_s"]) == (7, 2.0)
    assert seen["alerts"] == ["camera_down"]
    assert seen["alert_details"] == {"camera_down": {"detail": "dock", "for_s": 8.0}}
    assert (seen["healthy"], seen["ready"], seen["unready"]) == (True, False, ["the model is not loaded yet"])
    assert seen["disk_silent_s"] == 2.0


@pytest.mark.parametrize(
    ("since", "accepted_per_s", "eta_s"),
    [
        (90.0, 5.0, 20.0),
        (90.1, 5.0, None),  # the mean still holds a time in which nothing was drained
        (60.0, 15.0, None),  # more comes than goes
    ],
)
def test_a_drain_tells_when_it_is_through_once_its_rate_is_its_own(since, accepted_per_s, eta_s):
    pulse = Pulse(looked_at=100.0, delivered_per_s=15.0, accepted_per_s=accepted_per_s)
    drain = Drain(active=True, runs=1, sent=150, since=since)
    assert recovery_eta_s(replace(WELL, pending=200), drain, pulse) == eta_s
    assert recovery_eta_s(replace(WELL, pending=200), attrs.evolve(drain, active=False), pulse) is None


async def test_an_alert_is_told_once_and_its_end_with_how_long_it_held(autojump_clock, nursery):
    cells = Cells()
    with capture_logs() as told:
        nursery.start_soon(look_for_ever, cells)
        await trio.sleep(0.5)
        cells.books.value = replace(WELL, failed=101)
        await trio.sleep(10.0)
        cells.books.value = WELL
        await trio.sleep(2.0)
    assert [(event["event"], event["name"]) for event in told] == [
        ("alert", "failed_high"),
        ("alert_over", "failed_high"),
    ]
    assert told[1]["held_s"] == 10.0


async def test_alerts_of_one_look_are_told_in_the_order_of_their_table(autojump_clock, nursery):
    """In a set's order they would come in another one in every process, and no simulated run would replay."""
    cells = Cells()
    trouble = replace(WELL, failed=101, trouble="read-only", in_memory=3, degraded="journal", size_bytes=950)
    with capture_logs() as told:
        nursery.start_soon(look_for_ever, cells)
        await trio.sleep(0.5)
        cells.books.value = trouble
        await trio.sleep(1.0)
        cells.books.value = WELL
        await trio.sleep(1.0)
    held = list(holding(Scene(trouble, Cells().link.value, Vision(), Pulse(), SET, Traffic())))
    assert len(held) == 5
    assert [event["name"] for event in told if event["event"] == "alert"] == held
    assert [event["name"] for event in told if event["event"] == "alert_over"] == held


async def look_for_ever(cells: Cells) -> None:
    changes, listener = trio.open_memory_channel[AlertChange](1)
    listener.close()
    await monitor.run(changes, cells=cells, bounds=Bounds(stuck_s=60.0), now=lambda: 1_000.0 + SET)


async def test_changes_are_passed_on_and_one_that_does_not_fit_holds_nothing_up(autojump_clock, nursery):
    cells = Cells()
    changes, listener = trio.open_memory_channel[AlertChange](2)
    nursery.start_soon(partial(monitor.run, changes, cells=cells, bounds=Bounds(), now=lambda: SET))
    await trio.sleep(0.5)
    for failed in (101, 0, 101, 0):
        cells.books.value = replace(WELL, failed=failed)
        await trio.sleep(1.0)
    assert cells.pulse.value.looked_at == 4.0
    sentence = "101 predictions were refused by the cloud"
    assert listener.receive_nowait() == AlertChange("failed_high", sentence, SET, began=True)
    assert listener.receive_nowait() == AlertChange("failed_high", sentence, SET, began=False, held_s=1.0)
    with pytest.raises(trio.WouldBlock):
        listener.receive_nowait()


async def test_accepted_but_not_delivered_is_noticed_after_its_bound_and_over_with_the_first(autojump_clock, nursery):
    cells = Cells()
    cells.link.value = Link(LinkState.UP)
    cells.vision.value = Vision(model_version="v1")
    cells.books.value = WELL
    nursery.start_soon(look_for_ever, cells)
    await trio.sleep(60.5)
    assert cells.pulse.value.stuck == ""
    await trio.sleep(1.0)
    assert cells.pulse.value.stuck == "the link is up and predictions wait (3), but none was delivered for 61 s"
    cells.traffic.value = Traffic(sent=1)
    await trio.sleep(1.0)
    assert cells.pulse.value.stuck == ""


async def test_a_cloud_that_is_there_and_stores_nothing_is_noticed_though_each_failure_makes_the_link_suspect(
    autojump_clock, nursery
):
    """503 to every POST, 200 to every probe: the link is up anew every few seconds, and yet nothing moves."""
    cells = Cells()
    cells.books.value = WELL
    nursery.start_soon(look_for_ever, cells)
    for second in range(0, 60, 5):
        state = LinkState.SUSPECT if second % 10 else LinkState.UP
        cells.link.value = Link(state, since=trio.current_time())
        await trio.sleep(5)
    await trio.sleep(0.5)
    assert cells.pulse.value.stuck == ""
    await trio.sleep(1)
    assert "none was delivered for 61 s" in cells.pulse.value.stuck
    cells.link.value = Link(LinkState.DOWN, since=trio.current_time())
    await trio.sleep(1)
    assert cells.pulse.value.stuck == ""
    cells.link.value = Link(LinkState.UP, since=trio.current_time())
    await trio.sleep(59)
    assert cells.pulse.value.stuck == "", "what was waited for while the link was down doesn't count"


async def test_a_disk_that_hangs_is_an_alert_and_the_device_neither_healthy_nor_ready(autojump_clock, nursery):
    cells = Cells()
    cells.vision.value = Vision(model_version="v1")
    cells.books.value = replace(WELL, disk_answered_at=0.0)
    nursery.start_soon(look_for_ever, cells)
    await trio.sleep(31.5)
    seen = status_of("cam", cells, now=SET, monotonic=trio.current_time(), bounds=Bounds())
    assert seen["alerts"] == ["disk_silent"]
    assert (seen["healthy"], seen["ready"]) == (False, False)
    assert seen["unready"] == seen["failing"] == ["the disk has not answered for 32 s"]


async def test_rates_are_means_of_the_last_seconds(autojump_clock, nursery):
    cells = Cells()
    nursery.start_soon(look_for_ever, cells)
    await trio.sleep(5.5)
    assert cells.pulse.value.accepted_per_s == 0.0, "the books are not open: what they begin with was not accepted now"
    for second in range(80):
        cells.books.value = replace(WELL, last_seq=1_000 + 4 * second, size_bytes=100 + 10 * second)
        cells.vision.value = Vision(frames=5 * second)
        cells.traffic.value = Traffic(sent=2 * second, rejected=second)
        await trio.sleep(1.0)
    pulse = cells.pulse.value
    assert (pulse.accepted_per_s, pulse.frames_per_s, pulse.delivered_per_s) == (4.0, 5.0, 3.0)
    assert pulse.full_in_s == (1_000 - 890) / 10


async def test_a_held_up_loop_shows_in_the_lag(mock_clock, nursery):
    cells = Cells()
    nursery.start_soon(look_for_ever, cells)
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(3.5)
    await trio.testing.wait_all_tasks_blocked()
    assert cells.pulse.value.lag_s == 2.5


def test_what_does_not_grow_is_never_full():
    before, now = Sample(0.0, 0, 0, 0, 500), Sample(60.0, 0, 0, 0, 400)
    assert full_in_s(before, now, 1_000) is None
    assert full_in_s(now, now, 1_000) is None


def test_how_soon_it_is_full_is_not_guessed_from_seconds():
    before = Sample(0.0, 0, 0, 0, 400)
    assert full_in_s(before, Sample(59.0, 0, 0, 0, 500), 1_000) is None
    assert full_in_s(before, Sample(60.0, 0, 0, 0, 520), 1_000) == 240.0


# --- the wall clock


@pytest.mark.parametrize("year", [0.0, 1e9])
def test_a_clock_that_was_never_set_is_told(year):
    assert "never set" in Clock().judge(year, 0.0)


def test_a_clock_that_runs_is_right_and_one_corrected_a_little_too():
    clock = Clock()
    assert [clock.judge(SET + at - wobble, at) for at, wobble in ((0, 0), (1, 0), (2, 4.9), (3, 4.9))] == [""] * 4


def test_a_step_back_is_told_until_the_clock_has_caught_up():
    clock = Clock()
    clock.judge(SET, 0.0)
    assert "went back" in clock.judge(SET + 1 - 60, 1.0)
    assert "went back" in clock.judge(SET + 59 - 60, 59.0)
    assert clock.judge(SET + 60 - 60, 60.0) == ""


def test_a_step_back_from_a_wrong_future_is_forgiven_in_the_end():
    clock = Clock()
    clock.judge(SET + 1e9, 0.0)
    assert clock.judge(SET, 1.0)
    assert clock.judge(SET + CLOCK_GRUDGE_S, 1.0 + CLOCK_GRUDGE_S)
    assert clock.judge(SET + CLOCK_GRUDGE_S + 1, 2.0 + CLOCK_GRUDGE_S) == ""


async def test_what_a_full_buffer_gives_up_is_told_at_once_then_summed_up_every_ten_seconds(autojump_clock, nursery):
    """Not what an earlier life of the stream gave up; and by the end no prediction is left out of the sums."""
    cells = Cells()
    cells.books.value = Books(stream_id="S")  # the store is open, its first account not there yet
    with capture_logs() as told:
        nursery.start_soon(look_for_ever, cells)
        await trio.sleep(0.5)
        cells.books.value = replace(WELL, evicted=500)
        await trio.sleep(30.0)
        for second in range(1, 26):  # looks at 31, 32, ...: 40 more in each
            cells.books.value = replace(WELL, evicted=500 + 40 * second, turned_away=3 * (second == 25))
            await trio.sleep(1.0)
        await trio.sleep(10.0)
    lines = [line for line in told if line["event"] == "given_up"]
    assert [(line["reason"], line["predictions"]) for line in lines] == [
        ("evicted", 40), ("evicted", 400), ("evicted", 400), ("turned_away", 3), ("evicted", 160),
    ]  # fmt: skip


def test_an_alert_of_each_look_stands_in_the_pulse_with_its_beginning():
    cells = Cells()
    watch = Watch(Bounds())
    cells.books.value = replace(WELL, failed=101)
    watch.look(cells, now=SET, at=5.0, lag_s=0.0)
    watch.look(cells, now=SET + 1, at=6.0, lag_s=0.0)
    assert cells.pulse.value.alert_since == {"failed_high": 5.0}
