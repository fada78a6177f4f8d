import math
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.messages import Sign
from actors.seqs import Stored, payloads_of
from actors.verdict import (
    BATCH_MAX,
    MARK,
    RETRY_AFTER_MAX_S,
    Room,
    Sense,
    Verdict,
    judge,
    judge_probe,
    no_answer,
    settle,
)
from cloud import wire

JSON = {"content-type": "application/json"}
HTML = {"content-type": "text/html; charset=utf-8"}
NOW = 1_800_000_000.0


def verdict(status, headers=None, body=b"{}", records=3):
    return judge(status, JSON if headers is None else headers, body, records=records, now=NOW)


def yes(records, **more):
    return wire.encode_answer(wire.Answer(accepted=records, **more))


# --- one answer


@pytest.mark.parametrize(
    ("status", "headers", "sense", "sign"),
    [
        (400, JSON, Sense.UNUSABLE, Sign.ALIVE),
        (422, JSON, Sense.UNUSABLE, Sign.ALIVE),
        (400, HTML, Sense.REFUSED, Sign.REFUSED),
        (400, HTML | {MARK: "1"}, Sense.UNUSABLE, Sign.ALIVE),
        (422, {"content-type": "application/problem+json"}, Sense.UNUSABLE, Sign.ALIVE),
        (401, JSON, Sense.REFUSED, Sign.REFUSED),
        (403, JSON, Sense.REFUSED, Sign.REFUSED),
        (404, JSON, Sense.REFUSED, Sign.REFUSED),
        (405, HTML, Sense.REFUSED, Sign.REFUSED),
        (415, JSON, Sense.REFUSED, Sign.REFUSED),
        (204, JSON, Sense.REFUSED, Sign.REFUSED),
        (413, HTML, Sense.TOO_LARGE, Sign.ALIVE),
        (429, HTML, Sense.BUSY, Sign.ALIVE),
        (503, JSON, Sense.FAILED, Sign.FAILED),
        (503, JSON | {"retry-after": "2"}, Sense.BUSY, Sign.ALIVE),
        (503, JSON | {"retry-after": "soon"}, Sense.FAILED, Sign.FAILED),
        (500, HTML, Sense.FAILED, Sign.FAILED),
        (502, HTML, Sense.FAILED, Sign.FAILED),
        (504, JSON, Sense.FAILED, Sign.FAILED),
        (408, JSON, Sense.FAILED, Sign.FAILED),
    ],
)
def test_every_status_has_its_row(status, headers, sense, sign):
    seen = verdict(status, headers)
    assert (seen.sense, seen.sign) == (sense, sign)
    assert str(status) in seen.reason


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_says_where_to(status):
    seen = verdict(status, HTML | {"location": "https://portal.example/login"})
    assert seen.sense is Sense.REFUSED
    assert "https://portal.example/login" in seen.reason


def test_half_an_answer_of_our_own_cloud_is_a_failure_and_not_a_stranger():
    """The cloud may have stored the batch; the way is what is in question, so it is probed and the batch retried."""
    seen = judge(200, JSON | {MARK: "1"}, b'{"accep', records=3, now=0.0)
    assert (seen.sense, seen.sign) == (Sense.FAILED, Sign.FAILED)
    assert judge(200, JSON, b'{"accep', records=3, now=0.0).sense is Sense.REFUSED


def test_no_answer_is_a_failure_with_its_reason():
    assert no_answer("ConnectError: refused") == Verdict(Sense.FAILED, "ConnectError: refused")
    assert no_answer("x").sign is Sign.FAILED


def test_success_is_believed_when_it_speaks_of_every_record():
    for status in (200, 201):
        seen = verdict(status, body=yes(1, duplicates=1, conflicts=1))
        assert (seen.sense, seen.sign) == (Sense.STORED, Sign.ALIVE)
    rejected = [wire.Rejection(index=2, error="bad", seq=7)]
    assert verdict(200, body=yes(2, rejected=rejected)).sense is Sense.STORED


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Welcome to the hotel</html>",
        b"",
        b"{}",
        b'{"status": "ok"}',
        b"\xff\xfe",
        yes(2),
        yes(4),
        yes(4, duplicates=-1),
        yes(2, rejected=[wire.Rejection(index=3, error="x")]),
        yes(2, rejected=[wire.Rejection(index=-1, error="x")]),
        yes(1, rejected=[wire.Rejection(index=1, error="x"), wire.Rejection(index=1, error="y")]),
    ],
)
def test_success_that_is_not_our_clouds_is_refused_and_nothing_is_thought_stored(body):
    seen = verdict(200, HTML, body)
    assert (seen.sense, seen.sign) == (Sense.REFUSED, Sign.REFUSED)
    assert seen.reason.startswith("200, but")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
        ("999999999", RETRY_AFTER_MAX_S),
        ("9" * 400, RETRY_AFTER_MAX_S),
        (formatdate(NOW + 1e7, usegmt=True), RETRY_AFTER_MAX_S),
    ],
)
def test_retry_after_is_read_in_both_forms_and_bounded(header, seconds):
    for status in (429, 503):
        assert verdict(status, JSON | {"retry-after": header}).retry_after_s == seconds


