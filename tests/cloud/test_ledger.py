"""What every ledger keeps, whatever database lies behind it: each test runs against both stores."""

import contextlib
import json
import random
import threading
from typing import Any

import attrs
import msgspec
import pytest
import trio

from cloud import wire
from cloud.ledger import (
    Conflict,
    ConflictPage,
    ConflictQuery,
    Ledger,
    LedgerBusy,
    LedgerUnavailable,
    Query,
    SeriesQuery,
    StatsQuery,
    StreamAudit,
    desk,
    postgres_read,
    sqlite_read,
)
from cloud.ledger.sqlite import SqliteLedger, open_ledger
from tests.cloud.world import NOON, batch

DAY = 86_400.0


async def audit_of(ledger: Ledger, device: str = "cam") -> StreamAudit:
    """The account of a device that has one stream."""
    (found,) = await ledger.audit(device) or ()
    return found


async def every(ledger: Ledger, **asked) -> list[int]:
    """The numbers of all predictions that a question finds."""
    page = await ledger.predictions(Query(limit=5000, **asked))
    return [json.loads(item.payload)["seq"] for item in page.items]


def is_busy(ledger: Ledger) -> bool:
    """A call, since a type checker takes a property for a constant."""
    return ledger.busy


async def test_the_largest_number_is_stored_and_repeated_without_harm(opened):
    async with opened() as ledger:
        for accepted in (1, 0):
            answer = await ledger.ingest(batch(wire.SEQ_MAX, losses=[(1, wire.SEQ_MAX, "evicted")]))
            assert (answer.accepted, answer.duplicates) == (accepted, 1 - accepted)
        audit = await audit_of(ledger)
        assert (audit.missing, audit.explained) == (wire.SEQ_MAX - 1, wire.SEQ_MAX - 1)


async def test_requests_that_wait_together_share_a_commit(opened):
    async with opened() as ledger:
        async with trio.open_nursery() as nursery:
            for n in range(50):
                nursery.start_soon(ledger.ingest, batch(n + 1))
        audit = await audit_of(ledger)
        assert audit.stored == 50
        assert ledger.commits == 1


async def test_the_same_number_in_requests_of_one_commit_is_stored_once(opened):
    async with opened() as ledger:
        answers = []

        async def send():
            answers.append(await ledger.ingest(batch(1, 2)))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(send)
        assert ledger.commits == 1
        assert sorted(answer.accepted for answer in answers) == [0, 0, 0, 0, 2]
        assert (await ledger.stats()).total.total_predictions == 2


async def test_too_many_waiting_requests_are_turned_away_at_once_and_the_others_stored(opened):
    async with opened(waiting_max=3) as ledger:
        refused = 0
        async with trio.open_nursery() as nursery:
            for n in range(3):
                nursery.start_soon(ledger.ingest, batch(n + 1))
            while not is_busy(ledger):
                await trio.lowlevel.checkpoint()
            with pytest.raises(LedgerBusy):
                await ledger.ingest(batch(4))
            refused += 1
        assert not is_busy(ledger)
        assert (await ledger.ingest(batch(4))).accepted == 1


async def test_waiting_bytes_are_bounded_too(opened):
    async with opened(waiting_bytes_max=100) as ledger:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledger.ingest, batch(1))
            while not is_busy(ledger):
                await trio.lowlevel.checkpoint()
            with pytest.raises(LedgerBusy):
                await ledger.ingest(batch(2))
        assert not is_busy(ledger)


async def test_an_asker_that_goes_away_leaves_neither_a_hole_nor_a_lasting_place_in_the_queue(opened):
    async with opened(waiting_max=1) as ledger:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledger.ingest, batch(1))
            while not is_busy(ledger):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        with trio.fail_after(30):
            while is_busy(ledger):
                await trio.lowlevel.checkpoint()
        assert (await ledger.ingest(batch(1))).duplicates == 1


