"""The SQLite ledger: what it stores once, what it can name, what it keeps over a restart."""

import contextlib
import shutil
import sqlite3
from typing import Any

import attrs
import pytest
import sqlite_utils
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from cloud import intake
from cloud.ledger import (
    EVERYTHING,
    Cursor,
    LedgerUnavailable,
    LedgerUnusable,
    Query,
    StatsQuery,
    sqlite,
    sqlite_read,
    sqlite_write,
)
from cloud.ledger.lane import run_inline, thread_lane
from cloud.ledger.schema import ROLLUPS, migrate, steps
from cloud.ledger.sqlite import CHECKPOINT_PAUSE_S, MEMORY, _open, _transact, open_ledger
from tests.cloud.world import NOON, batch, envelope, payload

opened: dict[str, Any] = {"run_sync": run_inline, "synchronous": "OFF"}
seqs = st.integers(1, 30)
posts = st.lists(
    st.tuples(
        st.lists(seqs, max_size=8),
        st.lists(st.tuples(seqs, seqs, st.sampled_from(["evicted", "expired"])), max_size=2),
    ),
    max_size=12,
)


def connection() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    migrate(db)
    return db


@given(posts)
@settings(deadline=None)
def test_the_audit_names_exactly_the_numbers_that_are_missing_and_why(told):
    """Against a model of sets: whatever is repeated, out of order or explained before it came after all."""
    stored: set[int] = set()
    reasons: dict[int, str] = {}
    duplicates = 0
    with contextlib.closing(connection()) as db:
        for sent, lost in told:
            losses = [(min(a, b), max(a, b), reason) for a, b, reason in lost]
            (answer,) = sqlite_write.ingest_all(db, [batch(*sent, losses=losses)])
            assert answer.accepted == len(set(sent) - stored)
            assert answer.counts() == len(sent)
            duplicates += answer.duplicates
            stored |= set(sent)
            for low, high, reason in losses:
                reasons |= dict.fromkeys(range(low, high + 1), reason)
        audits = sqlite_read.audit(db, "cam")
        counters = db.execute("SELECT last_seq, stored, explained FROM streams").fetchone()
        stats = sqlite_read.stats(db, EVERYTHING, NOON)
        kept = db.execute("SELECT count(*), count(DISTINCT seq) FROM predictions").fetchone()
        ranges = db.execute("SELECT count(*) FROM stored_ranges").fetchone()[0]
    if not told:
        assert audits is None
        return
    (audit,) = audits or ()
    last = max([0, *stored, *reasons])
    missing = {n: reasons.get(n) for n in range(1, last + 1) if n not in stored}
    assert {n: gap.reason for gap in audit.gaps for n in range(gap.from_seq, gap.to_seq + 1)} == missing
    assert (audit.last_seq, audit.stored, audit.missing) == (last, len(stored), len(missing))
    assert audit.unexplained == sum(reason is None for reason in missing.values())
    assert audit.duplicates == duplicates
    assert counters == (audit.last_seq, audit.stored, audit.explained), "a stream's sums must be those of its ranges"
    assert (stats.total.total_predictions, sum(stats.inference_histogram)) == (len(stored), len(stored))
    assert kept == (len(stored), len(stored))
    assert ranges == sum(n - 1 not in stored for n in stored), "ranges that adjoin must be merged"


async def test_a_disk_that_refuses_a_commit_stores_nothing_and_says_so_until_it_is_back():
    async with open_ledger(MEMORY, **opened) as ledger:
        await ledger.ingest(batch(1))
        ledger._files.writing.execute("PRAGMA query_only = ON")
        with pytest.raises(LedgerUnavailable, match="readonly"):
            await ledger.ingest(batch(2))
        with pytest.raises(LedgerUnavailable, match="readonly"):
            await ledger.check()
        ledger._files.writing.execute("PRAGMA query_only = OFF")
        await ledger.check()
        assert (await ledger.ingest(batch(2))).accepted == 1
        (audit,) = await ledger.audit("cam") or ()
        assert (audit.stored, audit.duplicates) == (2, 0)