def test_too_many_requests_without_a_time_still_means_a_pause():
    assert verdict(429).retry_after_s == 5.0
    assert verdict(429, JSON | {"retry-after": "-3"}).retry_after_s == 5.0


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        ("application/problem+json", b'{"detail":"no key","remedy":"send one"}', "401: no key; send one"),
        ("application/problem+json", b'{"detail":"a key is needed"}', "401: a key is needed"),
        ("application/problem+json", b'{"detail":7}', '401: {"detail":7}'),
        ("application/problem+json", b'{"detail":"\\ud800', '401: {"detail":"\\ud800'),
        ("application/problem+json", b"\xff", "401: \N{REPLACEMENT CHARACTER}"),
        ("application/json", b'{"detail":"a key"}', '401: {"detail":"a key"}'),
    ],
)
def test_a_problem_document_is_told_in_its_own_words(kind, body, reason):
    assert verdict(401, {"content-type": kind}, body).reason == reason


def test_a_reason_is_short_and_printable_whatever_was_answered():
    reason = verdict(500, HTML, b"\x00\x1b[31mbad\n\tthing\xff" + b"z" * 10_000).reason
    assert reason.startswith("500: [31mbad thing")
    assert reason.isprintable()
    assert len(reason) < 320


@pytest.mark.parametrize(
    ("status", "headers", "sign"),
    [
        (200, {MARK: "1"}, Sign.ALIVE),
        (204, {MARK: "1"}, Sign.ALIVE),
        (503, {MARK: "1"}, Sign.ALIVE),
        (500, {MARK: "1"}, Sign.FAILED),
        (404, {MARK: "1"}, Sign.REFUSED),
        (200, HTML, Sign.REFUSED),
        (200, {}, Sign.REFUSED),
        (404, HTML, Sign.REFUSED),
        (302, {"location": "http://portal"}, Sign.REFUSED),
        (302, {MARK: "1"}, Sign.REFUSED),
        (502, HTML, Sign.FAILED),
    ],
)
def test_what_a_probe_proves(status, headers, sign):
    seen, reason = judge_probe(status, headers)
    assert seen is sign
    assert str(status) in reason


# --- taking a batch apart


def records(count, size=100):
    return tuple(Stored(seq, b"x" * size) for seq in range(1, count + 1))


class Cloud:
    """Answers pieces by rules, and counts them."""

    def __init__(self, *, bad=(), bytes_max=math.inf, losses_bad=False, fail_at=(), ours=True, envelope_bad=False):
        self.bad, self.bytes_max, self.losses_bad, self.envelope_bad = set(bad), bytes_max, losses_bad, envelope_bad
        self.fail_at, self.ours = fail_at, ours
        self.posts = []
        self.stored = []

    def __call__(self, piece):
        self.posts.append(piece)
        seqs = [record.seq for record in piece.records]
        if len(self.posts) in self.fail_at:
            return Verdict(Sense.FAILED, "reset")
        if piece.size > self.bytes_max:
            return Verdict(Sense.TOO_LARGE, "413: too much", ours=self.ours)
        if self.envelope_bad:
            empty = not (seqs or piece.losses)
            return judge(422, JSON, b'{"error": "stream_id: unknown field"}', records=len(seqs), now=NOW, empty=empty)
        if self.bad & set(seqs) or (self.losses_bad and piece.losses):
            return Verdict(Sense.UNUSABLE, f"422: {sorted(self.bad & set(seqs))}", ours=True)
        self.stored += seqs
        return Verdict(Sense.STORED, answer=wire.Answer(accepted=len(seqs)), ours=True)


