"""Fill a real, small file system to the brim: nothing acknowledged is lost, nothing dies, all comes back by itself."""

import contextlib
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import pytest

from actors.messages import Entry, Fate, Outcome
from actors.ports.opening import BufferFull, DiskTrouble
from actors.ports.store import Store
from tests.storage.child import DEVICE, Clock, Order, entries, options
from tests.storage.fixtures import Told, device, start
from tests.storage.test_kills import keep_books

SEED = 20_260_104
DISK_BYTES = 24 << 20
CAPACITY_BYTES = 64 << 20
"""More than there is."""
FILE_BYTES_MAX = 200_000
ROUNDS = 12


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 24 MiB, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command: only the limit on the size of files is tested")
    if done.returncode:
        pytest.skip(f"no file system of our own ({done.stderr.strip()}): only the limit on the size of files is tested")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


class Filler:
    """Works on a store while the disk fills up and gets room again."""

    def __init__(self, store: Store, clock: Clock, rng: random.Random) -> None:
        self.store, self.clock, self.rng = store, clock, rng
        self.told = Told()
        self.made = self.refused = 0
        self.pad = b""

    def step(self) -> bool:
        """One accept, and now and then the other strokes; False where the disk refused the accept."""
        self.clock.now += self.rng.choice((0.1, 5.0))
        number = self.rng.randint(1, 40)
        for stroke in self.rng.sample((self.store.tidy, self.deliver, lambda: None), 2):
            try:
                stroke()
            except DiskTrouble:
                self.refused += 1
        try:
            more = b',"more":"%s"}' % self.pad
            new = entries("t", self.made, number)
            records = self.store.accept(
                [Entry(entry.image_id, entry.timestamp, entry.body[:-1] + more) for entry in new]
            )
        except (DiskTrouble, BufferFull):
            self.refused += 1
            return False
        self.made += number
        self.told.note("ack", {record.seq: google_crc32c.value(record.payload) for record in records})
        return True

    def deliver(self) -> None:
        page = self.store.pending(0, self.rng.randint(1, 30), 1 << 20)
        self.told.note("sent", {record.seq: 0 for record in page})
        self.store.settle([Outcome(Fate.SENT, tuple(record.seq for record in page))])

    def until_refused(self) -> None:
        for _ in range(5_000):
            if not self.step():
                return
        raise AssertionError("the disk never got full")


def test_disk_filled_to_the_brim_loses_nothing_and_comes_back_by_itself(small_disk, folder, capsys):
    clock = Clock(1_000.0)
    store = Store.open(
        DEVICE, options(Order(act="", folder=str(small_disk), capacity_bytes=CAPACITY_BYTES, sync=False), clock)
    )
    filler = Filler(store, clock, random.Random(SEED))
    ballast = small_disk / "ballast"
    for round_ in range(ROUNDS):
        # Somebody else takes what is left, or leaves the last of it to the device: it fails at any kind of write.
        ballast.write_bytes(bytes(max(0, shutil.disk_usage(small_disk).free - filler.rng.choice((0, 4096, 100_000)))))
        filler.until_refused()
        for _ in range(10):
            filler.step()
        ballast.unlink()
        came_back = [filler.step() for _ in range(3)]
        assert came_back[-1], f"round {round_}: there is room again, and nobody had to help"
        make_room(filler)
    copied = folder / "killed"
    shutil.copytree(small_disk, copied)
    filler.told.check(start(copied, CAPACITY_BYTES))
    store.close()
    with capsys.disabled():
        print(f"\ntmpfs of {DISK_BYTES} bytes: full {ROUNDS} times, {filler.refused} refusals, {filler.made} receipts")
    assert filler.refused > ROUNDS


def make_room(filler: Filler) -> None:
    """The cloud confirms everything, and the store tidies up, as far as the full disk lets it."""
    for _ in range(400):
        try:
            filler.deliver()
            filler.store.tidy()
        except (DiskTrouble, BufferFull):
            filler.refused += 1
        if not filler.store.pending_count:
            break


def test_disk_that_the_device_has_filled_by_itself_is_emptied_by_the_cloud(small_disk):
    """A capacity beyond the disk's own size: deliveries must still be written down, and make room."""
    clock = Clock(1_000.0)
    store = Store.open(
        DEVICE, options(Order(act="", folder=str(small_disk), capacity_bytes=CAPACITY_BYTES, sync=False), clock)
    )
    filler = Filler(store, clock, random.Random(SEED))
    filler.deliver = lambda: None  # type: ignore[method-assign]
    filler.pad = b"x" * 4_000
    filler.until_refused()
    del filler.deliver
    filler.pad = b""
    for _ in range(4):
        make_room(filler)
    came_back = [filler.step() for _ in range(3)]
    assert came_back[-1]
    store.close()
    filler.told.check(start(small_disk, CAPACITY_BYTES))


def test_disk_filled_by_somebody_else_at_the_start_is_named_and_waited_for(small_disk):
    clock = Clock(1_000.0)
    order = Order(act="", folder=str(small_disk), capacity_bytes=CAPACITY_BYTES, sync=False)
    told = Told()
    store = Store.open(DEVICE, options(order, clock))
    told.note("ack", {r.seq: google_crc32c.value(r.payload) for r in store.accept(entries("t", 0, 50))})
    store.close()
    (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    with contextlib.suppress(DiskTrouble):
        Store.open(DEVICE, options(order, clock)).close()
    (small_disk / "ballast").unlink()
    told.check(start(small_disk, CAPACITY_BYTES))


def test_disk_that_is_read_only_at_the_start_is_named_and_waited_for(small_disk):
    clock = Clock(1_000.0)
    order = Order(act="", folder=str(small_disk / "state"), capacity_bytes=CAPACITY_BYTES, sync=False)
    told = Told()
    store = Store.open(DEVICE, options(order, clock))
    told.note("ack", {r.seq: google_crc32c.value(r.payload) for r in store.accept(entries("t", 0, 50))})
    store.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(DiskTrouble, match=r"[Rr]ead-only"):
        Store.open(DEVICE, options(order, clock))
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    told.check(start(small_disk / "state", CAPACITY_BYTES))


@pytest.mark.process
@pytest.mark.parametrize("journal", [True, False])
def test_limit_on_the_size_of_files_loses_nothing_and_is_left_again(folder, capsys, journal):
    """RLIMIT_FSIZE: what any user can test; the writes fail in the middle, as on a full disk."""
    told = Told()
    with device() as process:
        order = Order(
            act="limited",
            folder=str(folder / "d"),
            file_bytes_max=FILE_BYTES_MAX,
            journal=journal,
            sync=False,
            segment_bytes_max=8 << 20,
        )
        lines = process.run(order)
    keep_books(told, lines)
    assert lines[-1] == "back"
    told.check(start(folder / "d"))
    with capsys.disabled():
        print(f"\nRLIMIT_FSIZE {FILE_BYTES_MAX}, journal={journal}: {len(told.payloads)} receipts")
    assert len(told.payloads) >= 50
