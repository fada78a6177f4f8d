"""Repeats: the same line once in ten seconds with a count, no flood of one kind, bounded memory."""

from actors.repeats import BURST_MAX, KEYS_MAX, Repeats


def test_the_same_line_is_told_once_in_ten_seconds_with_the_count_of_those_between():
    repeats = Repeats()
    told = {now: repeats.see("post", ("timeout",), float(now)) for now in range(25)}
    assert {now: held for now, held in told.items() if held is not None} == {0: 0, 10: 9, 20: 9}
    assert repeats.leftover() == {"post": 4}


def test_another_line_is_told_at_once():
    repeats = Repeats()
    assert repeats.see("post", ("timeout",), 0.0) == 0
    assert repeats.see("post", ("refused",), 0.0) == 0
    assert repeats.see("alert", ("timeout",), 0.0) == 0


def test_ever_different_lines_of_one_event_are_no_flood():
    repeats = Repeats()
    told = [repeats.see("unreadable", (f"{n}.jpg",), 1.0) for n in range(1_000)]
    assert told == [0] * BURST_MAX + [None] * (1_000 - BURST_MAX)
    assert repeats.see("other", ("x",), 1.0) == 0
    assert repeats.see("unreadable", ("new.jpg",), 11.0) == 1_000 - BURST_MAX
    assert repeats.leftover() == {}


def test_memory_is_bounded():
    repeats = Repeats(burst_max=10_000_000)
    for n in range(10 * KEYS_MAX):
        repeats.see("event", (str(n),), 0.0)
    assert len(repeats._lines) == KEYS_MAX


def test_a_line_that_was_told_long_ago_owes_nothing():
    repeats = Repeats()
    repeats.see("post", (), 0.0)
    assert repeats.see("post", (), 1_000.0) == 0