async def test_statistics_count_each_prediction_once_by_hour_minute_device_and_model(opened):
    async with opened(now=lambda: NOON + 120) as ledger:
        for _ in range(3):
            await ledger.ingest(batch(1, 2, received_at=NOON + 5, defect_detected=True))
            # Repeats beside one that is new.
            await ledger.ingest(batch(1, 2, 3, received_at=NOON + 5, defect_detected=True))
            await ledger.ingest(batch(1, device="cam2", received_at=NOON + 9, inference_time_ms=300.0))
            await ledger.ingest(batch(4, received_at=NOON + 90, timestamp=NOON + 60, model_name="m2"))
        stats = await ledger.stats()
        assert {name: tally.total_predictions for name, tally in stats.by_edge_device.items()} == {"cam": 4, "cam2": 1}
        assert {name: tally.defects_detected for name, tally in stats.by_model.items()} == {"m": 3, "m2": 0}
        assert (stats.whole.lateness_max_s, stats.whole.lateness_mean_s) == (30.0, (3 * 5 + 9 + 30) / 5)
        assert stats.whole.inference_mean_ms == (4 * 45.0 + 300.0) / 5
        picked = await ledger.stats(StatsQuery(since=NOON + 60))
        assert (picked.since, picked.total.total_predictions) == (NOON // 60 * 60 + 60, 1)
        assert (await ledger.stats(StatsQuery(edge_device_id="cam", model_name="m"))).total.total_predictions == 3
        assert (await ledger.stats(StatsQuery(edge_device_id="nobody"))).whole.inference_p50_ms is None
        assert (await ledger.stats(StatsQuery(until=NOON - 7200))).by_model == {}
        buckets = await ledger.series(SeriesQuery(NOON - 60, NOON + 120, 60, edge_device_id="cam"))
        assert [(bucket.start - NOON // 60 * 60, bucket.predictions) for bucket in buckets] == [
            (-60, 0), (0, 3), (60, 1), (120, 0),
        ]  # fmt: skip
        hours = await ledger.series(SeriesQuery(NOON - 7200, NOON + 1, 7200))
        assert sum(bucket.predictions for bucket in hours) == 5


async def test_an_export_brings_everything_once_in_chunks_while_predictions_arrive(opened):
    async with opened() as ledger:
        for n in range(1, 24):
            await ledger.ingest(batch(n, timestamp=NOON + n // 4))
        seen = []
        async with contextlib.aclosing(ledger.export(Query(limit=5, since=NOON + 1))) as chunks:
            async for chunk in chunks:
                assert 0 < len(chunk) <= 5
                seen += [json.loads(item.payload)["seq"] for item in chunk]
                await ledger.ingest(batch(100 + len(seen), timestamp=NOON + 1000))
        assert sorted(seen) == list(range(4, 24))
        assert [n // 4 for n in seen] == sorted((n // 4 for n in seen), reverse=True)
        async with contextlib.aclosing(ledger.export(Query(edge_device_id="nobody"))) as chunks:
            assert [chunk async for chunk in chunks] == []


async def test_the_fleet_table_knows_the_rate_the_lateness_and_the_gaps_of_every_device(opened):
    at = [NOON + 10]
    async with opened(now=lambda: at[0]) as ledger:
        await ledger.ingest(batch(1, 5, received_at=at[0], losses=[(2, 3, "evicted")], defect_detected=True))
        await ledger.ingest(batch(device="idle", received_at=at[0]))
        cam, idle = await ledger.devices()
        assert (cam.missing, cam.unexplained, cam.last_lateness_s) == (3, 1, 10.0)
        assert (cam.last_hour.total_predictions, cam.last_hour.defects_detected) == (2, 2)
        assert (idle.missing, idle.unexplained, idle.last_lateness_s, idle.tally.total_predictions) == (0, 0, None, 0)
        await ledger.ingest(batch(2, 4, received_at=at[0], timestamp=0.0))
        at[0] += 3700
        await ledger.ingest(batch(received_at=at[0]))
        cam, _ = await ledger.devices()
        assert (cam.missing, cam.unexplained, cam.last_lateness_s) == (1, 0, None)
        assert (cam.last_hour.total_predictions, cam.tally.total_predictions) == (0, 4)


async def test_closing_commits_what_still_waits(opened):
    answers = []

    async def send(ledger, n):
        answers.append(await ledger.ingest(batch(n)))

    async with trio.open_nursery() as nursery, opened() as ledger:
        for n in range(1, 6):
            nursery.start_soon(send, ledger, n)
        while ledger._queue.waiting < 5:
            await trio.lowlevel.checkpoint()
    assert [answer.accepted for answer in answers] == [1] * 5


async def test_a_thread_that_hangs_in_the_store_is_left_behind(opened, monkeypatch):
    """Whoever asks whether the store answers is told that it does not, and the others are still served."""
    released = threading.Event()
    sqlite = opened.func is open_ledger
    async with opened(**({"run_sync": None} if sqlite else {})) as ledger:
        await ledger.ingest(batch(1))
        with monkeypatch.context() as patched:
            patched.setattr(desk, "CHECK_S_MAX", 0.05)
            patched.setattr(sqlite_read if sqlite else postgres_read, "check", lambda _: released.wait())
            for _ in range(3):
                with pytest.raises(LedgerUnavailable, match="not answered"):
                    await ledger.check()
            assert (await ledger.stats()).total.total_predictions == 1
            assert (await ledger.ingest(batch(2))).accepted == 1
            released.set()
        await ledger.check()


async def test_a_restart_remembers_every_number(opened):
    async with opened() as ledger:
        await ledger.ingest(batch(1, 2, 5, losses=[(3, 3, "evicted")]))
        before = await ledger.audit("cam")
    async with opened() as ledger:
        assert await ledger.audit("cam") == before
        assert (await ledger.ingest(batch(2, 4))).duplicates == 1
        audit = await audit_of(ledger)
        assert (audit.missing, audit.unexplained) == (1, 0)


@pytest.mark.parametrize("seed", range(3))
async def test_the_audit_names_exactly_the_numbers_that_are_missing_and_why(opened, seed):
    """Against a model of sets: whatever is repeated, out of order or explained before it came after all."""
    rng = random.Random(seed)
    print(f"seed {seed}")
    stored: set[int] = set()
    reasons: dict[int, str] = {}
    duplicates = 0

    async def post() -> None:
        nonlocal duplicates, stored, reasons
        sent = [rng.randint(1, 40) for _ in range(rng.randint(0, 6))]
        losses = [
            (low, low + rng.randint(0, 5), rng.choice(["evicted", "expired"]))
            for low in (rng.randint(1, 40) for _ in range(rng.randint(0, 2)))
        ]
        before = set(stored)
        stored |= set(sent)
        for low, high, reason in losses:
            reasons |= dict.fromkeys(range(low, high + 1), reason)
        answer = await ledger.ingest(batch(*sent, losses=losses))
        assert answer.counts() == len(sent)
        assert answer.accepted == len(set(sent) - before)
        duplicates += answer.duplicates

    async with opened(now=lambda: NOON) as ledger:
        for _ in range(15):
            # Those of one moment share a commit, in the order in which they came.
            async with trio.open_nursery() as nursery:
                for _ in range(rng.randint(1, 3)):
                    nursery.start_soon(post)
                    await trio.lowlevel.checkpoint()
            audit = await audit_of(ledger)
            last = max([0, *stored, *reasons])
            missing = {n: reasons.get(n) for n in range(1, last + 1) if n not in stored}
            assert {n: gap.reason for gap in audit.gaps for n in range(gap.from_seq, gap.to_seq + 1)} == missing
            assert (audit.last_seq, audit.stored, audit.missing) == (last, len(stored), len(missing))
            assert audit.duplicates == duplicates
            (device,) = await ledger.devices()
            assert (device.missing, device.unexplained) == (audit.missing, audit.unexplained), "the sums of the stream"
            assert (await ledger.stats()).total.total_predictions == len(stored)
        assert sorted(await every(ledger)) == sorted(stored)


async def test_a_number_with_another_payload_is_a_conflict_also_within_one_commit(opened):
    def other(seq):
        return attrs.evolve(batch(seq), records=(batch(seq).records[0]._replace(payload='{"seq":1,"other":true}'),))

    async with opened() as ledger:
        await ledger.ingest(batch(1))
        for _ in range(2):
            answer = await ledger.ingest(other(1))
            assert (answer.accepted, answer.duplicates, answer.conflicts, answer.conflicting) == (0, 0, 1, [1])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledger.ingest, batch(2))
            nursery.start_soon(ledger.ingest, other(2))
        audit = await audit_of(ledger)
        assert (audit.conflicts, audit.duplicates, audit.stored) == (2, 0, 2)
        assert len(await every(ledger)) == 2


async def test_conflicts_are_listed_by_stream_and_number_beside_what_is_stored(opened):
    at = [NOON]
    async with opened(now=lambda: at[0]) as ledger:
        assert await ledger.conflicts(ConflictQuery("cam")) is None
        await ledger.ingest(batch(*range(1, 8), stream="s\0"))
        assert await ledger.conflicts(ConflictQuery("cam")) == ConflictPage((), None)
        other = batch(9, stream="s0")
        for _ in range(2):
            await ledger.ingest(other)
            for n in range(1, 8):
                (record,) = batch(n).records
                changed = record._replace(payload=f'{{"seq":{n},"other":1}}')
                await ledger.ingest(attrs.evolve(batch(stream="s\0", received_at=NOON + 1), records=(changed,)))
        await ledger.ingest(attrs.evolve(other, records=(other.records[0]._replace(payload="{}"),)))
        await ledger.ingest(batch(1, device="nobody else's"))
        found: list[Conflict] = []
        cursor = None
        while True:
            page = await ledger.conflicts(ConflictQuery("cam", limit=3, cursor=cursor))
            found += page.items
            cursor = page.next_cursor
            if cursor is None:
                break
            assert len(page.items) == 3
        assert [(c.stream_id, c.seq) for c in found] == [*(("s\0", n) for n in range(1, 8)), ("s0", 9)]
        assert found[0] == Conflict("s\0", 1, NOON + 1, '{"seq":1}', '{"seq":1,"other":1}')
        at[0] += 200 * DAY
        await ledger.sweep_once(90 * DAY)
        assert await ledger.conflicts(ConflictQuery("cam")) == ConflictPage((), None), "kept as long as predictions"


async def test_what_has_no_number_is_stored_as_often_as_it_comes(opened):
    async with opened() as ledger:
        for _ in range(2):
            answer = await ledger.ingest(batch(None, stream=None))
            assert (answer.accepted, answer.delivery) == (1, "at-least-once")
        audit = await audit_of(ledger)
        assert (audit.stream_id, audit.unnumbered, audit.stored) == (None, 2, 0)


async def test_refusals_are_explained_and_counted_once(opened):
    async with opened() as ledger:
        for _ in range(2):
            await ledger.ingest(batch(1, 3, rejected=[(2, "bad"), (None, "worse")]))
        audit = await audit_of(ledger)
        assert (audit.rejected, audit.missing, audit.unexplained) == (3, 1, 0)
        assert audit.gaps[0].reason == "rejected: bad"


async def test_a_healthy_stream_takes_one_range_however_long_it_runs(opened):
    async with opened() as ledger:
        for n in range(1, 200, 10):
            await ledger.ingest(batch(*range(n, n + 10)))
        audit = await audit_of(ledger)
        assert (audit.stored, audit.last_seq, audit.gaps) == (199 + 1, 200, ())
        assert await ranges_of(ledger) == 1


async def ranges_of(ledger) -> int:
    """How many rows the ranges take, whichever store it is."""
    count = "SELECT count(*) FROM stored_ranges"
    if isinstance(ledger, SqliteLedger):
        return int(ledger._files.reading.execute(count).fetchone()[0])
    return int(await ledger._read(lambda db: db.execute(count).fetchone()[0]))


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, [6, 5, 4, 3, 2, 1]),
        ({"edge_device_id": "cam"}, [4, 3, 2, 1]),
        ({"edge_device_id": "nobody"}, []),
        ({"model_name": "m2"}, [5]),
        ({"model_version": "v9"}, [6]),
        ({"defect_detected": True}, [4, 2]),
        ({"defect_detected": False, "edge_device_id": "cam"}, [3, 1]),
        ({"class_name": 'a "quoted" one'}, [4]),
        ({"class_name": "scratch"}, [4, 2]),
        ({"since": NOON + 2, "until": NOON + 5}, [4, 3, 2]),
    ],
)
async def test_each_filter_finds_its_predictions_newest_first(opened, asked, found):
    async with opened() as ledger:
        two = '["a \\"quoted\\" one","scratch"]'
        for seq, device, more in (
            (2, "cam", {"classes": '["scratch"]', "defect_detected": True}),
            (1, "cam", {}),
            (4, "cam", {"classes": two, "defect_detected": True}),
            (3, "cam", {}),
            (5, "cam2", {"model_name": "m2"}),
            (6, "cam2", {"model_version": "v9"}),
        ):
            await ledger.ingest(batch(seq, device=device, timestamp=NOON + seq, **more))
        assert await every(ledger, **asked) == found


async def test_pages_neither_skip_nor_repeat_what_has_one_timestamp(opened):
    async with opened() as ledger:
        await ledger.ingest(batch(*range(1, 24)))
        seen: list[int] = []
        query = Query(limit=5)
        while True:
            page = await ledger.predictions(query)
            seen += [json.loads(item.payload)["seq"] for item in page.items]
            if page.next_cursor is None:
                break
            query = Query(limit=5, cursor=page.next_cursor)
            await ledger.ingest(batch(100 + len(seen), timestamp=NOON + 1000))
        assert sorted(seen) == list(range(1, 24))


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"class_name": "scratch"}, [60, 30]),
        ({"class_name": "dent"}, []),
        ({"model_name": "m2"}, [45]),
        ({"defect_detected": True, "edge_device_id": "cam"}, [60, 30]),
        ({"defect_detected": False, "class_name": "scratch"}, []),
        ({"defect_detected": True, "class_name": "dent"}, []),
    ],
)
async def test_what_no_index_serves_is_found_by_going_on_behind_a_page_that_looked_at_enough(
    opened, monkeypatch, asked, found
):
    monkeypatch.setattr("cloud.ledger.rows.SCAN_ROWS_MAX", 7)
    async with opened() as ledger:
        for seq in range(1, 71):
            # Ten of a moment: the cursor must go on between predictions that nothing but their number tells apart.
            record: dict[str, Any] = {
                "timestamp": NOON + seq // 10,
                "model_name": "m2" if seq == 45 else "m",
                "defect_detected": seq % 30 == 0,
                "classes": '["scratch"]' if seq % 30 == 0 else None,
            }
            await ledger.ingest(batch(seq, **record))
        seen: list[int] = []
        pages = 0
        query = Query(limit=5, **asked)
        while True:
            page = await ledger.predictions(query)
            pages += 1
            seen += [json.loads(item.payload)["seq"] for item in page.items]
            if page.next_cursor is None:
                break
            query = attrs.evolve(query, cursor=page.next_cursor)
        chunks = [chunk async for chunk in ledger.export(Query(limit=5, **asked))]
    assert seen == found
    assert [json.loads(item.payload)["seq"] for chunk in chunks for item in chunk] == found
    if asked != {"defect_detected": True, "class_name": "dent"}:  # Its walk goes along the few defects alone.
        assert pages == 11


