"""The commands that only look into a buffer: `buffer stats`, `list`, `show` and `export`."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from actors.commands.options import Problem, json_option, say, tells, with_settings
from actors.commands.words import columns, count, moment, size
from actors.ports.door import flushed
from actors.ports.opening import NoBooks
from actors.ports.reading import STATUSES, ConditionWrong, Reading, open_reading
from actors.settings import Settings

where_option = click.option("--where", metavar="SQL", default="", help="Only rows that this condition holds for.")
status_option = click.option("--status", type=click.Choice(STATUSES), help="Only rows in this status.")
image_option = click.option("--image", metavar="NAME", help="Only rows of the image with this name.")


@click.command()
@json_option
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the JSON to this file.")
@with_settings("buffer_db_path")
@tells(NoBooks, OSError)
def stats(settings: Settings, *, as_json: bool, output: Path | None) -> None:
    """Show counts, sizes and ages."""
    with looking(settings) as reading:
        found = reading.stats()
    if output is not None:
        output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        click.echo(f"written to {output}")
        return
    say(as_json, found, columns(_rows(found)))


def _rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    given_up = ", ".join(f"{count(number)} {reason}" for reason, number in found["given_up"].items()) or "0"
    journal = size(found["journal_bytes"])
    if found["in_journal"]:
        journal += f", with {count(found['in_journal'])} that are not in the database yet; they count as pending"
    return [
        ("buffer", found["buffer"]),
        ("device", f"{found['edge_device_id']}, stream {found['stream_id']}"),
        ("made", moment(found["created_at"])),
        ("numbers", f"1 to {count(found['last_seq'])}" if found["last_seq"] else "none yet"),
        ("pending", f"{count(found['pending'])}, the oldest since {moment(found['oldest_pending_at'])}"),
        ("sent", f"{count(found['sent'])} kept here, {count(found['total_sent'])} in all"),
        ("failed", count(found["failed"])),
        ("given up", given_up),
        ("images from", f"{moment(found['first_timestamp'])} to {moment(found['last_timestamp'])}"),
        ("database", f"{size(found['database_bytes'])}, {size(found['free_bytes'])} of it free"),
        ("write-ahead", size(found["wal_bytes"])),
        ("journal", journal),
        ("set aside", size(found["quarantine_bytes"])),
        ("cleaned up", moment(found["last_cleanup"])),
    ]


@click.command("list")
@json_option
@status_option
@image_option
@where_option
@click.option("-n", "--limit", type=click.IntRange(1, 1_000_000), default=20, help="At most so many.  [default: 20]")
@click.option("--oldest", is_flag=True, help="The oldest first.")
@with_settings("buffer_db_path")
@tells(NoBooks, ConditionWrong)
def list_(
    settings: Settings, *, as_json: bool, status: str | None, image: str | None, where: str, limit: int, oldest: bool
) -> None:
    """List rows, the newest first."""
    with looking(settings) as reading:
        chosen = [reading.of_status(status) if status else "", reading.of_image(image) if image else ""]
        found = reading.rows(where, among=" AND ".join(filter(None, chosen)), count_max=limit, newest=not oldest)
    table = [("ID", "STATUS", "IMAGE", "TAKEN", "SENT", "TRIES", "LAST ERROR")]
    table += [
        (
            str(row["id"]),
            row["status"],
            row["image_id"],
            moment(row["timestamp"]),
            moment(row["sent_at"]),
            str(row["retry_count"]),
            (row["last_error"] or "")[:80],
        )
        for row in found
    ]
    say(as_json, found, columns(table) if found else ["no rows"])


@click.command()
@json_option
@click.argument("seq", metavar="ID", type=click.IntRange(min=1))
@with_settings("buffer_db_path")
@tells(NoBooks)
def show(settings: Settings, *, as_json: bool, seq: int) -> None:
    """Show one row with its prediction. ID is the prediction's number."""
    with looking(settings) as reading:
        row = reading.one(seq)
        if row is None:
            raise Problem(f"there is no row {seq}: {reading.fate(seq)}")
    lines = columns([(name, _cell(name, value)) for name, value in row.items() if name != "prediction"])
    lines.append(json.dumps(row["prediction"], indent=2, ensure_ascii=False))
    say(as_json, row, lines)


def _cell(name: str, value: object) -> str:
    if name in ("timestamp", "buffered_at", "sent_at") and isinstance(value, float | None):
        return moment(value)
    return "-" if value is None else str(value)


@click.command()
@status_option
@where_option
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="A file; without it, stdout.")
@click.option("--json", "as_json", is_flag=True, help="Say how many were written as JSON (with --output).")
@with_settings("buffer_db_path")
@tells(NoBooks, ConditionWrong, OSError)
def export(settings: Settings, *, as_json: bool, status: str | None, where: str, output: Path | None) -> None:
    """Write rows as lines of JSON, predictions byte for byte.

    Each line names the stream and the number, so that `buffer import` can put it back where it was.
    """
    written = 0
    with looking(settings) as reading:
        lines = reading.export(where, among=reading.of_status(status) if status else "")
        if output is None:
            for line in lines:
                sys.stdout.buffer.write(line)
            for left_out in damaged(reading):
                click.echo(left_out, err=True)
            return
        # Complete or not there: a disk that fills up halfway leaves no half of an export.
        part = output.with_name(output.name + ".part")
        try:
            with part.open("wb") as file:
                for line in lines:
                    file.write(line)
                    written += 1
            part.replace(output)
        finally:
            part.unlink(missing_ok=True)
    say(
        as_json,
        {"written": written, "file": str(output), "damaged": reading.damaged},
        [f"{count(written, 'row')} written to {output}", *damaged(reading)],
    )


@contextmanager
def looking(settings: Settings) -> Iterator[Reading]:
    """The buffer, for as long as the block. A device that runs is asked first to bring all that it knows into it."""
    if trouble := flushed(settings.buffer_db_path):
        click.echo(f"warning: {trouble}: what its journal alone holds is told as pending, confirmed or not", err=True)
    with open_reading(settings.buffer_db_path) as reading:
        yield reading


def damaged(reading: Reading) -> list[str]:
    """What an export says of the rows that it left out; nothing where there are none."""
    if not reading.damaged:
        return []
    some = ", ".join(str(seq) for seq in reading.damaged[:10])
    return [f"{count(len(reading.damaged), 'row')} left out, changed on the disk since accepted: {some}"]
