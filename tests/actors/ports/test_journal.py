"""The journal keeps every acknowledged line, whatever happens to the bytes around it."""

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.ports.journal import (
    FORMAT_VERSION,
    Header,
    Journal,
    JournalError,
    decode_line,
    encode_line,
    orphans,
    scan,
    scan_bytes,
)
from cloud.wire import number_payload

BODY = b'{"image_id":"frame_001","note":"a \\u00e9 and a newline \\n inside"}'


def header(first_seq: int) -> Header:
    return Header(
        holdfast_journal=FORMAT_VERSION,
        stream_id="S",
        device_id="cam",
        session_id="s1",
        boot_id="",
        started_at=1.0,
        first_seq=first_seq,
    )


def payloads(first: int, count: int) -> list[bytes]:
    return [number_payload(seq, BODY) for seq in range(first, first + count)]


def line(seq: int, payload: bytes) -> bytes:
    return encode_line(seq, payload, google_crc32c.value(payload))


def lines(first: int, count: int) -> list[bytes]:
    return [line(seq, payload) for seq, payload in enumerate(payloads(first, count), first)]


def segment(tmp_path: Path, count: int = 5, first: int = 1) -> Path:
    journal = Journal(tmp_path / "j", describe=header)
    journal.append(first, lines(first, count))
    journal.rotate()
    return orphans(tmp_path / "j")[0]


def test_segment_is_json_lines_a_person_can_read(tmp_path):
    lines = [json.loads(line) for line in segment(tmp_path, 2).read_text().splitlines()]
    assert lines[0]["header"]["holdfast_journal"] == FORMAT_VERSION
    assert lines[0]["header"]["stream_id"] == "S"
    assert [line["seq"] for line in lines[1:]] == [1, 2]
    assert lines[1]["payload"]["image_id"] == "frame_001"


def test_files_are_private(tmp_path):
    path = segment(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_torn_tail_is_cut_and_all_before_it_is_kept(tmp_path):
    data = segment(tmp_path, 3).read_bytes()
    last_line = data[: data.rindex(b"\n", 0, -1) + 1]
    for end in range(len(last_line), len(data) - 1):
        seen = scan_bytes(tmp_path, data[:end])
        assert [seq for seq, _ in seen.records] == [1, 2]
        assert seen.lost == ()
        assert seen.torn == data[len(last_line) : end]


@pytest.mark.parametrize("end", [b"", b"\x0b"])
def test_line_that_lacks_only_its_newline_counts(tmp_path, end):
    seen = scan_bytes(tmp_path, segment(tmp_path, 3).read_bytes()[:-1] + end)
    assert [seq for seq, _ in seen.records] == [1, 2, 3]
    assert seen.torn == b""


def test_bad_line_in_the_middle_loses_its_number_and_nothing_else(tmp_path):
    data = bytearray(segment(tmp_path, 5).read_bytes())
    at = data.index(b'"seq":3,"image_id"') + 12
    data[at] ^= 1
    seen = scan_bytes(tmp_path, bytes(data))
    assert [seq for seq, _ in seen.records] == [1, 2, 4, 5]
    assert seen.lost == ((3, 3),)
    assert len(seen.damage) == 1
    assert seen.damage[0].lines == 1


def test_bad_last_line_burns_its_number(tmp_path):
    """A complete line that can't be read was acknowledged: its number may have reached the cloud."""
    data = bytearray(segment(tmp_path, 3).read_bytes())
    data[-10] ^= 1
    seen = scan_bytes(tmp_path, bytes(data))
    assert seen.lost == ((3, 3),)
    assert seen.last_seq == 3


def test_every_single_bit_flip_is_found_and_accounted_for(tmp_path):
    """Whatever byte is hit: each number is either read back with its own payload, or named as lost."""
    data = segment(tmp_path, 3).read_bytes()
    whole = dict(scan_bytes(tmp_path, data).records)
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 0x04
        seen = scan_bytes(tmp_path, bytes(flipped))
        named = {seq for first, last in seen.lost for seq in range(first, last + 1)}
        for seq, payload in seen.records:
            assert whole[seq] == payload
        assert named | {seq for seq, _ in seen.records} >= {1, 2, 3}, f"byte {at}"
        assert seen.header is None or seen.header == header(1), f"byte {at}"


@pytest.mark.parametrize("data", [b"", b"\n", b"\x00" * 4096, b"not a journal\nat all\n", b"\xff\xfe\n\xff"])
def test_foreign_files_hold_no_records_and_raise_nothing(tmp_path, data):
    seen = scan_bytes(tmp_path, data)
    assert seen.records == ()
    assert sum(len(damage.data) for damage in seen.damage) + len(seen.torn) == len(data)


def test_missing_header_keeps_the_records(tmp_path):
    data = segment(tmp_path, 2).read_bytes()
    seen = scan_bytes(tmp_path, data[data.index(b"\n") + 1 :])
    assert seen.header is None
    assert [seq for seq, _ in seen.records] == [1, 2]


def test_zeroed_page_in_the_middle_is_stepped_over(tmp_path):
    data = bytearray(segment(tmp_path, 200).read_bytes())
    data[4096:8192] = bytes(4096)
    seen = scan_bytes(tmp_path, bytes(data))
    named = {seq for first, last in seen.lost for seq in range(first, last + 1)}
    assert named | {seq for seq, _ in seen.records} == set(range(1, 201))
    assert len(seen.records) > 100
    assert not named & {seq for seq, _ in seen.records}


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.randoms(use_true_random=False))
def test_good_lines_survive_any_garbage_between_them(junk, rng):
    whole = lines(1, 5)
    for piece in junk:
        whole.insert(rng.randrange(len(whole) + 1), piece.replace(b"\n", b" ") + b"\n")
    seen = scan_bytes(Path("x"), b"".join(whole))
    assert [seq for seq, _ in seen.records] == [1, 2, 3, 4, 5]


