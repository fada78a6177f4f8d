"""What only a server can do to a ledger: go away, come back, be shared, and work on two commits at a time."""

import threading
from functools import partial

import attrs
import msgspec
import psycopg
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from chaos.postgres import postgres
from cloud.ledger import (
    Batch,
    Cursor,
    LedgerBusy,
    LedgerUnavailable,
    LedgerUnusable,
    Query,
    postgres_read,
    postgres_write,
)
from cloud.ledger.postgres import _open, open_postgres
from cloud.ledger.postgres_schema import DAYS_AHEAD, STEPS, day_of, stored_days
from cloud.ledger.postgres_text import pack, unpack
from cloud.ledger.queue import GATHER_RECORDS_MAX
from tests.cloud.world import NOON, batch
from tests.places import MEMORY_DISK

DAY = 86_400.0


def large(number: int, *, device: str = "cam") -> Batch:
    """One that is stored beside others; each number stands for other predictions."""
    size = GATHER_RECORDS_MAX + 1
    return batch(*range(number * size + 1, (number + 1) * size + 1), device=device)


@given(st.text(alphabet="\0\1\2a"), st.text(alphabet="\0\1\2a"))
def test_names_are_packed_without_a_zero_character_and_stay_different(name, other):
    assert unpack(pack(name)) == name
    assert "\0" not in pack(name)
    assert (pack(name) == pack(other)) == (name == other)


async def test_while_the_server_is_away_nothing_is_promised_and_afterwards_all_is_there():
    with postgres("fsync=off", folder=MEMORY_DISK) as server:
        async with open_postgres(server.url(), now=lambda: NOON) as ledger:
            await ledger.ingest(batch(1))
            await trio.to_thread.run_sync(server.stop)
            for call in (partial(ledger.ingest, batch(2)), ledger.check, ledger.stats):
                with pytest.raises(LedgerUnavailable, match="PostgreSQL"):
                    await call()
            await trio.to_thread.run_sync(server.start)
            with trio.fail_after(60):
                while True:
                    try:
                        await ledger.check()
                        break
                    except LedgerUnavailable:
                        await trio.sleep(0.1)
            answer = await ledger.ingest(batch(1, 2))
            assert (answer.accepted, answer.duplicates) == (1, 1)


async def test_connections_that_the_server_cut_are_replaced_before_anybody_notices(database, monkeypatch):
    monkeypatch.setattr("cloud.ledger.postgres.WAIT_S_MAX", 30.0)  # A busy machine connects slowly.
    async with open_postgres(database, now=lambda: NOON) as ledger:
        await ledger.ingest(batch(1))
        for n in range(2, 5):
            with psycopg.connect(database) as db:
                db.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            assert (await ledger.ingest(batch(n))).accepted == 1


async def test_replicas_that_start_together_agree_on_the_tables(database):
    async def start():
        pool = await trio.to_thread.run_sync(_open, database, "here", NOON)
        await trio.to_thread.run_sync(pool.close)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(start)
    with psycopg.connect(database) as db:
        assert db.execute("SELECT name FROM holdfast_steps").fetchall() == [(name,) for name in STEPS]


async def test_a_transaction_that_the_server_gave_up_for_another_one_is_begun_anew(database, monkeypatch):
    real, tries = postgres_write.ingest_all, []

    def unlucky(db, batches):
        answers = real(db, batches)
        tries.append(answers)
        if len(tries) < 3:
            raise psycopg.errors.DeadlockDetected("deadlock detected")
        return answers

    monkeypatch.setattr(postgres_write, "ingest_all", unlucky)
    async with open_postgres(database, now=lambda: NOON) as ledger:
        assert (await ledger.ingest(batch(1, 2))).accepted == 2
        assert len(tries) == 3
        assert (await ledger.stats()).total.total_predictions == 2


@pytest.mark.parametrize("size", [1, GATHER_RECORDS_MAX + 1], ids=["small", "large"])
async def test_replicas_that_store_for_the_same_devices_crosswise_do_not_deadlock(database, size):
    async def send(ledger, order):
        for n in range(1, 9):
            async with trio.open_nursery() as nursery:
                for device in order:
                    seqs = range((n - 1) * size + 1, (n + 1) * size + 1)
                    nursery.start_soon(ledger.ingest, batch(*seqs, device=device))

    devices = [f"cam{n}" for n in range(6)]
    async with open_postgres(database, now=lambda: NOON) as one, open_postgres(database, now=lambda: NOON) as other:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, one, devices)
            nursery.start_soon(send, other, devices[::-1])
        assert (await one.stats()).total.total_predictions == 6 * 9 * size
        with psycopg.connect(database) as db:
            seen = db.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()
    assert seen == (0,)


