"""Record the ledger that a release's cloud leaves behind, for the tests of later ones (`chaos/past/ledger-*.sql`).

    git worktree add /tmp/release TAG
    PYTHONPATH=/tmp/release python tools/record_ledger.py chaos/past/ledger-2.sql

That release's own code stores what is sent here: a part of what the buffer of `chaos/past/` holds, as from a device
that never heard the answers, and another device's repeats, losses, conflict, rejected record and unnumbered ones.
"""

import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import trio

from cloud.ledger.sqlite import open_ledger
from cloud.service import create_app

PAST = Path(__file__).parents[1] / "chaos" / "past"
DEVICE, OTHER = "chaos", "other"
NOON = 1_769_596_200.0
"""When all of it was received."""
ARRIVED = (*range(1, 21), *range(25, 31))
"""Of the buffer's 40 rows, those whose batches reached the cloud."""


def _buffered() -> tuple[str, dict[int, Any]]:
    """The stream of the recorded buffer, and its payloads by number."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript((PAST / "buffer-1.sql").read_text())
        (stream,) = db.execute("SELECT stream_id FROM buffer_metadata").fetchone()
        rows = db.execute("SELECT id, prediction_data FROM prediction_buffer").fetchall()
    return str(stream), {seq: msgspec.Raw(payload.encode()) for seq, payload in rows}


def _prediction(seq: int | None, image_id: str, model_version: str = "1") -> dict[str, Any]:
    numbered = {} if seq is None else {"seq": seq}
    box = {"class": "scratch", "confidence": 0.5, "bbox": [1, 2, 3, 4]}
    return numbered | {
        "image_id": image_id,
        "timestamp": NOON - 60.0,
        "model_version": model_version,
        "model_name": "surface-defects",
        "inference_time_ms": 4.5,
        "detections": [box],
        "defect_detected": seq is not None and seq % 3 == 0,
        "confidence_scores": [0.5],
    }


def _bodies() -> list[dict[str, Any]]:
    def some(*seqs: int) -> list[dict[str, Any]]:
        return [_prediction(seq, f"other-{seq}") for seq in seqs]

    stream, buffered = _buffered()
    lost = {"from_seq": 15, "to_seq": 16, "reason": "evicted"}
    numbered = {"edge_device_id": OTHER, "stream_id": "other-stream"}
    return [
        {"edge_device_id": DEVICE, "stream_id": stream, "predictions": [buffered[seq] for seq in ARRIVED]},
        numbered | {"predictions": some(*range(1, 11))},
        numbered | {"predictions": some(*range(8, 15)), "late": True},
        numbered | {"predictions": some(*range(18, 22)), "losses": [lost]},
        numbered | {"predictions": [_prediction(3, "another")]},
        numbered | {"predictions": [_prediction(24, ""), _prediction(25, "other-25")]},
        {"edge_device_id": OTHER, "predictions": [_prediction(None, "plain-1"), _prediction(None, "plain-2", "2")]},
    ]


async def record(path: Path) -> None:
    """Have all of it stored in a new ledger."""
    async with open_ledger(str(path), now=lambda: NOON) as ledger:
        transport = httpx.ASGITransport(app=create_app(ledger, now=lambda: NOON))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://cloud.test") as client:
            for body in _bodies():
                (await client.post("/log", content=msgspec.json.encode(body))).raise_for_status()


def main(target: Path) -> None:
    """Record into the file `target`, as SQL."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cloud.db"
        trio.run(record, path)
        with closing(sqlite3.connect(path)) as db:
            target.write_text("\n".join(db.iterdump()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
