"""A service around a ledger in memory, on an inline lane, and the words to speak to it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx
import msgspec

from cloud import wire
from cloud.keyring import Keyring
from cloud.keys import Keys
from cloud.ledger import Batch, Record
from cloud.ledger.lane import run_inline
from cloud.ledger.sqlite import MEMORY, SqliteLedger, open_ledger
from cloud.limits import Limits
from cloud.service import create_app

NOON = 1_769_596_240.0


@attrs.define
class Clock:
    at: float = NOON

    def __call__(self) -> float:
        return self.at


@attrs.frozen
class Service:
    client: httpx.AsyncClient
    ledger: SqliteLedger
    clock: Clock
    app: Any

    async def post(self, *payloads: bytes, device="cam", stream: str | None = "s1", **more) -> httpx.Response:
        return await self.client.post("/log", content=envelope(*payloads, device=device, stream=stream, **more))

    async def get(self, path: str, **params):
        answer = await self.client.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def audit(self, device="cam"):
        return await self.get(f"/devices/{device}/audit")


@asynccontextmanager
async def service(
    *,
    keys: Keys | None = None,
    limits: Limits | None = None,
    keyring: Keyring | None = None,
    run_sync=run_inline,
    **ledger_knobs,
) -> AsyncIterator[Service]:
    clock = Clock()
    async with open_ledger(MEMORY, run_sync=run_sync, synchronous="OFF", now=clock, **ledger_knobs) as ledger:
        app: Any = create_app(ledger, keyring=keyring or Keyring(keys or Keys()), limits=limits, now=clock)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://cloud") as client:
            yield Service(client, ledger, clock, app)


def payload(seq: int | None = None, *, classes=("defect",), **changes) -> bytes:
    """A good prediction's JSON; `changes` replace or add fields."""
    fields = {
        "image_id": f"frame_{seq}",
        "timestamp": NOON + (seq or 0),
        "model_version": "v1.0",
        "model_name": "yolov8-defect",
        "inference_time_ms": 45.2,
        "detections": [{"class": name, "confidence": 0.95, "bbox": [100, 100, 200, 200]} for name in classes],
        "defect_detected": bool(classes),
        "confidence_scores": [0.95] * len(classes),
    }
    body = msgspec.json.encode(fields | changes)
    return body if seq is None else wire.number_payload(seq, body)


def envelope(*payloads: bytes, device="cam", stream: str | None = "s1", losses=(), **more) -> bytes:
    head = {"edge_device_id": device, "losses": [wire.Loss(*loss) for loss in losses], **more}
    if stream is not None:
        head["stream_id"] = stream
    return msgspec.json.encode(head)[:-1] + b',"predictions":[' + b",".join(payloads) + b"]}"


def batch(
    *seqs: int | None, device="cam", stream: str | None = "s1", received_at=NOON, losses=(), rejected=(), **record
) -> Batch:
    """A batch as the ledger takes it, without the way through JSON."""
    fields: dict[str, Any] = {
        "timestamp": NOON,
        "inference_time_ms": 45.0,
        "model_name": "m",
        "model_version": "v1",
        "defect_detected": False,
        "classes": None,
    }
    records = tuple(Record(seq=seq, payload=f'{{"seq":{seq}}}', **(fields | record)) for seq in seqs)
    refused = tuple(wire.Rejection(index=0, seq=seq, error=error) for seq, error in rejected)
    lost = tuple(wire.Loss(*loss) for loss in losses)
    return Batch(
        device, stream, records, refused, lost, late=False, pending=None, received_at=received_at, bytes_plain=100
    )