async def test_large_batches_of_two_devices_are_stored_at_the_same_time(database, monkeypatch):
    real, both = postgres_write.ingest_all, threading.Barrier(2, timeout=30)

    def meet(db, batches):
        both.wait()
        return real(db, batches)

    monkeypatch.setattr(postgres_write, "ingest_all", meet)
    async with open_postgres(database, now=lambda: NOON) as ledger:
        for number in range(3):
            async with trio.open_nursery() as nursery:
                for device in ("cam", "other"):
                    nursery.start_soon(ledger.ingest, large(number, device=device))
        assert ledger.commits == 6
        for device in ("cam", "other"):
            (audit,) = await ledger.audit(device) or ()
            assert (audit.stored, audit.missing, audit.duplicates) == (3 * (GATHER_RECORDS_MAX + 1), 0, 0)


async def test_large_batches_of_one_device_follow_each_other(database, monkeypatch):
    """At the same time one would only wait for the other's row, and keep others from being stored."""
    real, seen = postgres_write.ingest_all, []
    under_way: set[str] = set()

    def note(db, batches):
        devices = {batch.device_id for batch in batches}
        seen.append(devices & under_way)
        under_way.update(devices)
        answers = real(db, batches)
        under_way.difference_update(devices)
        return answers

    monkeypatch.setattr(postgres_write, "ingest_all", note)
    async with open_postgres(database, now=lambda: NOON) as ledger:
        async with trio.open_nursery() as nursery:
            for number in range(6):
                for device in ("cam", "other", "third"):
                    nursery.start_soon(ledger.ingest, large(number, device=device))
        assert (await ledger.stats()).total.total_predictions == 18 * (GATHER_RECORDS_MAX + 1)
    assert seen == [set()] * len(seen)


async def test_batches_that_wait_beside_each_other_are_bounded_together(database):
    async with open_postgres(database, now=lambda: NOON, waiting_max=3) as ledger:
        async with trio.open_nursery() as nursery:
            for waiting in (large(0), large(0, device="other"), batch(1, device="third")):
                nursery.start_soon(ledger.ingest, waiting)
            while not ledger.busy:
                await trio.lowlevel.checkpoint()
            with pytest.raises(LedgerBusy):
                await ledger.ingest(large(0, device="fourth"))
        assert not ledger.busy


async def test_closing_stores_what_waits_beside_each_other(database):
    async with trio.open_nursery() as nursery, open_postgres(database, now=lambda: NOON) as ledger:
        for number in range(3):
            for device in ("cam", "other"):
                nursery.start_soon(ledger.ingest, large(number, device=device))
        while not ledger.commits:
            await trio.lowlevel.checkpoint()
    async with open_postgres(database, now=lambda: NOON) as ledger:
        assert (await ledger.stats()).total.total_predictions == 6 * (GATHER_RECORDS_MAX + 1)


async def test_a_store_that_hangs_holds_up_a_close_once_and_not_for_each_commit(database, monkeypatch):
    both, released = threading.Barrier(3, timeout=30), threading.Event()

    def hang(db, batches):
        both.wait()
        released.wait()
        raise psycopg.OperationalError("it hung")

    async def ask(ledger, device):
        with pytest.raises(LedgerUnavailable):
            await ledger.ingest(large(1, device=device))

    monkeypatch.setattr(postgres_write, "ingest_all", hang)
    monkeypatch.setattr("cloud.ledger.postgres.CLOSE_S_MAX", 0.1)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            # The queues' own bounds, one after the other, would be longer than this test may take.
            monkeypatch.setattr("cloud.ledger.queue.CLOSE_S_MAX", 20.0)
            async with open_postgres(database, now=lambda: NOON) as ledger:
                for device in ("cam", "other"):
                    nursery.start_soon(ask, ledger, device)
                await trio.to_thread.run_sync(both.wait)
    released.set()


async def test_whatever_a_prediction_says_comes_back_as_it_went_whatever_the_database_keeps_text_in(server):
    with psycopg.connect(server.url(), autocommit=True) as db:
        db.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    odd = 'a\t\n\\N"{},\\. \r\xe4'
    async with open_postgres(server.url("latin"), now=lambda: NOON) as ledger:
        sent = batch(1, None, device=odd, model_name=odd, classes=msgspec.json.encode([odd, "z"]).decode())
        records = tuple(record._replace(payload=odd + record.payload) for record in sent.records)
        await ledger.ingest(attrs.evolve(sent, records=records))
        await ledger.ingest(batch(2, device=odd, timestamp=NOON + 1))
        page = await ledger.predictions(Query(edge_device_id=odd))
        assert [item.payload for item in page.items[1:]] in (
            [record.payload for record in records], [record.payload for record in records[::-1]],
        )  # fmt: skip
        assert {item.edge_device_id for item in page.items} == {odd}
        for asked in (Query(class_name=odd), Query(class_name="z"), Query(model_name=odd)):
            assert len((await ledger.predictions(asked)).items) == 2


async def test_days_are_made_ahead_and_those_past_retention_are_dropped_whole(database):
    at = [NOON]
    async with open_postgres(database, now=lambda: at[0]) as ledger:
        today = day_of(NOON)
        assert await ledger._read(stored_days) == set(range(today, today + DAYS_AHEAD + 1))
        await ledger.ingest(batch(1))
        await ledger.ingest(batch(2, received_at=NOON + 30 * DAY))
        at[0] = NOON + 3 * DAY
        await ledger.sweep_once(DAY)
        assert min(await ledger._read(stored_days)) == today + 2
        assert await ledger._read(stored_days) == {
            *range(today + 2, today + 3 + DAYS_AHEAD + 1), today + 30,
        }  # fmt: skip
        assert len((await ledger.predictions(Query())).items) == 1