def run(cloud, batch, losses=(), room=None):
    steps = settle(payloads_of(batch), losses, room or Room())
    try:
        piece = next(steps)
        while True:
            piece = steps.send(cloud(piece))
    except StopIteration as end:
        return end.value


LOSS = wire.Loss(1, 2, "evicted")


def test_a_good_batch_is_one_post():
    cloud = Cloud()
    done = run(cloud, records(1000), [LOSS])
    assert len(cloud.posts) == 1
    assert (done.sent, done.losses, done.left, done.trouble) == (list(range(1, 1001)), [LOSS], (), None)


def test_nothing_is_no_post():
    cloud = Cloud()
    assert run(cloud, ()).sent == []
    assert cloud.posts == []


@pytest.mark.parametrize("count", [1, 2, 3, 5, 32, 999, 1000])
def test_one_bad_record_costs_at_most_two_posts_a_halving_wherever_it_stands(count):
    worst = 0
    for bad in {1, 2, count // 3 + 1, count // 2, count // 2 + 1, count - 1, count} & set(range(1, count + 1)):
        cloud = Cloud(bad=[bad])
        done = run(cloud, records(count))
        assert [seq for seq, _ in done.refused] == [bad]
        assert done.refused[0][1] == f"422: [{bad}]", "the cloud's word on this very record"
        assert sorted(done.sent) == [seq for seq in range(1, count + 1) if seq != bad]
        worst = max(worst, len(cloud.posts) - 1)
    # A batch of one has no neighbour that could show the envelope to be sound: an empty one does.
    assert worst <= (2 * math.log2(count) if count > 1 else 1)


@pytest.mark.parametrize("count", [1, 2, 3, 32, 1000])
def test_an_envelope_that_the_cloud_minds_quarantines_nothing(count):
    cloud = Cloud(envelope_bad=True)
    done = run(cloud, records(count), [LOSS])
    assert (done.refused, list(done.sent)) == ([], [])
    assert (sorted(record.seq for record in done.left), done.losses_left) == (list(range(1, count + 1)), (LOSS,))
    assert done.left_error is None, "not the predictions' fault"
    assert done.trouble is not None
    assert (done.trouble.sense, done.trouble.sign) == (Sense.REFUSED, Sign.REFUSED)
    assert "even an empty batch" in done.trouble.reason
    assert "stream_id: unknown field" in done.trouble.reason
    assert len(cloud.posts) <= 2 * math.log2(count) + 5, "it does not take the whole batch to see that"


def test_a_batch_of_bad_records_alone_is_refused_record_by_record():
    """A sound envelope around nothing but bad records: the empty piece tells, and each gets its own error."""
    done = run(Cloud(bad=range(1, 9)), records(8))
    assert sorted(done.refused) == [(seq, f"422: [{seq}]") for seq in range(1, 9)]
    assert (done.trouble, done.left) == (None, ())


def test_a_link_that_goes_before_the_doubt_is_settled_leaves_the_suspect_pending():
    done = run(Cloud(bad=[1], fail_at=[2]), records(1))
    assert (done.refused, [record.seq for record in done.left], done.left_error) == ([], [1], "reset")


def test_the_clouds_own_rejections_go_by_index():
    answer = wire.Answer(accepted=2, rejected=[wire.Rejection(index=1, error="bbox: …")])
    done = run(lambda _: Verdict(Sense.STORED, answer=answer, ours=True), records(3))
    assert (done.sent, done.refused) == ([1, 3], [(2, "bbox: …")])


def test_too_large_goes_on_in_halves_and_the_size_that_passed_is_remembered():
    cloud, room = Cloud(bytes_max=3000), Room()
    done = run(cloud, records(100), room=room)
    assert done.sent == list(range(1, 101))
    assert done.too_large
    assert [len(piece.records) for piece in cloud.posts] == [100, 50, 25, 25, 25, 25]
    again = Cloud(bytes_max=3000)
    run(again, records(100), room=room)
    assert [len(piece.records) for piece in again.posts] == [25] * 4, "no 413 a second time"


def test_a_single_record_that_our_cloud_finds_too_large_is_refused_for_good():
    done = run(Cloud(bytes_max=50), records(1))
    assert done.refused == [(1, "413: too much")]


def test_a_proxys_413_on_a_single_record_quarantines_nothing():
    done = run(Cloud(bytes_max=50, ours=False), records(1))
    assert (done.refused, [record.seq for record in done.left], done.left_error) == ([], [1], "413: too much")


def test_a_failure_on_the_way_leaves_exactly_the_rest():
    done = run(Cloud(bytes_max=2500, fail_at=[5]), records(100), [LOSS])
    assert done.sent == list(range(1, 26))
    assert [record.seq for record in done.left] == list(range(26, 101))
    assert (done.losses, done.losses_left) == ([], (LOSS,))
    assert done.left_error == "reset"


def test_bad_losses_quarantine_no_prediction():
    cloud = Cloud(losses_bad=True)
    done = run(cloud, records(10), [LOSS])
    assert (done.sent, done.refused, done.losses_left) == (list(range(1, 11)), [], (LOSS,))
    assert len(cloud.posts) == 3


def test_more_losses_than_one_post_takes_travel_in_several():
    losses = [wire.Loss(n, n, "evicted") for n in range(1, 2502)]
    cloud = Cloud()
    done = run(cloud, records(3), losses)
    assert [len(piece.losses) for piece in cloud.posts] == [1000, 1000, 501]
    assert done.losses == losses


@given(data=st.data(), count=st.integers(0, 120), size=st.integers(1, 200))
def test_whatever_is_answered_every_record_ends_in_exactly_one_place(data, count, size):
    batch = records(count, size)
    bad = data.draw(st.sets(st.integers(1, 120), max_size=8))
    cloud = Cloud(
        bad=bad,
        bytes_max=data.draw(st.one_of(st.just(math.inf), st.integers(1, 30_000))),
        losses_bad=data.draw(st.booleans()),
        fail_at=data.draw(st.sets(st.integers(1, 40), max_size=2)),
        ours=data.draw(st.booleans()),
    )
    losses = [LOSS] if data.draw(st.booleans()) else []
    done = run(cloud, batch, losses)
    refused = [seq for seq, _ in done.refused]
    left = [record.seq for record in done.left]
    assert sorted([*done.sent, *refused, *left]) == list(range(1, count + 1))
    assert sorted([*done.losses, *done.losses_left], key=repr) == sorted(losses, key=repr)
    assert sorted(cloud.stored) == sorted(done.sent), "sent is what the cloud confirmed, once"
    if cloud.bytes_max == math.inf:
        assert set(refused) <= bad
        if done.trouble is None:
            assert set(refused) == bad & set(range(1, count + 1))


@given(count=st.integers(2, 1000), bad=st.sets(st.integers(1, 1000), min_size=1, max_size=5))
def test_a_bad_record_costs_at_most_two_log_n_posts(count, bad):
    cloud = Cloud(bad=bad & set(range(1, count + 1)))
    run(cloud, records(count, 1))
    assert len(cloud.posts) - 1 <= 2 * math.log2(count) * len(cloud.bad)


@pytest.mark.parametrize(
    ("told", "most"),
    [(None, 1000), ("4000", 4000), ("250", 250), ("0", 1), ("9" * 30, 4000), ("many", 1000), ("-5", 1000), ("²", 1000)],
)
def test_how_many_the_cloud_takes_is_what_it_said_last(told, most):
    room = Room(records_max=2000)
    headers = {} if told is None else {BATCH_MAX: told}
    room.heed(headers)
    assert room.records_max == 2000, "an answer that is not our cloud's says nothing"
    room.heed({MARK: "1", **headers})
    assert room.records_max == most


def test_no_piece_holds_more_than_the_cloud_takes():
    cloud = Cloud()
    assert run(cloud, records(3000)).sent == list(range(1, 3001))
    assert [len(piece.records) for piece in cloud.posts] == [1000, 1000, 1000]
    cloud = Cloud()
    run(cloud, records(3000), [LOSS], room=Room(records_max=4000))
    assert [len(piece.records) for piece in cloud.posts] == [3000]


def test_a_cloud_that_was_put_back_to_an_older_version_meanwhile_gets_what_that_takes():
    cloud, room, refused = Cloud(), Room(records_max=4000), []

    def older(piece):
        if len(piece.records) <= 1000:
            return cloud(piece)
        refused.append(len(piece.records))
        room.heed({MARK: "1"})
        return Verdict(Sense.TOO_LARGE, "413: at most 1000 are taken at once", ours=True)

    assert run(older, records(3000), room=room).sent == list(range(1, 3001))
    assert max(len(piece.records) for piece in cloud.posts) <= 1000
    assert refused == [3000], "once is enough"
