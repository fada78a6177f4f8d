"""Flip a bit in every byte of a segment: the store always starts, and accounts for what the bit has cost."""

import random
import shutil
from collections import Counter
from pathlib import Path

import google_crc32c
import pytest

from actors.ports.store import Store
from chaos.sim.platter import NEVER_READ, lay_out, take_in
from tests.storage.child import DEVICE, Clock, Order, entries, options
from tests.storage.fixtures import Told, start

SEED = 20_260_103
RECORDS = 6


def accepted(store: Store, told: Told, tag: str, number: int) -> None:
    records = store.accept(entries(tag, 0, number))
    told.note("ack", {record.seq: google_crc32c.value(record.payload) for record in records})


def left_by_a_kill(folder: Path, build, *, journal: bool = True) -> tuple[dict[str, bytes | None], Told]:
    """What lies on the disk after `build` has worked on a store that is then killed."""
    place, told = folder / "built", Told()
    place.mkdir()
    order = Order(act="", folder=str(place), sync=False, journal=journal)
    store = Store.open(DEVICE, options(order, Clock(1_000.0)))
    build(store, told, place)
    state = {path: data for path, data in take_in(place).items() if not path.endswith(NEVER_READ)}
    store.close()
    return state, told


def flipped(data: bytes | None, at: int, bit: int) -> bytes:
    assert data is not None
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def test_flipped_bit_in_a_segment_costs_at_most_its_own_line_and_says_so(folder, capsys):
    """A header that can't be read, or reads wrongly, costs nothing at all."""

    def build(store, told, place):
        accepted(store, told, "t", RECORDS)

    state, told = left_by_a_kill(folder, build)
    (name,) = [path for path in state if path.startswith("buffer-journal/")]
    segment = state[name]
    assert segment is not None
    rng = random.Random(SEED)
    wrong: Counter[str] = Counter()
    first: dict[str, str] = {}
    buried = 0
    for at in range(len(segment)):
        line, bit = segment[:at].count(b"\n"), rng.randrange(8)
        place = folder / "hit"
        lay_out(state | {name: flipped(segment, at, bit)}, place)
        found = start(place)
        shutil.rmtree(place)
        buried += len(found.buried)
        try:
            told.check(found, hit=frozenset({line} if line else ()))
        except AssertionError as exc:
            wrong[str(exc).split("\n")[0]] += 1
            first.setdefault(str(exc).split("\n")[0], f"byte {at} {segment[max(0, at - 12) : at + 12]!r}, bit {bit}")
    with capsys.disabled():
        print(f"\nsegment: {len(segment)} bytes hit, {buried} records buried, {sum(wrong.values())} accounts wrong")
    assert not wrong, [(count, message, first[message]) for message, count in wrong.most_common(5)]


@pytest.mark.parametrize("count", [1, RECORDS])
def test_segment_of_which_nothing_reads_gives_its_numbers_out_to_nobody_else(folder, count):
    """Its name says its first number, and its lines can be counted; nothing else may speak of them."""

    def build(store, told, place):
        accepted(store, told, "t", count)

    state, told = left_by_a_kill(folder, build)
    (name,) = [path for path in state if path.startswith("buffer-journal/")]
    lines = (state[name] or b"").splitlines(keepends=True)
    assert len(lines) == 1 + count
    lay_out(state | {name: b"".join(flipped(line, 30, 0) for line in lines)}, folder / "hit")
    found = start(folder / "hit")
    told.check(found, hit=frozenset(range(1, count + 1)))
    assert found.buried == frozenset(range(1, count + 1))
