"""Defects planted one at a time, each in one named function: the simulation must find every one of them.

Without this, hundreds of green seeds would prove only that the oracle is blind.
"""

import os
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from actors import buffer_writer, recovery, uplink
from actors.messages import Fate
from actors.ports import replay
from actors.ports import store as store_module
from actors.ports.buffer import Buffer
from actors.ports.journal import Journal
from actors.ports.replay import Recovered, Replayed
from actors.ports.store import Store
from actors.verdict import judge
from chaos.sim.plan import Plan
from chaos.sim.shrink import fails
from cloud.ledger import sqlite_write

SEEDS_PER_BUG = 200
"""A bug that so many seeds don't find is one that the oracle does not see."""

BUGS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {}


def bug(plant: Callable[[pytest.MonkeyPatch], None]) -> Callable[[pytest.MonkeyPatch], None]:
    BUGS[plant.__name__] = plant
    return plant


@bug
def journal_acknowledges_what_it_did_not_write(patch):
    def append(journal, first_seq, payloads):
        journal._last_seq = first_seq + len(payloads) - 1

    patch.setattr(Journal, "append", append)


@bug
def receipt_comes_a_group_before_the_disk(patch):
    append = Journal.append
    waiting: dict[Journal, Any] = {}

    def append_late(journal, *group):
        late, waiting[journal] = waiting.get(journal), group
        if late:
            append(journal, *late)

    patch.setattr(Journal, "append", append_late)


@bug
def released_is_written_down_as_sent(patch):
    settle_one = Store._settle_one

    def forgetful(store, outcome, now):
        fate = Fate.SENT if outcome.fate is Fate.RELEASED else outcome.fate
        settle_one(store, attrs.evolve(outcome, fate=fate), now)

    patch.setattr(Store, "_settle_one", forgetful)


@bug
def released_is_not_told(patch):
    async def keep(uplink_, records, error):
        pass

    patch.setattr(uplink._Uplink, "_release", keep)


@bug
def replay_deletes_without_inserting(patch):
    def skip(found, buffer, options, **_):
        for seen in found:
            seen.path.unlink()
        last_seq = max([buffer.totals().last_seq, *(seen.last_seq for seen in found)])
        return Replayed(Recovered(), last_seq)

    patch.setattr(store_module, "replay", skip)


@bug
def last_number_is_given_out_again_after_a_restart(patch):
    usual = replay.replay

    def step_back(*scans, **options):
        replayed = usual(*scans, **options)
        return attrs.evolve(replayed, last_seq=max(0, replayed.last_seq - 1))

    patch.setattr(store_module, "replay", step_back)


@bug
def segments_are_deleted_before_their_rows_are_in_sqlite(patch):
    def retire(store, *, truncate=False):
        store._front.retire(store.last_seq)

    patch.setattr(Store, "_retire", retire)


@bug
def server_error_counts_as_stored(patch):
    def trusting(status, headers, body, *, records, now, **more):
        if status >= 500:
            return judge(200, {"holdfast-wire": "1"}, b'{"accepted":%d}' % records, records=records, now=now)
        return judge(status, headers, body, records=records, now=now, **more)

    patch.setattr(uplink, "judge", trusting)


@bug
def captive_portal_counts_as_stored(patch):
    def trusting(status, headers, body, *, records, now, **more):
        if status == 200:
            return judge(200, {"holdfast-wire": "1"}, b'{"accepted":%d}' % records, records=records, now=now)
        return judge(status, headers, body, records=records, now=now, **more)

    patch.setattr(uplink, "judge", trusting)


@bug
def recovery_drains_only_once(patch):
    drain = recovery._Recovery._drain

    async def once(recovery_):
        await drain(recovery_)
        await recovery_.ending.wait()
        return 0.0

    patch.setattr(recovery._Recovery, "_drain", once)


@bug
def recovery_passes_over_the_oldest(patch):
    turn_page = buffer_writer._Desk.turn_page

    async def skip(desk, request):
        await turn_page(desk, attrs.evolve(request, after=request.after + 1))

    patch.setattr(buffer_writer._Desk, "turn_page", skip)


@bug
def cloud_does_not_know_a_repeat(patch):
    note_stored = sqlite_write._note_stored

    def forgetful(db, stream_no, seqs):
        db.execute("DROP INDEX IF EXISTS predictions_by_seq")
        note_stored(db, stream_no, seqs)
        return []

    patch.setattr(sqlite_write, "_note_stored", forgetful)


@bug
def receipt_comes_before_the_fsync(patch):
    def hasty(journal_, data):
        os.write(journal_._fd, data)
        journal_._good_bytes += len(data)

    patch.setattr(Journal, "_write", hasty)


@bug
def segments_are_deleted_before_sqlite_is_synced(patch):
    patch.setattr(Buffer, "checkpoint", lambda *_, **__: True)


@bug
def outcome_is_dropped(patch):
    async def silent(uplink_, settlement):
        pass

    patch.setattr(uplink._Uplink, "_tell", silent)


@bug
def losses_are_forgotten(patch):
    patch.setattr(Store, "losses", lambda _: [])


@pytest.mark.parametrize("name", BUGS)
def test_planted_bug_is_found(name, monkeypatch, capsys):
    BUGS[name](monkeypatch)
    found = next(((seed, why) for seed in range(SEEDS_PER_BUG) if (why := fails(Plan.of(seed)))), None)
    assert found is not None, f"{SEEDS_PER_BUG} seeds did not notice: {name}"
    with capsys.disabled():
        print(f"\n{name}: found by seed {found[0]}: {found[1][:160]}")
