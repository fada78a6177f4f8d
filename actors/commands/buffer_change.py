"""The commands that change a buffer: each finds the rows itself, read-only, and asks the owner of the disk to do it."""

import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import click

from actors.commands.buffer_read import where_option
from actors.commands.options import Problem, json_option, say, tells, with_settings, yes_option
from actors.commands.words import count, moment, size
from actors.ports.chores import pieces
from actors.ports.exports import Exported, read_exports
from actors.ports.opening import (
    BufferFull,
    DiskTrouble,
    NoBooks,
    StoreLocked,
    StoreMisplaced,
    new_stream_id,
    store_options,
)
from actors.ports.owner import Owner, owner_of
from actors.ports.reading import ConditionWrong, open_reading
from actors.settings import Settings
from actors.tasks import Done, Saved, Task, TaskKind, TaskRefused
from cloud.wire import WireError

NUMBERS_A_TASK = 5_000
ROWS_A_TASK = 200
"""Small enough that no accept of the running device waits long for it."""
DAY_S = 86_400.0
UNITS_S = {"s": 1.0, "min": 60.0, "h": 3_600.0, "d": DAY_S}

changes = tells(
    *(NoBooks, ConditionWrong, StoreLocked, StoreMisplaced, DiskTrouble, BufferFull, TaskRefused, WireError, OSError)
)
"""What an operator can mend."""
change_settings = with_settings("buffer_db_path", "buffer_max_size_mb")


@click.command("reset-failed")
@json_option
@where_option
@change_settings
@changes
def reset_failed(settings: Settings, *, as_json: bool, where: str) -> None:
    """Let quarantined predictions be tried again.

    They are pending again, with no tries counted and no error noted. The cloud may refuse them as it did before.
    """
    with owner(settings) as disk:
        done = on_rows(disk, TaskKind.RESET_FAILED, find(settings, disk, "status = 'failed'", where))
    say(as_json, told(done), [f"{count(done.changed, 'quarantined prediction')} will be tried again"])


@click.command()
@json_option
@yes_option
@click.option("--since", metavar="WHEN", help="Those confirmed since: '2h', '30min', '3d', or '2026-11-25 14:00'.")
@where_option
@change_settings
@changes
def replay(settings: Settings, *, as_json: bool, yes: bool, since: str | None, where: str) -> None:
    """Send predictions again that were sent already.

    For a cloud that was restored from an older backup. A cloud that has them already knows their numbers and stores
    nothing twice. Only what BUFFER_CLEANUP_DAYS has left in the buffer can be sent again.
    """
    if since is None and not where:
        raise Problem("say which: --since 2h, or --where with a condition (--where 1 for all that is kept)")
    status = "status = 'sent'"
    if since is not None:
        status += f" AND sent_at >= {parse_since(since, time.time())!r}"
    with owner(settings) as disk:
        spans = find(settings, disk, status, where)
        ask(f"{count(numbers(spans), 'sent prediction')} will be sent once more.", yes=yes or not spans)
        done = on_rows(disk, TaskKind.REPLAY, spans)
    say(as_json, told(done), [f"{count(done.changed, 'prediction')} will be sent again"])


@click.command()
@json_option
@yes_option
@click.option("--where", metavar="SQL", required=True, help="Of the pending and quarantined ones, those to give up.")
@change_settings
@changes
def discard(settings: Settings, *, as_json: bool, yes: bool, where: str) -> None:
    """Give predictions up; each number stays explained.

    Pending and quarantined predictions are deleted for good. A tombstone keeps their numbers, so the audit says
    'given up' and not 'missing'. Export them first if in doubt.
    """
    with owner(settings) as disk:
        spans = find(settings, disk, "status IN ('pending', 'failed')", where)
        ask(f"{count(numbers(spans), 'prediction')} will be lost for good.", yes=yes or not spans)
        done = on_rows(disk, TaskKind.DISCARD, spans)
    lines = [f"{count(done.changed, 'prediction')} given up"]
    if done.in_flight:
        lines.append(f"{count(done.in_flight)} left alone: on their way to the cloud at this moment; try again")
    say(as_json, told(done), lines)