async def test_retention_forgets_predictions_but_neither_their_numbers_nor_the_rollups(opened):
    at = [NOON]
    async with opened(now=lambda: at[0], retention_s=90 * DAY) as ledger:
        for start in range(1, 1200, 400):
            await ledger.ingest(batch(*range(start, start + 400), losses=[(1201, 1204, "evicted")]))
        at[0] += 89 * DAY
        await ledger.ingest(batch(1205, received_at=at[0], timestamp=at[0]))
        before = await ledger.audit("cam")
        await ledger.sweep_once(90 * DAY)
        assert len(await every(ledger)) == 1201
        # A store may drop a day at a time, once all of it is past.
        at[0] += 2 * DAY
        await ledger.sweep_once(90 * DAY)
        assert await every(ledger) == [1205]
        assert await ledger.audit("cam") == before
        assert (await ledger.stats()).total.total_predictions == 1201
        assert (await ledger.stats(StatsQuery(until=NOON + 3600))).total.total_predictions == 1200
        answer = await ledger.ingest(batch(7, 1200, received_at=at[0]))
        assert (answer.duplicates, answer.accepted) == (2, 0)
        assert (await ledger.ingest(batch(1206, received_at=at[0]))).accepted == 1


async def test_old_minutes_are_forgotten_and_their_hours_are_not(opened):
    at = [NOON]
    async with opened(now=lambda: at[0]) as ledger:
        await ledger.ingest(batch(1))
        at[0] += 48 * 3600
        await ledger.sweep_once(None)
        assert (await ledger.stats(StatsQuery(since=NOON))).since == NOON // 60 * 60
        assert (await ledger.stats(StatsQuery(since=NOON))).total.total_predictions == 1
        at[0] += 7200
        await ledger.sweep_once(None)
        assert sum(b.predictions for b in await ledger.series(SeriesQuery(NOON - 60, NOON + 60, 60))) == 0
        assert (await ledger.stats(StatsQuery(since=NOON))).total.total_predictions == 1


