"""The audit accounts for every accepted number, and says so when it can't."""

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.audit import compare, count, heard, subtract
from actors.messages import Entry, Fate, Outcome, Stream
from actors.ports.account import Account, read_account
from actors.ports.buffer import ranges
from actors.ports.opening import NoBooks, StoreOptions
from actors.ports.store import Store

NUMBERS = st.sets(st.integers(1, 60))


def numbers(spans):
    return {seq for first, last in spans for seq in range(first, last + 1)}


@given(NUMBERS, st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9)), max_size=8))
def test_subtract_against_sets(some, minus):
    holes = [(first, first + more) for first, more in minus]
    assert numbers(subtract(ranges(some), holes)) == some - numbers(holes)


OURS = {"holdfast-wire": "1", "content-type": "application/problem+json"}


def test_what_the_cloud_answers_is_heard():
    assert heard(200, OURS, b'{"streams": []}') == {"streams": []}
    assert heard(404, OURS, b"{}") is None


@pytest.mark.parametrize(
    ("status", "headers", "body", "told"),
    [
        (401, OURS, b'{"detail": "this key is not known"}', ["401: this key is not known", "KEY_FILE", "`doctor`"]),
        (403, OURS, b'{"detail": "for another device"}', ["403: for another device", "KEY_FILE", "`doctor`"]),
        (503, OURS, b'{"detail": "busy"}', ["503: busy", "`doctor`"]),
        (404, {"content-type": "text/html"}, b"<h1>nginx</h1>", ["404", "nginx", "not from our cloud", "`doctor`"]),
        (200, {"content-type": "text/html"}, b"<h1>log in</h1>", ["200", "not from our cloud", "log in", "`doctor`"]),
        (302, {"location": "http://portal/"}, b"", ["redirected to http://portal/", "not from our cloud", "`doctor`"]),
        (200, OURS, b'{"streams": [', ["damaged", "try again"]),
    ],
)
def test_what_is_no_audit_is_told_with_what_to_do(status, headers, body, told):
    with pytest.raises(ValueError) as caught:
        heard(status, headers, body)
    for part in told:
        assert part in str(caught.value)
    assert str(caught.value).count("not from our cloud") <= 1


def test_a_cloud_that_never_heard_of_the_device_is_told_as_that():
    answers: list[dict[str, Any]] = [{}, {"cam": {"streams": []}}]
    for audits in answers:
        finding = compare(account(), audits)
        assert (finding.good, finding.unheard) == (False, True)
        assert "never heard of this device" in finding.sentence()
    assert "never heard" not in compare(account(), cloud(5)).sentence()
    assert "never heard" not in compare(account(waiting=((1, 10),)), {}).sentence(), "nothing was sent yet"


def account(accepted=10, waiting=(), quarantined=(), given_up=()):
    return Account(
        streams=(Stream("S", "cam"),), accepted=accepted, waiting=waiting, quarantined=quarantined, given_up=given_up
    )


def cloud(last_seq, *gaps, **more):
    stream = {
        "stream_id": "S",
        "last_seq": last_seq,
        "gaps": [{"from_seq": first, "to_seq": last, "reason": reason} for first, last, reason in gaps],
        "gaps_total": len(gaps),
        "duplicates": 0,
        "conflicts": 0,
    }
    return {"cam": {"streams": [{"stream_id": "other", "last_seq": 99}, stream | more]}}


def test_all_stored_is_good():
    found = compare(account(), cloud(10, duplicates=3))
    assert found.good
    assert (found.stored, found.duplicates_absorbed, found.missing) == (10, 3, ())
    assert found.sentence().endswith("nothing is missing")


def test_every_place_where_a_number_can_be_is_counted_once():
    books = account(20, waiting=((11, 20),), quarantined=((3, 3),), given_up=((5, 6, "evicted"),))
    found = compare(books, cloud(10, (3, 3, None), (5, 6, None), (8, 8, "rejected: bbox")))
    assert (found.stored, found.waiting, found.quarantined, found.given_up) == (6, 10, 1, 3)
    assert found.good


def test_a_number_that_nobody_has_is_missing_by_name():
    found = compare(account(12, waiting=((12, 12),)), cloud(9, (4, 5, None)))
    assert found.missing == ((4, 5), (10, 11))
    assert not found.good
    assert "missing are 4-5, 10-11" in found.sentence()


def test_a_cloud_that_never_heard_of_the_device_misses_everything_that_does_not_wait():
    assert compare(account(5, waiting=((1, 5),)), {}).good
    assert compare(account(5, waiting=((2, 5),)), {}).missing == ((1, 1),)


def test_a_conflict_is_not_good():
    assert not compare(account(), cloud(10, conflicts=1)).good


def test_a_list_of_gaps_that_was_cut_can_not_be_compared():
    with pytest.raises(ValueError, match="1 of 5000 gaps"):
        compare(account(), cloud(10, (2, 2, None), gaps_total=5000))


def test_the_books_are_read_while_the_device_runs_with_what_only_the_journal_has(folder):
    options = StoreOptions(
        db_path=folder / "buffer.db",
        capacity_bytes=64 << 20,
        cleanup_days=7,
        journal=True,
        now=lambda: 1.0,
        new_id=lambda _: "S",
    )
    store = Store.open("cam", options)
    entry = Entry("f", 1.0, b'{"image_id":"f","timestamp":1.0}')
    store.accept([entry] * 6)
    store.pending(0, 10, 1 << 20)
    store.settle([Outcome(Fate.SENT, (1, 2)), Outcome(Fate.QUARANTINED, (4,), "bad")])
    store.accept([entry] * 3)
    books = read_account(folder / "buffer.db")
    assert (books.streams, books.accepted) == ((Stream("S", "cam"),), 9)
    assert numbers(books.waiting) == {3, 5, 6, 7, 8, 9}
    assert books.quarantined == ((4, 4),)
    assert count(books.waiting) == 6
    store.close()
    assert numbers(read_account(folder / "buffer.db").waiting) == {3, 5, 6, 7, 8, 9}


def test_no_buffer_is_told(folder):
    with pytest.raises(NoBooks, match=r"nowhere\.db"):
        read_account(folder / "nowhere.db")


def test_a_cloud_that_knows_numbers_which_were_never_given_out_speaks_of_a_double():
    found = compare(account(10), cloud(14))
    assert (found.ahead, found.good, found.stored) == (4, False, 10)
    assert "the cloud has 4 numbers that this buffer never gave out" in found.sentence()
    assert compare(account(10), cloud(14), given_out=14).good, "the device has gone on since its account was read"


def test_each_stream_answers_for_its_own_numbers_and_a_settled_fork_is_good():
    books = attrs.evolve(account(20, waiting=((20, 20),)), streams=(Stream("S", "cam"), Stream("T", "line-2", 13)))
    fork: dict[str, Any] = {"stream_id": "T", "last_seq": 18, "gaps_total": 2, "duplicates": 1, "conflicts": 0}
    fork["gaps"] = [{"from_seq": 1, "to_seq": 12, "reason": "numbered in another stream"}]
    fork["gaps"] += [{"from_seq": 15, "to_seq": 15, "reason": None}]
    found = compare(books, cloud(99, conflicts=4) | {"line-2": {"streams": [fork]}})
    assert found.missing == ((15, 15), (19, 19))
    assert (found.stored, found.waiting, found.conflicts, found.duplicates_absorbed) == (17, 1, 4, 1)
    fork["gaps"], fork["gaps_total"], fork["last_seq"] = fork["gaps"][:1], 1, 20
    assert compare(books, cloud(99, conflicts=4) | {"line-2": {"streams": [fork]}}).good
