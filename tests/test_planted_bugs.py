"""Defects planted one at a time, each in one named function but one: the simulation must find every one of them.

Without this, hundreds of green seeds would prove only that the oracle is blind.
"""

import gc
import os
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import trio
from msgspec.structs import replace

import tests.planted_in_the_cloud  # noqa: F401 - its bugs are among BUGS
from actors import buffer_writer, recovery, uplink
from actors.messages import Fate, LinkState
from actors.ports import disk, pages, replay, rows, tombstones
from actors.ports import store as store_module
from actors.ports.buffer import Buffer
from actors.ports.confirmed import Confirmed
from actors.ports.front import Front
from actors.ports.journal import Closed, Journal
from actors.ports.replay import Recovered, Replayed
from actors.ports.sqlite import named_errors
from actors.ports.store import Store
from actors.seqs import Payloads, seqs_of
from actors.settings import WhenFull
from actors.verdict import judge
from chaos.sim.books import Crash, Violation
from chaos.sim.plan import Fault, Plan
from chaos.sim.shrink import failure
from tests.planting import BUGS, SEEDS_PER_BUG, bug


@bug(Fault.KILL)
def journal_acknowledges_what_it_did_not_write(patch):
    def append(journal, first_seq, payloads):
        journal._last_seq = first_seq + len(payloads) - 1

    patch.setattr(Journal, "append", append)


@bug(Fault.KILL)
def receipt_comes_a_group_before_the_disk(patch):
    append = Journal.append
    waiting: dict[Journal, Any] = {}

    def append_late(journal, *group):
        late, waiting[journal] = waiting.get(journal), group
        if late:
            append(journal, *late)

    patch.setattr(Journal, "append", append_late)


@bug(Fault.ERROR)
def released_is_written_down_as_sent(patch):
    settle_one = Store._settle_one

    def forgetful(store, outcome, now):
        fate = Fate.SENT if outcome.fate is Fate.RELEASED else outcome.fate
        settle_one(store, attrs.evolve(outcome, fate=fate), now)

    patch.setattr(Store, "_settle_one", forgetful)


@bug(Fault.ERROR)
def released_is_not_told(patch):
    async def keep(uplink_, records, error):
        pass

    patch.setattr(uplink._Uplink, "_release", keep)


@bug(Fault.KILL)
def replay_deletes_without_inserting(patch):
    def skip(found, buffer, options, **_):
        for seen in found:
            seen.path.unlink()
        last_seq = max([buffer.totals().last_seq, *(seen.last_seq for seen in found)])
        return Replayed(Recovered(), last_seq)

    patch.setattr(store_module, "replay", skip)


@bug(Fault.KILL)
def last_number_is_given_out_again_after_a_restart(patch):
    count = Store._count

    def step_back(store):
        count(store)
        store._front.next_seq = max(1, store._front.next_seq - 1)

    patch.setattr(Store, "_count", step_back)


@bug(Fault.KILL)
def segments_are_deleted_before_their_rows_are_in_sqlite(patch):
    def retire(store, *, wait=False):
        if store._buffer.checkpoint(wait=wait):
            store._front.retire(store.last_seq)

    patch.setattr(Store, "_retire", retire)


@bug(Fault.FLIP_LOG)
def write_ahead_log_alone_holds_a_group_and_ends_at_a_bit(patch):
    """Two at once, as either alone loses nothing: no group is moved out of the log, and none is read behind its end."""
    if_writable = Store._if_writable
    patch.setattr(store_module, "take_log", lambda _: b"")

    def unmoved(self, work):
        return True if work == self._buffer.checkpoint else if_writable(self, work)

    patch.setattr(Store, "_if_writable", unmoved)


@bug(Fault.ERROR)
def server_error_counts_as_stored(patch):
    def trusting(status, headers, body, *, records, now, **more):
        if status >= 500:
            return judge(200, {"holdfast-wire": "1"}, b'{"accepted":%d}' % records, records=records, now=now)
        return judge(status, headers, body, records=records, now=now, **more)

    patch.setattr(uplink, "judge", trusting)


@bug(Fault.PORTAL)
def captive_portal_counts_as_stored(patch):
    def trusting(status, headers, body, *, records, now, **more):
        if status == 200:
            return judge(200, {"holdfast-wire": "1"}, b'{"accepted":%d}' % records, records=records, now=now)
        return judge(status, headers, body, records=records, now=now, **more)

    patch.setattr(uplink, "judge", trusting)


@bug(Fault.OUTAGE)
def recovery_drains_only_once(patch):
    drain = recovery._Recovery._drain

    async def once(recovery_):
        await drain(recovery_)
        await recovery_.ending.wait()
        return 0.0

    patch.setattr(recovery._Recovery, "_drain", once)


@bug(Fault.OUTAGE)
def recovery_passes_over_the_oldest(patch):
    turn_page = buffer_writer._Desk.turn_page

    async def skip(desk, request):
        await turn_page(desk, attrs.evolve(request, after=request.after + 1))

    patch.setattr(buffer_writer._Desk, "turn_page", skip)