@given(st.integers(1, 2**63 - 1), st.binary(max_size=200))
def test_line_round_trip(seq, rest):
    payload = number_payload(seq, b"{" + rest.replace(b"\n", b"") + b"}")
    assert decode_line(line(seq, payload)[:-1]) == (seq, payload)


def test_rotation_and_retirement(tmp_path):
    journal = Journal(tmp_path, describe=header, segment_bytes_max=400)
    for seq in range(1, 11):
        journal.append(seq, lines(seq, 1))
    names = [path.name for path in orphans(tmp_path)]
    assert len(names) >= 3
    last = [scan(path).last_seq for path in orphans(tmp_path)]
    assert journal.retire(last[0] - 1) == 0
    assert journal.retire(last[0]) == 1
    assert [path.name for path in orphans(tmp_path)] == names[1:]
    journal.rotate()
    journal.retire(10)
    assert orphans(tmp_path) == []
    assert journal.size_bytes == 0


def test_size_is_what_the_files_hold(tmp_path):
    journal = Journal(tmp_path, describe=header, segment_bytes_max=600)
    for seq in range(1, 8):
        journal.append(seq, lines(seq, 1))
        assert journal.size_bytes == sum(path.stat().st_size for path in orphans(tmp_path))


def test_group_is_one_write_and_one_sync(tmp_path, monkeypatch):
    syncs: list[int] = []
    journal = Journal(tmp_path, describe=header, sync=syncs.append)
    journal.append(1, lines(1, 1))
    syncs.clear()
    writes: list[int] = []
    real = os.write

    def write(fd, data):
        writes.append(len(data))
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    journal.append(2, lines(2, 500))
    assert len(writes) == 1
    assert len(syncs) == 1


