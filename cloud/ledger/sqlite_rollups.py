"""The rollups in SQLite: added to with every insert."""

import sqlite3
from collections.abc import Iterable

import msgspec

from cloud.ledger import Record, rollups
from cloud.ledger.rollups import COLUMNS, EVER, MINUTE, Key, Rollup

ROWS_PENDING_MAX = 10_000
"""How many rollups the filling of a new table holds in memory."""

TABLES = (
    f"""CREATE TABLE rollups (
        grain_s INTEGER NOT NULL, /* what one row spans: 0 all time, 3600, 60 */
        start INTEGER NOT NULL,
        device_no INTEGER NOT NULL,
        model_no INTEGER NOT NULL,
        {", ".join(f"{column} {'REAL' if '_s' in column[-4:] else 'INTEGER'} NOT NULL" for column in COLUMNS)},
        PRIMARY KEY (grain_s, start, device_no, model_no)) WITHOUT ROWID""",
    # A question about one device does not read the others'.
    "CREATE INDEX rollups_by_device ON rollups (device_no, grain_s, start)",
)

_ADD = f"""INSERT INTO rollups (grain_s, start, device_no, model_no, {", ".join(COLUMNS)})
    VALUES (?, ?, ?, ?{", ?" * len(COLUMNS)}) ON CONFLICT DO UPDATE SET
    {
    ", ".join(
        f"{column} = max({column}, excluded.{column})"
        if "_max_" in column
        else f"{column} = {column} + excluded.{column}"
        for column in COLUMNS
    )
}"""  # noqa: S608 - column names of our own


def add(db: sqlite3.Connection, rows: Iterable[tuple[int, int, Key, Rollup]]) -> None:
    """Add rollups of a device and a model to what is stored."""
    db.executemany(_ADD, [(key.grain, key.start, device, model, *rollup.row()) for device, model, key, rollup in rows])


def forget_minutes(db: sqlite3.Connection, now: float, rows_max: int) -> int:
    """Delete up to `rows_max` minutes that nobody may ask for any more; how many went."""
    return db.execute(
        "DELETE FROM rollups WHERE (grain_s, start, device_no, model_no) IN"
        " (SELECT grain_s, start, device_no, model_no FROM rollups WHERE grain_s = ? AND start < ? LIMIT ?)",
        (MINUTE, rollups.minutes_from(now), rows_max),
    ).rowcount


def fill(db: sqlite3.Connection) -> None:
    """Make the rollups of all that is stored, and take over the tallies, which know also what retention dropped."""
    newest = db.execute("SELECT received_at FROM predictions ORDER BY number DESC LIMIT 1").fetchone()
    held: dict[tuple[int, int, Key], Rollup] = {}

    def flush() -> None:
        add(db, [(device, model, key, rollup) for (device, model, key), rollup in held.items()])
        held.clear()

    rows = db.execute(
        "SELECT device_no, model_no, timestamp, received_at, late, defect_detected, payload FROM predictions"
    )
    decode = msgspec.json.Decoder(_Timed).decode
    for device, model, timestamp, received_at, late, defect, payload in rows:
        record = Record(None, "", timestamp, decode(payload).inference_time_ms, "", "", bool(defect), None)
        for key, rollup in rollups.roll_up([record], received_at, late=bool(late)).items():
            if key.grain != MINUTE or key.start >= rollups.minutes_from(newest[0]):
                held.setdefault((device, model, key), Rollup()).add(rollup)
        if len(held) >= ROWS_PENDING_MAX:
            flush()
    flush()
    db.execute(
        f"""INSERT INTO rollups SELECT {EVER}, 0, device_no, model_no, predictions, defects{", 0" * (len(COLUMNS) - 2)}
        FROM tallies WHERE true
        ON CONFLICT DO UPDATE SET predictions = excluded.predictions, defects = excluded.defects"""  # noqa: S608
    )


class _Timed(msgspec.Struct):
    inference_time_ms: float
