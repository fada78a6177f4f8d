"""What the last release left on a device: its buffer, and the journal of a process that was killed."""

import contextlib
import random
import sqlite3
from pathlib import Path

import google_crc32c
import msgspec

from actors.messages import Receipt
from chaos.sim.callers import predict
from chaos.sim.host import Host
from chaos.sim.plan import Fault
from cloud.wire import encode_prediction, number_payload

PAST = Path(__file__).parents[1] / "past" / "buffer-1.sql"
"""A buffer that version 0.1.0 wrote: its tables are taken, its rows are not."""
ROWS_MAX = 12


def leave_behind(host: Host) -> None:
    """Predictions that the last release accepted, some of them in its buffer, some in its journal, some in both."""
    rng = host.dice("past")
    stream = f"stream-{rng.randrange(2**32):08x}"
    payloads: dict[int, bytes] = {}
    for seq in range(1, rng.randrange(2, 2 * ROWS_MAX)):
        prediction = predict(host, rng)
        payloads[seq] = number_payload(seq, encode_prediction(prediction))
        host.books.made[prediction.image_id].life = -1
        host.books.receive(prediction.image_id, Receipt(stream, seq, durable=True))
    in_buffer = rng.randrange(len(payloads) + 1)
    in_journal_from = rng.randrange(1, in_buffer + 2)

    def fill(folder: Path) -> None:
        _write_buffer(folder / "buffer.db", stream, host, {seq: payloads[seq] for seq in range(1, in_buffer + 1)}, rng)
        lines = {seq: payload for seq, payload in payloads.items() if seq >= in_journal_from}
        if lines:
            _write_segment(folder / "buffer-journal", stream, host.name, lines)

    host.drive.furnish(fill)
    host.met(Fault.UPGRADED)
    host.tell(f"the last release left {in_buffer} rows, and a segment from {in_journal_from} to {len(payloads)}")


def _write_buffer(path: Path, stream: str, host: Host, payloads: dict[int, bytes], rng: random.Random) -> None:
    tables = [line for line in PAST.read_text().splitlines() if not line.startswith(("INSERT INTO", "DELETE FROM"))]
    now = host.clock()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript("\n".join(tables))
        crc = google_crc32c.value(stream.encode())
        counts = (len(payloads), len(payloads), 0, 0, 0)
        connection.execute(
            "INSERT INTO buffer_metadata VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)",
            (stream, crc, host.name, now, *counts),
        )
        for seq, payload in payloads.items():
            content = msgspec.json.decode(payload)
            retries = rng.choice((0, 0, 3))
            connection.execute(
                "INSERT INTO prediction_buffer VALUES (?, ?, ?, ?, ?, NULL, 'pending', ?, ?)",
                (seq, payload.decode(), content["image_id"], content["timestamp"], now, retries, "ConnectError"),
            )


def _write_segment(folder: Path, stream: str, device: str, payloads: dict[int, bytes]) -> None:
    folder.mkdir(mode=0o700)
    first = min(payloads)
    about = (
        b'{"holdfast_journal":1,"stream_id":"%b","device_id":"%b","session_id":"01a2134298b38611",'
        b'"boot_id":"","started_at":1.0,"first_seq":%d,"model":""}'
    ) % (stream.encode(), device.encode(), first)
    lines = [b'{"crc32c":"%08x","header":%b}\n' % (google_crc32c.value(about), about)]
    for seq, payload in payloads.items():
        lines.append(b'{"seq":%d,"crc32c":"%08x","payload":%b}\n' % (seq, google_crc32c.value(payload), payload))
    (folder / f"{first:020d}-01a2134298b38611.jsonl").write_bytes(b"".join(lines))
