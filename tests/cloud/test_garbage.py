"""The collector of cyclic garbage: what it leaves alone while a service runs, and that it recovers afterwards."""

import gc

from cloud.garbage import seldom_collected
from cloud.intake import check_batch, open_body
from cloud.wire import BATCH_RECORDS_MAX
from tests.cloud.world import envelope, payload

BATCHES = 100


def test_full_batches_do_not_make_the_collector_look_at_them_each_time_nor_at_what_was_loaded_before():
    body = envelope(*(payload(seq) for seq in range(1, BATCH_RECORDS_MAX + 1)))
    with seldom_collected():
        assert gc.get_freeze_count() > 0
        before = looks()
        for _ in range(BATCHES):
            check_batch(open_body(body, ""), 0.0)
        assert looks() - before <= BATCHES // 10


def test_afterwards_everything_is_collected_as_before():
    before = gc.get_threshold(), gc.get_freeze_count()
    with seldom_collected():
        assert gc.get_threshold() != before[0]
    assert (gc.get_threshold(), gc.get_freeze_count()) == before


def looks() -> int:
    """How often the collector has looked at anything."""
    return sum(int(generation["collections"]) for generation in gc.get_stats())