async def test_two_ledgers_on_one_store_do_not_store_a_number_twice(opened):
    answers = []

    async def send(ledger, n):
        answers.append(await ledger.ingest(batch(*range(n, n + 10))))

    async with opened() as one, opened() as other:
        async with trio.open_nursery() as nursery:
            for n in range(1, 100, 10):
                nursery.start_soon(send, one, n)
                nursery.start_soon(send, other, n)
        assert sum(answer.accepted for answer in answers) == 100
        assert sum(answer.duplicates for answer in answers) == 100
        assert (await one.stats()).total.total_predictions == 100
        assert len(await every(one)) == 100


@pytest.mark.parametrize("name", ['a"b', "a\\b", "{a,b}", "NULL", "", "a\0b", "é\n\t", "x" * 2_000])
async def test_a_class_is_found_whatever_its_name_is(opened, name):
    async with opened() as ledger:
        names = [[name, "other"], ["other", name], [name], ["a", "b"], [f",{name}"], [f'"{name}"', f"{name}\\"], None]
        for seq, listed in enumerate(names, 1):
            classes = None if listed is None else msgspec.json.encode(listed).decode()
            await ledger.ingest(batch(seq, classes=classes))
        assert sorted(await every(ledger, class_name=name)) == [1, 2, 3]
        assert await every(ledger, class_name=name, since=NOON + 1) == []


