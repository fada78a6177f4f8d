"""alerts: each by its name at its threshold, and none when all is well."""

import attrs
import pytest
from msgspec.structs import replace

from actors.alerts import ALERTS, Scene, holding, oldest_pending_age_s
from actors.messages import Books, Link, LinkState, Pulse, Traffic, Vision

BOOKS = Books(stream_id="S", pending=3, capacity_bytes=100, size_bytes=10, oldest_pending_at=900.0)
WELL = Scene(BOOKS, Link(LinkState.UP), Vision(), Pulse(), now=960.0)
WRONG = {
    "pending_high": attrs.evolve(WELL, books=replace(BOOKS, pending=1_001)),
    "oldest_pending_old": attrs.evolve(WELL, now=4_500.1),
    "buffer_nearly_full": attrs.evolve(WELL, books=replace(BOOKS, size_bytes=91)),
    "failed_high": attrs.evolve(WELL, books=replace(BOOKS, failed=101)),
    "disk_trouble": attrs.evolve(WELL, books=replace(BOOKS, trouble="buffer full")),
    "disk_silent": attrs.evolve(WELL, pulse=Pulse(silent="the disk has not answered for 40 s")),
    "not_durable": attrs.evolve(WELL, books=replace(BOOKS, in_memory=1)),
    "journal_unwritable": attrs.evolve(WELL, books=replace(BOOKS, degraded="read-only")),
    "link_refused": attrs.evolve(WELL, link=Link(LinkState.REFUSED, "401: no such key")),
    "numbers_taken": attrs.evolve(WELL, books=replace(BOOKS, renumbered=2)),
    "device_id_shared": attrs.evolve(WELL, traffic=Traffic(shared=True)),
    "nothing_moves": attrs.evolve(WELL, pulse=Pulse(stuck="nothing for 90 s")),
    "clock_wrong": attrs.evolve(WELL, pulse=Pulse(clock_trouble="1970")),
    "camera_down": attrs.evolve(WELL, vision=Vision(cameras_down=("dock",))),
    "model_not_exchanged": attrs.evolve(WELL, vision=Vision(model_trouble="no such file")),
}


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_holds_alone_in_its_own_scene(name):
    assert set(holding(WRONG[name])) == {name}


def test_at_the_thresholds_all_is_well():
    edge = attrs.evolve(WELL, books=replace(BOOKS, pending=1_000, size_bytes=90, failed=100), now=4_500.0)
    assert holding(edge) == {}


def test_sentences_carry_the_number_or_the_reason():
    assert holding(WRONG["pending_high"])["pending_high"].startswith("1001 predictions wait")
    assert holding(WRONG["link_refused"])["link_refused"] == "401: no such key"


def test_an_age_is_told_only_while_something_waits():
    assert oldest_pending_age_s(BOOKS, 960.0) == 60.0
    assert oldest_pending_age_s(replace(BOOKS, pending=0), 960.0) is None
    assert oldest_pending_age_s(BOOKS, 100.0) == 0.0, "a clock that was set back"