def test_full_disk_in_the_middle_of_a_group_leaves_no_half_line(tmp_path, monkeypatch):
    """ENOSPC after half the bytes: nothing of the group counts, and the numbers belong to the next group alone."""
    journal = Journal(tmp_path, describe=header)
    journal.append(1, lines(1, 2))
    real = os.write
    calls: list[int] = []

    def half_then_full(fd, data):
        calls.append(len(data))
        if len(calls) == 1:
            return real(fd, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", half_then_full)
        with pytest.raises(JournalError, match="No space left"):
            journal.append(3, lines(3, 4))
    accepted = number_payload(3, b'{"image_id":"another"}')
    journal.append(3, [line(3, accepted)])
    seen = scan(orphans(tmp_path)[0])
    assert [seq for seq, _ in seen.records] == [1, 2, 3]
    assert seen.records[-1] == (3, accepted)
    assert seen.damage == ()
    assert journal.size_bytes == orphans(tmp_path)[0].stat().st_size


def test_failed_sync_ends_the_segment(tmp_path):
    """After a failed fsync nobody knows what the kernel still holds: the group goes into a new file."""
    fail: list[bool] = []

    def sync(fd):
        if fail:
            raise OSError(errno.EIO, "Input/output error")
        os.fdatasync(fd)

    journal = Journal(tmp_path, describe=header, sync=sync)
    journal.append(1, lines(1, 2))
    fail.append(True)
    with pytest.raises(JournalError):
        journal.append(3, lines(3, 1))
    fail.clear()
    journal.append(3, lines(3, 1))
    first, second = (scan(path) for path in orphans(tmp_path))
    assert [seq for seq, _ in first.records] == [1, 2]
    assert [seq for seq, _ in second.records] == [3]


def test_sync_on_a_disk_that_is_read_only_by_then_is_none(tmp_path, monkeypatch):
    """ext4 says that all is well: the write lies in memory, and the disk never gets it."""
    journal = Journal(tmp_path, describe=header)
    journal.append(1, lines(1, 2))
    real = os.fstatvfs
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstatvfs", lambda fd: SimpleNamespace(f_flag=real(fd).f_flag | os.ST_RDONLY))
        with pytest.raises(JournalError, match="Read-only file system"):
            journal.append(3, lines(3, 1))
    journal.append(3, lines(3, 1))
    assert [[seq for seq, _ in scan(path).records] for path in orphans(tmp_path)] == [[1, 2], [3]]


def test_disk_that_fails_at_the_header_leaves_nothing_behind_and_heals(tmp_path):
    fail = [True]

    def sync(fd):
        if fail:
            raise OSError(errno.EIO, "Input/output error")

    journal = Journal(tmp_path, describe=header, sync=sync)
    for _ in range(3):
        with pytest.raises(JournalError):
            journal.append(1, lines(1, 1))
    assert orphans(tmp_path) == []
    fail.clear()
    journal.append(1, lines(1, 1))
    journal.retire(0)
    assert [seq for seq, _ in scan(orphans(tmp_path)[0]).records] == [1]


@pytest.mark.parametrize("goes_on_at", [1, 4])
def test_segment_that_a_read_only_disk_would_not_let_go_is_no_orphan(tmp_path, monkeypatch, goes_on_at):
    failing = [True]

    def refuse(*_, **__):
        if failing[0]:
            raise OSError(errno.EROFS, "Read-only file system")

    journal = Journal(tmp_path, describe=header, sync=refuse)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(JournalError):
            journal.append(1, lines(1, 1))
        patch.setattr(os, "open", refuse)
        with pytest.raises(JournalError):  # the same name, which can't be opened any more: what lies there still does
            journal.append(1, [])
    assert len(orphans(tmp_path)) == 1
    failing[0] = False
    journal.append(goes_on_at, lines(goes_on_at, 2))  # what lies between was committed elsewhere, or nothing does
    journal.retire(goes_on_at - 1)
    (left,) = orphans(tmp_path)
    assert [seq for seq, _ in scan(left).records] == [goes_on_at, goes_on_at + 1]


def test_hole_in_the_numbers_ends_a_segment(tmp_path):
    """What lies between was committed in SQLite: it must not look lost."""
    journal = Journal(tmp_path, describe=header)
    journal.append(1, lines(1, 2))
    journal.append(7, lines(7, 1))
    assert [scan(path).lost for path in orphans(tmp_path)] == [(), ()]
    journal.rotate()