HOSTILE = {
    "a zero byte": {"device": "a\0b", "stream": "s\0", "model_name": "m\0\1", "model_version": "\1\0"},
    "the longest names": {
        "device": "\U0001f600" * 256, "stream": "\u00e9" * 256,
        "model_name": "\u4e2d" * 256, "model_version": "\U0001f4a9" * 256,
    },
    "quotes and percents": {"device": "%s';--", "stream": "{}", "model_name": "%(x)s", "model_version": '"'},
    "1970": {"timestamp": 0.0},
    "no year": {"timestamp": 1e300},
}  # fmt: skip


@pytest.mark.parametrize("names", HOSTILE.values(), ids=HOSTILE.keys())
async def test_hostile_names_and_times_are_stored_as_they_are(opened, names):
    async with opened(now=lambda: NOON) as ledger:
        for accepted in (1, 0):
            posted = batch(1, **names, classes='["c\\u0000"]', losses=[(2, 3, "x\0y")], rejected=[(4, "bad \0")])
            assert (await ledger.ingest(posted)).accepted == accepted
        device = names.get("device", "cam")
        (known,) = await ledger.devices()
        assert known.edge_device_id == device
        audit = await audit_of(ledger, device)
        assert (audit.stream_id, audit.stored, audit.duplicates) == (names.get("stream", "s1"), 1, 1)
        assert [gap.reason for gap in audit.gaps] == ["x\0y", "rejected: bad \0"]
        assert await every(ledger, edge_device_id=device) == [1]
        stats = await ledger.stats(StatsQuery(model_name=names.get("model_name", "m")))
        assert list(stats.by_model) == [names.get("model_name", "m")]
        assert list(stats.by_edge_device) == [device]
