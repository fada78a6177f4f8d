"""Defects of the cloud, for `test_planted_bugs.py`."""

from collections.abc import Callable
from typing import Any

import pytest

from chaos.sim.plan import Fault
from cloud import intake, wire
from cloud.ledger import LedgerBusy, schema, sqlite_rollups, sqlite_write
from cloud.ledger.books import Book
from cloud.ledger.queue import CommitQueue
from cloud.ledger.sqlite import SqliteLedger
from tests.planting import bug


def after_an_upgrade(patch: pytest.MonkeyPatch, spoil: Callable[[Any], object]) -> None:
    """Have `spoil` done to a ledger of the last release in the transaction that brings it to this one's shape."""
    count_streams = schema._count_streams

    def counted(db):
        count_streams(db)
        if db.execute("SELECT 1 FROM streams").fetchone():
            spoil(db)

    patch.setattr(schema, "_count_streams", counted)


@bug(Fault.LOSE_REPLY)
def cloud_does_not_know_a_repeat(patch):
    note_stored, open_streams = Book.note_stored, sqlite_write._open_streams

    def forgetful(book, seqs):
        note_stored(book, seqs)
        return set()

    def without_a_key(db, numbers, batches):
        db.execute("DROP INDEX IF EXISTS predictions_by_seq")
        return open_streams(db, numbers, batches)

    patch.setattr(Book, "note_stored", forgetful)
    patch.setattr(sqlite_write, "_open_streams", without_a_key)


@bug(Fault.CLOUD_DISK_FULL)
def ledger_answers_though_its_commit_failed(patch):
    settle = CommitQueue._settle

    def blind(queue_, waiting):
        if not isinstance(waiting.outcome, wire.Answer):
            waiting.outcome = wire.Answer(accepted=len(waiting.batch.records))
        settle(queue_, waiting)

    patch.setattr(CommitQueue, "_settle", blind)


@bug(Fault.CLOUD_UPGRADED)
def upgrade_of_the_ledger_forgets_its_ranges(patch):
    after_an_upgrade(patch, lambda db: db.execute("DELETE FROM stored_ranges"))


@bug(Fault.CLOUD_UPGRADED)
def upgrade_of_the_ledger_forgets_its_losses(patch):
    after_an_upgrade(patch, lambda db: db.execute("DELETE FROM explained_ranges"))


@bug(Fault.CLOUD_UPGRADED)
def statistics_begin_anew_at_an_upgrade(patch):
    after_an_upgrade(patch, lambda db: db.execute("DELETE FROM rollups"))


@bug(Fault.CLOUD_UPGRADED)
def upgrade_of_the_ledger_that_is_cut_off_can_not_be_begun_again(patch):
    fill = sqlite_rollups.fill

    def fill_on_what_is_there_for_good(db):
        db.commit()
        fill(db)

    patch.setattr(sqlite_rollups, "fill", fill_on_what_is_there_for_good)


@bug(Fault.OLD_DEVICE)
def cloud_asks_for_what_an_older_device_does_not_say(patch):
    open_body = intake.open_body

    def demanding(body, encoding):
        opened = open_body(body, encoding)
        if opened.envelope.session_id is None:
            raise intake.EnvelopeInvalid("session_id: required")
        return opened

    patch.setattr(intake, "open_body", demanding)


@bug(devices_min=2)
def one_device_is_never_served(patch):
    ingest = SqliteLedger.ingest

    async def unfair(ledger, batch):
        if batch.edge_device_id == "device-1":
            raise LedgerBusy(1)
        return await ingest(ledger, batch)

    patch.setattr(SqliteLedger, "ingest", unfair)
