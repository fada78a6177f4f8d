"""The device starts on what version 0.1.0 left behind: a buffer, and a journal that nobody had replayed."""

import shutil
import sqlite3

from chaos.stage import ROOT, Stage

PAST = ROOT / "chaos" / "past"
"""Recorded from the first version of the format: 40 rows pending, and 25 in the segment of a device that was killed."""


async def play(stage: Stage) -> None:
    """Every receipt that the old version gave is kept by the new one, which goes on in the same stream."""
    leave_buffer(stage)
    old = len(stage.books)
    async with stage.cloud(), stage.device() as device:
        stage.tell(f"started on a buffer and a journal with {old} predictions of the old version")
        await stage.pass_time(5, 2)
        await stage.finish(device)


def leave_buffer(stage: Stage) -> None:
    """The old version's files, and the receipts that it gave."""
    journal = stage.buffer.with_name("buffer-journal")
    journal.mkdir(mode=0o700)
    for segment in PAST.glob("*.jsonl"):
        shutil.copy(segment, journal)
    with sqlite3.connect(stage.buffer) as connection:
        connection.executescript((PAST / "buffer-1.sql").read_text())
    connection.close()
    for line in (PAST / "receipts-1.txt").read_text().splitlines():
        stream, seq, image = line.split()
        stage.books[stream, int(seq)] = image
