"""readiness: alive means that loop and disk answer; ready means that the device does its work, and things move."""

import pytest
from msgspec.structs import replace

from actors.messages import Books, Link, LinkState, Pulse, Vision
from actors.readiness import DISK_SILENCE_S, LOOP_SILENCE_S, Bounds, failing, stuck, unready

BOOKS = Books(stream_id="S", disk_answered_at=100.0)
UP = Link(LinkState.UP, since=0.0)
SEES = Vision(model_version="v1")
BOUNDS = Bounds(stuck_s=100.0)


def test_alive_while_loop_and_disk_answer():
    assert failing(BOOKS, Pulse(looked_at=100.0), monotonic=100.0 + LOOP_SILENCE_S) == ()
    assert failing(Books(), Pulse(), monotonic=1e6) == (), "nothing has been asked yet"


def test_a_loop_that_stands_still_is_failing():
    (why,) = failing(BOOKS, Pulse(looked_at=100.0), monotonic=100.1 + LOOP_SILENCE_S)
    assert why == "the loop has not turned for 15 s"


def test_a_disk_that_hangs_is_failing():
    now = 100.1 + DISK_SILENCE_S
    assert failing(BOOKS, Pulse(looked_at=now), monotonic=now) == ("the disk has not answered for 30 s",)


def test_a_disk_that_answers_with_an_error_is_alive_but_not_ready():
    """A restart would lose what memory holds."""
    full = replace(BOOKS, trouble="No space left on device", in_memory=7)
    assert failing(full, Pulse(looked_at=101.0), monotonic=101.0) == ()
    assert unready(full, UP, SEES, Pulse(), bounds=BOUNDS) == ("the disk refuses: No space left on device",)


@pytest.mark.parametrize(
    ("books", "link", "vision", "pulse", "why"),
    [
        (BOOKS, UP, Vision(), Pulse(), "the model is not loaded yet"),
        (Books(), UP, SEES, Pulse(), "the buffer is not open"),
        (BOOKS, Link(LinkState.REFUSED, "401: no such key"), SEES, Pulse(), "no such key"),
        (BOOKS, UP, SEES, Pulse(stuck="nothing moves"), "nothing moves"),
    ],
)
def test_each_reason_not_to_be_ready(books, link, vision, pulse, why):
    (reason,) = unready(books, link, vision, pulse, bounds=BOUNDS)
    assert why in reason


@pytest.mark.parametrize("state", [LinkState.DOWN, LinkState.SUSPECT, LinkState.UNKNOWN])
def test_without_a_network_a_device_is_ready(state):
    assert unready(BOOKS, Link(state), SEES, Pulse(), bounds=BOUNDS) == ()


def test_without_sources_no_model_is_waited_for():
    assert unready(BOOKS, UP, Vision(), Pulse(), bounds=Bounds(model_wanted=False)) == ()


@pytest.mark.parametrize(
    ("pending", "link", "moved_at", "now", "is_stuck"),
    [
        (5, UP, 0.0, 100.0, False),
        (5, UP, 0.0, 100.1, True),
        (0, UP, 0.0, 1e6, False),
        (5, Link(LinkState.DOWN), 0.0, 1e6, False),
        (5, Link(LinkState.UNKNOWN), 0.0, 1e6, False),
        (5, Link(LinkState.REFUSED), 0.0, 1e6, False),
        (5, Link(LinkState.SUSPECT), 0.0, 100.1, True),
        (5, Link(LinkState.UP, since=99.0), 0.0, 100.1, True),
    ],
)
def test_stuck_means_that_it_could_move_and_does_not(pending, link, moved_at, now, is_stuck):
    assert bool(stuck(pending, link, moved_at=moved_at, monotonic=now, bounds=BOUNDS)) is is_stuck