async def test_a_failure_in_the_middle_of_a_commit_takes_all_of_it_back(monkeypatch):
    async with open_ledger(MEMORY, **opened) as ledger:
        real = sqlite_write._close_streams

        def full(db, numbers, streams):
            if any(stream.book.explained for stream in streams.values()):
                raise sqlite3.OperationalError("database or disk is full")
            return real(db, numbers, streams)

        monkeypatch.setattr(sqlite_write, "_close_streams", full)
        with pytest.raises(LedgerUnavailable, match="disk is full"):
            await ledger.ingest(batch(1, 2, losses=[(3, 3, "evicted")]))
        assert await ledger.audit("cam") is None
        assert (await ledger.ingest(batch(1, 2))).accepted == 2


async def test_reads_do_not_wait_for_a_writer_and_see_only_what_is_committed(tmp_path):
    async with open_ledger(str(tmp_path / "cloud.db"), **opened) as ledger:
        await ledger.ingest(batch(1))
        ledger._files.writing.execute("BEGIN IMMEDIATE")
        sqlite_write.ingest_all(ledger._files.writing, [batch(2)])
        assert (await ledger.stats()).total.total_predictions == 1
        ledger._files.writing.execute("COMMIT")
        assert (await ledger.stats()).total.total_predictions == 2


async def test_retention_forgets_predictions_but_neither_their_numbers_nor_the_tallies(autojump_clock):
    clock = [NOON]
    day = 86_400.0
    async with open_ledger(
        MEMORY, **opened, now=lambda: clock[0], retention_s=90 * day, sweep_interval_s=3600.0
    ) as ledger:
        for start in range(1, 2001, 500):
            await ledger.ingest(batch(*range(start, start + 500)))
        clock[0] += 89 * day
        await ledger.ingest(batch(2002, received_at=clock[0]))
        before = await ledger.audit("cam")
        await trio.sleep(5000)
        assert len((await ledger.predictions(Query(limit=3000))).items) == 2001
        clock[0] += 2 * day
        await trio.sleep(3600)
        assert len((await ledger.predictions(Query(limit=3000))).items) == 1
        assert await ledger.audit("cam") == before
        assert (await ledger.stats()).total.total_predictions == 2001
        assert (await ledger.ingest(batch(7, 2001))).duplicates == 1


async def test_old_minutes_are_forgotten_and_their_hours_are_not(autojump_clock):
    at = [NOON]
    async with open_ledger(MEMORY, **opened, now=lambda: at[0], sweep_interval_s=3600.0) as ledger:
        await ledger.ingest(batch(1))
        rows = "SELECT grain_s FROM rollups ORDER BY 1"
        assert ledger._files.reading.execute(rows).fetchall() == [(0,), (60,), (3600,)]
        at[0] += 48 * 3600
        await trio.sleep(5000)
        assert (await ledger.stats(StatsQuery(since=NOON))).total.total_predictions == 1
        at[0] += 7200
        await trio.sleep(3600)
        assert ledger._files.reading.execute(rows).fetchall() == [(0,), (3600,)]
        assert (await ledger.stats(StatsQuery(since=NOON))).total.total_predictions == 1


def test_what_an_older_version_stored_is_in_the_rollups_and_in_the_sums_of_its_streams():
    """A file of version 1, whose retention had dropped a prediction already, must count as if it were ingested now."""
    with (
        contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as old,
        contextlib.closing(connection()) as new,
    ):
        steps.apply(sqlite_utils.Database(old, execute_plugins=False), stop_before=ROLLUPS)
        old.execute("INSERT INTO devices VALUES (1, 'cam', ?, ?, 0, NULL)", (NOON, NOON))
        old.execute("INSERT INTO streams (stream_no, device_no, stream_id) VALUES (1, 1, 's1')")
        old.execute("INSERT INTO models VALUES (1, 'yolov8-defect', 'v1.0')")
        old.execute("INSERT INTO tallies VALUES (1, 1, 4, 3)")
        old.executemany("INSERT INTO stored_ranges VALUES (1, ?, ?)", [(1, 3), (7, 7)])
        old.executemany("INSERT INTO explained_ranges VALUES (1, ?, ?, 'evicted')", [(3, 4), (7, 8)])
        for seq in (2, 3, 7):
            row = (
                1,
                1,
                1,
                seq,
                NOON + seq * 100,
                NOON + 900,
                seq == 7,
                True,
                None,
                payload(seq, inference_time_ms=seq),
            )
            old.execute(sqlite_write.INSERT, (*row[:9], row[9].decode()))
        migrate(old)
        for seqs, late in (((2, 3), False), ((7,), True)):
            body = envelope(*(payload(n, inference_time_ms=n, timestamp=NOON + n * 100) for n in seqs), late=late)
            sqlite_write.ingest_all(new, [intake.check_batch(intake.open_body(body, ""), NOON + 900)])
        rows = "SELECT * FROM rollups WHERE grain_s > 0 ORDER BY grain_s, start"
        assert old.execute(rows).fetchall() == new.execute(rows).fetchall()
        stats = sqlite_read.stats(old, EVERYTHING, NOON)
        assert (stats.total.total_predictions, stats.total.defects_detected, stats.whole.late) == (4, 3, 1)
        assert old.execute("SELECT last_seq, stored, explained FROM streams").fetchall() == [(8, 4, 2)]