@click.command()
@json_option
@yes_option
@click.option("--force", is_flag=True, help="All that were sent, whatever their age.")
@with_settings("buffer_db_path", "buffer_max_size_mb", "buffer_cleanup_days")
@changes
def cleanup(settings: Settings, *, as_json: bool, yes: bool, force: bool) -> None:
    """Delete sent predictions that are old enough.

    Old enough is BUFFER_CLEANUP_DAYS; the device does the same by itself. What is pending or quarantined stays.
    """
    now = time.time()
    before = now + DAY_S if force else now - settings.buffer_cleanup_days * DAY_S
    if force:
        ask("All sent predictions will be deleted here, so they can't be sent again.", yes=yes)
    with owner(settings) as disk:
        done = in_strokes(disk, Task(kind=TaskKind.CLEAN_UP, sent_before=before))
        in_strokes(disk, Task(kind=TaskKind.SHRINK))
    which = "of any age" if force else f"confirmed before {moment(before)}"
    say(as_json, told(done), [f"{count(done.changed, 'sent prediction')} deleted ({which})"])


@click.command()
@json_option
@change_settings
@changes
def vacuum(settings: Settings, *, as_json: bool) -> None:
    """Give free pages back to the file system.

    Done in small strokes, so that a running device accepts on meanwhile.
    """
    with owner(settings) as disk:
        flush(disk)
        before = database_bytes(settings)
        in_strokes(disk, Task(kind=TaskKind.SHRINK))
        after = database_bytes(settings)
    say(
        as_json,
        {"bytes_before": before, "bytes_after": after},
        [f"{size(before - after)} given back; the database has {size(after)} now"],
    )


@click.command()
@json_option
@change_settings
@changes
def repair(settings: Settings, *, as_json: bool) -> None:
    """Check the database, and replace it if it is damaged.

    A damaged one is set aside under another name, never deleted. A new one is filled from what reads of it and from
    the journal; what was sent but can't be read is sent again, and the cloud knows it. Exit code 1 if damage is left.
    """
    found = damage(settings)
    left: list[str] = []
    if found:
        with mender(settings) as disk:
            if damage(settings):  # opening it may have mended it already
                disk.perform(Task(kind=TaskKind.REBUILD))
            left = damage(settings)
    lines = ["the database is sound"] if not found else [*found, "replaced; the damaged one is set aside beside it"]
    if left:
        lines += ["still damaged:", *left]
    say(as_json, {"damage": found, "left": left}, lines)
    if left:
        raise SystemExit(1)


@click.command("import")
@json_option
@yes_option
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--as-new", is_flag=True, help="Take predictions of other buffers too, under new numbers.")
@change_settings
@changes
def import_(settings: Settings, *, as_json: bool, yes: bool, file: Path, as_new: bool) -> None:
    """Bring exported predictions back.

    Those of this buffer come back under their own numbers, pending; what is there already stays as it is, and the
    cloud stores nothing twice. Those of another buffer are refused, unless --as-new gives them new numbers: the cloud
    then stores them once more if it has them already.
    """
    with open_reading(settings.buffer_db_path) as reading:
        stream_id = reading.stream_id
    ours = foreign = 0
    for line in read_exports(file):  # once through before anything is changed: a bad line changes nothing
        ours, foreign = (ours + 1, foreign) if line.stream_id == stream_id else (ours, foreign + 1)
    if foreign and not as_new:
        raise Problem(
            f"{file}: {count(foreign, 'prediction')} of another buffer; nothing was imported. --as-new takes them under"
            " new numbers, and the cloud will store those twice that it has under the old ones"
        )
    if foreign:
        ask(f"{count(foreign, 'prediction')} will get new numbers.", yes=yes)
    restored, accepted = Done(), 0
    with owner(settings) as disk:
        flush(disk)
        for group in grouped((line for line in read_exports(file) if line.stream_id == stream_id), ROWS_A_TASK):
            rows = tuple(Saved(line.seq, bytes(line.prediction).decode(), line.buffered_at) for line in group)
            restored = added(restored, disk.perform(Task(kind=TaskKind.RESTORE, rows=rows)))
        for group in grouped((line for line in read_exports(file) if line.stream_id != stream_id), ROWS_A_TASK):
            accepted += disk.accept([line.as_new() for line in group])
    present = ours - restored.changed - restored.refused
    lines = [f"{count(restored.changed)} restored under their own numbers, {count(present)} were there already"]
    if restored.refused:
        lines.append(f"{count(restored.refused)} refused: no predictions with a number that this buffer has given out")
    if foreign:
        lines.append(f"{count(accepted)} accepted as new ones")
    found = {"restored": restored.changed, "present": present, "refused": restored.refused, "accepted_as_new": accepted}
    say(as_json, found, lines)