@bug(Fault.KILL, Fault.POWER_CUT)
def receipt_comes_before_the_fsync(patch):
    def hasty(journal_, data):
        os.write(journal_._fd, data)
        journal_._good_bytes += len(data)

    patch.setattr(Journal, "_write", hasty)


@bug(Fault.KILL_AT_CALL, Fault.POWER_CUT)
def segments_are_deleted_before_sqlite_is_synced(patch):
    patch.setattr(Buffer, "checkpoint", lambda *_, **__: True)


@bug()
def outcome_is_dropped(patch):
    async def silent(uplink_, settlement, size):
        pass

    patch.setattr(uplink._Uplink, "_tell", silent)


@bug(Fault.KILL, Fault.FLIP_SEGMENT)
def losses_are_forgotten(patch):
    patch.setattr(Store, "losses", lambda _: [])


@bug(Fault.OUTAGE, full=WhenFull.DROP_OLDEST)
def tombstone_is_written_a_stroke_late(patch):
    """So a crash in between loses it."""
    bury, late = tombstones.bury_range, []

    def postponed(connection, *grave):
        late.append(grave)
        if len(late) > 1:
            bury(connection, *late.pop(0))

    patch.setattr(tombstones, "bury_range", postponed)


@bug(Fault.OUTAGE, full=WhenFull.DROP_OLDEST)
def wrong_reason_is_told(patch):
    evict = Buffer.evict

    def excuse(buffer_, number, reason, now):
        return evict(buffer_, number, "bad_sector", now)

    patch.setattr(Buffer, "evict", excuse)


@bug()
def same_number_goes_out_on_two_lanes(patch):
    hand_on = buffer_writer._Desk.hand_on

    def careless(desk, records):
        hand_on(desk, records)
        desk.in_flight.give_back(seqs_of([record.seq for record in records]))
        desk.nudge()

    patch.setattr(buffer_writer._Desk, "hand_on", careless)


@bug(Fault.KILL)
def replay_marks_what_it_brings_as_sent(patch):
    rows_of = rows.rows_of

    def optimistic(seen, now):
        return [replace(row, status="sent", sent_at=now) for row in rows_of(seen, now)]

    patch.setattr(replay, "rows_of", optimistic)


@bug(Fault.KILL_IN_STOP)
def line_that_fills_a_segment_is_left_out(patch):
    append = Journal.append

    def off_by_one(journal_, first_seq, lines):
        fills = journal_._good_bytes + sum(map(len, lines)) >= journal_._segment_bytes_max
        append(journal_, first_seq, lines[: len(lines) - fills])
        if fills:
            journal_.rotate()

    patch.setattr(Journal, "append", off_by_one)


@bug(Fault.OUTAGE)
def clean_up_takes_pending_rows(patch):
    def greedy(buffer_, count_max, *, sent_before):
        with buffer_._transaction() as connection:
            return connection.execute(
                "DELETE FROM buffer_predictions WHERE id IN (SELECT id FROM buffer_predictions"
                " WHERE status != 'failed' ORDER BY id LIMIT ?)",
                (count_max,),
            ).rowcount

    patch.setattr(Buffer, "delete_sent", greedy)


@bug(Fault.OUTAGE)
def what_stands_behind_a_range_of_the_confirmed_is_passed_over(patch):
    gaps = Confirmed.gaps

    def hasty(confirmed, above):
        for low, high in gaps(confirmed, above):
            yield low + (low != above), high

    patch.setattr(Confirmed, "gaps", hasty)


@bug(Fault.SECOND_SIGNAL)
def cancelled_writer_does_not_flush(patch):
    """What a second signal, or a grace that is over, comes down to."""
    close = buffer_writer._Desk.close

    async def only_if_there_is_time(desk):
        nursery = trio.lowlevel.current_task().parent_nursery
        if nursery is not None and not nursery.cancel_scope.cancel_called:
            await close(desk)

    patch.setattr(buffer_writer._Desk, "close", only_if_there_is_time)


@bug(Fault.SECOND_SIGNAL)
def second_signal_skips_the_flush(patch):
    """Everything is closed as it should be, so that no open handle tells of it."""
    close = buffer_writer._Desk.close

    async def hurried(desk):
        nursery = trio.lowlevel.current_task().parent_nursery
        if nursery is None or not nursery.cancel_scope.cancel_called:
            await close(desk)
        elif desk.disk.store is not None:
            desk.disk.store.needs_rebuild = True  # with which a store leaves all where it is
            await desk.disk.close()

    patch.setattr(buffer_writer._Desk, "close", hurried)


@bug(Fault.KILL_AT_CALL, Fault.POWER_CUT, Fault.OUTAGE)
def segments_are_deleted_a_moment_before_sqlite_is_synced(patch):
    def retire(store, *, wait=False):
        store._front.retire(store._flush())
        store._buffer.checkpoint(wait=wait)

    patch.setattr(Store, "_retire", retire)


@bug(Fault.OUTAGE, full=WhenFull.DROP_OLDEST)
def losses_are_confirmed_when_they_are_read(patch):
    losses = Store.losses

    def trusting(store):
        found = losses(store)
        store._buffer.confirm_losses(found, store._options.now())
        return found

    patch.setattr(Store, "losses", trusting)