async def test_folders_that_are_made_for_it_are_for_its_user_alone(tmp_path):
    """The device keeps its buffer there too, and finds fault with a folder that anybody may enter."""
    path = tmp_path / "state" / "holdfast" / "cloud.db"
    async with open_ledger(str(path), **opened):
        assert [folder.stat().st_mode & 0o777 for folder in (path.parent, path.parents[1])] == [0o700, 0o700]


async def test_two_ledgers_on_one_file_do_not_store_a_number_twice(tmp_path):
    path = str(tmp_path / "cloud.db")
    answers = []

    async def send(ledger, n):
        answers.append(await ledger.ingest(batch(*range(n, n + 10))))

    async with open_ledger(path, synchronous="OFF") as one, open_ledger(path, run_sync=thread_lane()) as other:
        async with trio.open_nursery() as nursery:
            for n in range(1, 100, 10):
                nursery.start_soon(send, one, n)
                nursery.start_soon(send, other, n)
        assert sum(answer.accepted for answer in answers) == 100
        assert sum(answer.duplicates for answer in answers) == 100
        assert (await one.stats()).total.total_predictions == 100


async def test_a_question_that_takes_too_long_gives_up_its_lane_and_a_commit_does_not(monkeypatch):
    monkeypatch.setattr(sqlite, "QUESTION_S_MAX", -1.0)
    monkeypatch.setattr(sqlite, "STEPS_A_LOOK", 1)
    async with open_ledger(MEMORY, **opened) as ledger:
        assert (await ledger.ingest(batch(1))).accepted == 1
        with pytest.raises(LedgerUnavailable, match="took more than"):
            await ledger.stats()
        monkeypatch.undo()
        assert (await ledger.stats()).total.total_predictions == 1


async def test_who_still_asks_when_the_ledger_is_cancelled_is_told_and_not_left_waiting():
    async def stuck(function, /, *args, **kwargs):
        if function is _transact:
            await trio.sleep_forever()
        return function(*args, **kwargs)

    async def ask(ledger, n):
        with pytest.raises(LedgerUnavailable):
            await ledger.ingest(batch(n))

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with open_ledger(MEMORY, run_sync=stuck) as ledger:
                for n in range(1, 200):
                    nursery.start_soon(ask, ledger, n)
                await wait_all_tasks_blocked()
                scope.cancel()
                await trio.lowlevel.checkpoint()


async def test_processes_that_start_together_on_a_new_file_agree_on_its_tables(tmp_path):
    for n in range(5):
        async with trio.open_nursery() as nursery:
            for _ in range(4):

                async def start(path):
                    files = await trio.to_thread.run_sync(_open, path, "OFF")
                    for db in attrs.astuple(files):
                        db.close()

                nursery.start_soon(start, str(tmp_path / f"{n}.db"))