# --- what they share


@contextmanager
def owner(settings: Settings) -> Iterator[Owner]:
    """Whoever may change this buffer. What is no buffer is refused before it could be made one."""
    with open_reading(settings.buffer_db_path) as reading:
        device_id = reading.names[-1].device_id
    with _owner(settings, device_id) as found:
        yield found


@contextmanager
def mender(settings: Settings) -> Iterator[Owner]:
    """The owner of a buffer that may be too damaged to be read."""
    try:
        with open_reading(settings.buffer_db_path) as reading:
            device_id = reading.names[-1].device_id
    except NoBooks:
        device_id = ""
    with _owner(settings, device_id or settings.edge_device_id) as found:
        yield found


@contextmanager
def _owner(settings: Settings, device_id: str) -> Iterator[Owner]:
    # Under the buffer's own name: this shell's EDGE_DEVICE_ID may be another one, and a command renames no device.
    options = store_options(settings, now=time.time, new_id=new_stream_id, sync=os.fdatasync)
    with owner_of(options, device_id) as found:
        yield found


def flush(disk: Owner) -> None:
    """Have what only the journal holds moved to the table, where a condition finds what became of it."""
    disk.perform(Task(kind=TaskKind.FLUSH))


def find(settings: Settings, disk: Owner, status: str, where: str) -> list[tuple[int, int]]:
    """The numbers of the rows that both conditions hold for."""
    flush(disk)
    with open_reading(settings.buffer_db_path) as reading:
        return reading.spans(where, among=status)


def on_rows(disk: Owner, kind: TaskKind, spans: list[tuple[int, int]]) -> Done:
    """One task after the other, each on a bounded count of numbers."""
    done = Done()
    for piece in pieces(spans, NUMBERS_A_TASK):
        done = added(done, disk.perform(Task(kind=kind, spans=piece)))
    return done


def in_strokes(disk: Owner, task: Task) -> Done:
    """The same task until it finds nothing more to do."""
    done = disk.perform(task)
    while done.more:
        done = added(done, disk.perform(task))
    return done


def added(one: Done, other: Done) -> Done:
    """Both together; whether there is more is the later one's to say."""
    return Done(
        changed=one.changed + other.changed,
        in_flight=one.in_flight + other.in_flight,
        refused=one.refused + other.refused,
        more=other.more,
    )


def told(done: Done) -> dict[str, object]:
    """As JSON."""
    return {"changed": done.changed, "in_flight": done.in_flight, "refused": done.refused}


def ask(sentence: str, *, yes: bool) -> None:
    """Go on only if the operator says so."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Problem(f"{sentence} Nothing was done: say --yes to do it without being asked")
    click.confirm(f"{sentence} Go on?", abort=True)


def numbers(spans: Iterable[tuple[int, int]]) -> int:
    """How many numbers these are."""
    return sum(last - first + 1 for first, last in spans)


def damage(settings: Settings) -> list[str]:
    """What is wrong with the database, in words; nothing is changed. `NoBooks` if there is none."""
    if not settings.buffer_db_path.is_file():
        raise NoBooks(f"{settings.buffer_db_path}: there is no buffer")
    try:
        with open_reading(settings.buffer_db_path) as reading:
            return reading.problems()
    except NoBooks as exc:
        if "no such table" in str(exc):
            raise Problem(f"{settings.buffer_db_path}: a sound database, but of another program; left alone") from exc
        return [str(exc)]


def database_bytes(settings: Settings) -> int:
    """The pages of the database, free ones too."""
    with open_reading(settings.buffer_db_path) as reading:
        return int(reading.stats()["database_bytes"])


def grouped(lines: Iterable[Exported], count_max: int) -> Iterator[list[Exported]]:
    """In groups of at most so many."""
    group: list[Exported] = []
    for line in lines:
        group.append(line)
        if len(group) == count_max:
            yield group
            group = []
    if group:
        yield group


def parse_since(text: str, now: float) -> float:
    """`2h`, `30min`, `3d` before `now`, or a date and time of this machine's clock; seconds since 1970. `Problem`."""
    if found := re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(s|min|h|d)\s*", text):
        return now - float(found[1]) * UNITS_S[found[2]]
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError):
        raise Problem(f"--since {text!r}: it takes '2h', '30min', '3d', or a time like '2026-11-25 14:00'") from None