async def test_every_unique_key_begins_with_the_device_and_no_sequence_numbers_anything(database):
    """What lets Citus spread the tables as they are."""
    async with open_postgres(database, now=lambda: NOON):
        with psycopg.connect(database) as db:
            keys = db.execute(
                "SELECT indrelid::regclass::text, attname FROM pg_index JOIN pg_class ON pg_class.oid = indrelid"
                " JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]"
                " WHERE indisunique AND relnamespace = 'public'::regnamespace"
            ).fetchall()
            sequences = db.execute("SELECT count(*) FROM pg_class WHERE relkind = 'S'").fetchone()
    assert {table for table, column in keys if column != "edge_device_id"} == {"holdfast_steps"}
    assert len(keys) >= 7
    assert sequences == (0,)


async def test_a_database_of_a_newer_version_is_left_alone(database):
    async with open_postgres(database, now=lambda: NOON):
        pass
    with psycopg.connect(database, autocommit=True) as db:
        db.execute("INSERT INTO holdfast_steps VALUES ('9_later', now())")
    with pytest.raises(LedgerUnusable, match="9_later"):
        async with open_postgres(database):
            pass


async def test_a_server_that_is_not_there_is_named_without_its_password(monkeypatch):
    monkeypatch.setattr("cloud.ledger.postgres.START_S_MAX", 0.0)
    with pytest.raises(LedgerUnusable, match="the store: PostgreSQL") as caught:
        async with open_postgres("postgresql://me:hunter2@127.0.0.1:1/x", shown="the store"):
            pass
    assert "hunter2" not in str(caught.value)


async def test_a_defect_of_ours_is_no_outage(database, monkeypatch):
    """Otherwise a device would come again for ever, and nobody would look."""
    monkeypatch.setattr(postgres_read, "check", lambda db: db.execute("SELECT no_such_column"))
    async with open_postgres(database, now=lambda: NOON) as ledger:
        with pytest.raises(psycopg.errors.UndefinedColumn):
            await ledger.check()


async def test_a_page_is_read_along_an_index_of_each_day(database):
    async with open_postgres(database, now=lambda: NOON) as ledger:
        await ledger.ingest(batch(1))
        with psycopg.connect(database) as db:
            # A planner that sees a handful of rows would sort them; what matters is that the indexes can serve.
            for other in ("seqscan", "bitmapscan", "sort"):
                db.execute(f"SET enable_{other} = off".encode())
            for asked in (
                Query(),
                Query(since=1.0, until=2.0),
                Query(edge_device_id="cam"),
                Query(defect_detected=True),
                Query(cursor=Cursor(1.0, 5)),
            ):
                served, _ = postgres_read._of_predictions(asked)
                where, values = postgres_read._where(served)
                query = f"EXPLAIN SELECT * FROM predictions {where} ORDER BY timestamp DESC, number DESC LIMIT 100"
                said = "\n".join(row[0] for row in db.execute(query.encode(), values).fetchall())
                assert "->  Sort" not in said, said
                assert "Seq Scan" not in said, said


async def test_every_unique_key_holds_the_device_so_that_citus_can_distribute_the_tables_by_it(database):
    """Citus refuses a table whose unique keys lack the distribution column, and sequences that are not its own."""
    async with open_postgres(database, now=lambda: NOON) as ledger:
        await ledger.ingest(batch(1))
    with psycopg.connect(database) as db:
        keys = db.execute(
            """SELECT indrelid::regclass::text, indexrelid::regclass::text,
                ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = indrelid AND attnum = ANY(indkey::int2[]))
            FROM pg_index JOIN pg_class ON pg_class.oid = indrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace
            WHERE nspname = 'public' AND indisunique AND relname <> 'holdfast_steps'"""
        ).fetchall()
        tables = db.execute(
            """SELECT table_name FROM information_schema.columns WHERE table_schema = 'public'
            AND column_name = 'edge_device_id' AND is_nullable = 'NO'"""
        ).fetchall()
        everything = db.execute("SELECT relname, relkind FROM pg_class WHERE relnamespace = 'public'::regnamespace")
        kinds = {str(name): str(kind) for name, kind in everything.fetchall()}
        tied = db.execute("SELECT conname FROM pg_constraint WHERE contype = 'f'").fetchall()
    keyed = {table for table, _, _ in keys}
    assert {"devices", "streams", "predictions", "stored_ranges", "explained_ranges", "conflicts", "rollups"} <= keyed
    assert [key for key in keys if "edge_device_id" not in key[2]] == []
    # The steps are a table of each server's own.
    named = {str(table) for (table,) in tables}
    assert {name for name, kind in kinds.items() if kind in "rp"} - named == {"holdfast_steps"}
    assert "S" not in kinds.values()
    assert tied == []