async def test_a_file_that_is_no_ledger_is_refused_with_its_name(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("these are not the tables you are looking for " * 100)
    with pytest.raises(LedgerUnusable, match=r"notes\.txt.*not a database"):
        async with open_ledger(str(path), **opened):
            pass
    assert path.read_text().startswith("these")


async def test_a_ledger_of_a_newer_version_is_left_alone(tmp_path):
    path = str(tmp_path / "cloud.db")
    async with open_ledger(path, **opened) as ledger:
        ledger._files.writing.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('holdfast_cloud', '9_later', '')"
        )
    with pytest.raises(LedgerUnusable, match="9_later"):
        async with open_ledger(path, **opened):
            pass


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (Query(), "predictions_by_time"),
        (Query(since=1.0, until=2.0), "predictions_by_time (timestamp>? AND timestamp<?)"),
        (Query(edge_device_id="cam"), "predictions_by_device (device_no=?)"),
        (Query(edge_device_id="cam", since=1.0), "predictions_by_device (device_no=? AND timestamp>?)"),
        (Query(defect_detected=True), "predictions_with_defect"),
        (Query(cursor=Cursor(1.0, 5)), "predictions_by_time ("),
        (Query(class_name="scratch"), "predictions_by_time"),
    ],
)
def test_no_filter_sorts_the_table(query, index):
    served, others = sqlite_read._asked(query)
    with contextlib.closing(connection()) as db:
        for asked, statement in (([*served, *others], sqlite_read._PREDICTIONS), (served, sqlite_read._FLOOR)):
            where, values = sqlite_read._where(asked)
            plan = [row[3] for row in db.execute("EXPLAIN QUERY PLAN " + statement.format(where=where), (*values, 100))]
            assert any(index in step for step in plan), plan
            assert not any("TEMP B-TREE" in step for step in plan), plan


async def test_what_is_committed_goes_into_the_file_beside_the_commits(tmp_path, autojump_clock):
    """A commit that had to wait for it would take ten times as long as its neighbours."""
    path = tmp_path / "cloud.db"
    async with open_ledger(str(path), **opened) as ledger:
        for first in (1, 101):
            await ledger.ingest(batch(*range(first, first + 100)))
            await trio.sleep(2 * CHECKPOINT_PAUSE_S)
            # The file without its log, as a reader of it alone would find it.
            alone = shutil.copy(path, tmp_path / f"alone-{first}.db")
            with contextlib.closing(sqlite3.connect(f"file:{alone}?immutable=1", uri=True)) as db:
                assert db.execute("SELECT count(*) FROM predictions").fetchone() == (first + 99,)
        quiet_from = trio.current_time()
        await trio.sleep(1_000)
        assert trio.current_time() == quiet_from + 1_000


async def test_a_checkpoint_that_fails_is_tried_again_after_the_next_commit(tmp_path, autojump_clock, monkeypatch):
    path = tmp_path / "cloud.db"
    tries: list[float] = []

    def refuse(db: sqlite3.Connection) -> None:
        tries.append(trio.current_time())
        raise LedgerUnavailable("the disk is full")

    monkeypatch.setattr("cloud.ledger.sqlite._checkpoint", refuse)
    async with open_ledger(str(path), **opened) as ledger:
        began = trio.current_time()
        for number in (1, 2):
            assert (await ledger.ingest(batch(number))).accepted == 1
            await trio.sleep(5 * CHECKPOINT_PAUSE_S)
    assert [moment - began for moment in tries] == [0.0, 5 * CHECKPOINT_PAUSE_S]


async def test_a_filter_without_a_match_costs_the_same_however_much_is_stored(tmp_path, monkeypatch):
    monkeypatch.setattr("cloud.ledger.rows.SCAN_ROWS_MAX", 50)
    steps: list[int] = []
    async with open_ledger(str(tmp_path / "cloud.db"), **opened) as ledger:
        db = ledger._files.reading
        for first in (1, 501, 1_001):
            more = batch(*range(first, first + 500), classes='["scratch"]')
            records = tuple(record._replace(timestamp=NOON + (record.seq or 0)) for record in more.records)
            await ledger.ingest(attrs.evolve(more, records=records))
            taken = [0]

            def count(taken: list[int] = taken) -> int:
                taken[0] += 1
                return 0

            db.set_progress_handler(count, 1)
            sqlite_read.predictions(db, Query(class_name="dent"))
            db.set_progress_handler(None, 0)
            steps.append(taken[0])
    assert steps[0] > 0
    assert max(steps) <= min(steps) * 1.2, steps