@bug(Fault.UPGRADED)
def upgrade_begins_anew(patch):
    """As if a buffer of an older version could not be read."""
    migrate = Buffer._migrate

    def fresh(buffer_):
        (version,) = buffer_._connection.execute("PRAGMA user_version").fetchone()
        migrate(buffer_)
        if version == 1:
            buffer_._connection.execute("DELETE FROM buffer_predictions")

    patch.setattr(Buffer, "_migrate", fresh)


@bug(Fault.FLIP_DATABASE, Fault.OUTAGE)
def payload_at_rest_is_not_checked(patch):
    patch.setattr(pages, "_changed", lambda *_: [])


@bug()
def segment_is_left_open_at_rotation(patch):
    def forgetful(journal_):
        if journal_._fd is not None:
            journal_._closed.append(Closed(journal_._path, journal_._last_seq, journal_._good_bytes))
            journal_._fd, journal_._good_bytes = None, 0

    patch.setattr(Journal, "rotate", forgetful)


@bug(Fault.OUTAGE, Fault.LOSE_REPLY, Fault.SECOND_SIGNAL)
def log_waits_for_the_live_lane(patch):
    make_durable = buffer_writer._Desk.make_durable

    async def patient(desk, entries):
        while desk.stored.statistics().current_buffer_used:  # noqa: ASYNC110 - the bug
            await trio.sleep(0.1)
        return await make_durable(desk, entries)

    patch.setattr(buffer_writer._Desk, "make_durable", patient)


@bug(Fault.CLOCK_JUMP, Fault.OUTAGE)
def what_a_page_holds_depends_on_the_clock(patch):
    """Predictions that were accepted before the clock went back have to wait until it is later again."""
    pending = Store.pending

    def punctual(store, *asked, **named):
        page = pending(store, *asked, **named)
        with named_errors():
            connection = store._buffer._connection
            newest = connection.execute("SELECT max(buffered_at) FROM prediction_buffer").fetchone()[0] or 0
            late = connection.execute("SELECT buffered_at FROM prediction_buffer ORDER BY id DESC").fetchone()
        return page if late is None or late[0] >= newest else Payloads(seqs_of([]))

    patch.setattr(Store, "pending", punctual)


@bug(Fault.CLOCK_JUMP)
def rows_are_numbered_by_the_wall_clock(patch):
    """A clock that goes back gives the same number twice; one that goes forward leaves holes."""
    number = Front.number

    def dated(front, entries):
        front.next_seq = max(1, int(front.options.now()) % 1_000_000)
        return number(front, entries)

    patch.setattr(Front, "number", dated)


@bug(Fault.OUTAGE, full=WhenFull.BLOCK)
def cap_is_not_looked_at(patch):
    patch.setattr(Store, "_size_bytes", lambda _: 0)


@bug(Fault.DISK_READ_ONLY)
def what_memory_holds_is_thrown_away_at_a_stop(patch):
    async def hurried(desk):
        await desk.disk.close()

    patch.setattr(buffer_writer._Desk, "close", hurried)


@bug(Fault.DISK_READ_ONLY)
def what_memory_holds_is_given_up_at_a_stop_on_a_disk_that_is_well(patch):
    """It says so, in vain."""
    close = buffer_writer._Desk.close

    async def resigned(desk):
        if desk.tail:
            buffer_writer.log.error("lost_from_memory", predictions=len(desk.tail), reason="no time")
            desk.tail.forget(list(desk.tail.entries))
        await close(desk)

    patch.setattr(buffer_writer._Desk, "close", resigned)


@bug()
def metric_counts_only_what_was_stored(patch):
    count = uplink._Uplink._count

    def modest(uplink_, **more):
        if uplink_.link.value.state is LinkState.UP:
            count(uplink_, **more)

    patch.setattr(uplink._Uplink, "_count", modest)


@bug()
def task_is_left_behind(patch):
    close = disk.Disk.close

    async def forgetful(disk_):
        trio.lowlevel.spawn_system_task(trio.sleep_forever)
        await close(disk_)

    patch.setattr(disk.Disk, "close", forgetful)


@pytest.fixture
def collected() -> Iterator[None]:
    """What a planted bug leaves open goes here, and not in the test that comes next."""
    yield
    gc.collect()


@pytest.mark.usefixtures("collected")
@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")
@pytest.mark.parametrize("name", BUGS)
def test_planted_bug_is_found(name, monkeypatch, capsys):
    BUGS[name].plant(monkeypatch)
    found = next(((seed, why) for seed in BUGS[name].seeds() if (why := failure(Plan.of(seed)))), None)
    assert found is not None, f"{SEEDS_PER_BUG} seeds did not notice: {name}"
    seed, why = found
    with capsys.disabled():
        print(f"\n{name}: found by seed {seed}: {str(why)[:160]}")
    assert isinstance(why, Violation), "the oracle has to find it"
    assert not isinstance(why, Crash), "a defect that ends the process needs no oracle"
