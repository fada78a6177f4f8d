"""A device on a virtual clock, the wire that it speaks over, and the real cloud app at the other end."""

import random
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import msgspec
import trio

from actors.pipeline import Ports, open_pipeline
from actors.ports.client import ApiKey, CloudClient
from actors.ports.detector import Sight
from actors.ports.lane import run_inline
from actors.settings import Settings
from cloud import wire
from cloud.ledger.sqlite import MEMORY, open_ledger
from cloud.service import create_app
from cloud.wire import Detection, Prediction

EPOCH = 1_700_000_000.0
DEVICE = "cam"
HALF = 0.5


class Halfway(random.Random):
    """Chance without surprise: every draw is the middle of its range."""

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * HALF


@attrs.frozen
class Arrival:
    """One request that reached the cloud: when, and for a POST which numbers it carried."""

    at: float
    method: str
    path: str
    seqs: tuple[int, ...] = ()
    late: bool = False


@attrs.define(eq=False)
class Wire(httpx.AsyncBaseTransport):
    """The way to the cloud, which notes what arrives. Down it refuses, silent it swallows."""

    inner: httpx.AsyncBaseTransport
    up: bool = True
    silent: bool = False
    posts_to_lose: int = 0
    """So many of the next POSTs do not arrive, whatever the probes say."""
    arrivals: list[Arrival] = attrs.Factory(list)
    attempts: list[float] = attrs.Factory(list)
    """When anything was tried, whether it arrived or not."""
    offers: list[float] = attrs.Factory(list)
    """The POSTs among them."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.attempts.append(trio.current_time())
        if request.method == "POST":
            self.offers.append(trio.current_time())
        if self.silent:
            await trio.sleep_forever()
        self.posts_to_lose -= (lost := request.method == "POST" and self.posts_to_lose > 0)
        if lost or not self.up:
            raise httpx.ConnectError("refused", request=request)
        self.arrivals.append(arrival(request))
        return await self.inner.handle_async_request(request)

    @property
    def posts(self) -> list[Arrival]:
        return [one for one in self.arrivals if one.method == "POST"]

    @property
    def probes(self) -> list[float]:
        return [one.at for one in self.arrivals if (one.method, one.path) == ("HEAD", "/health")]

    @property
    def seqs(self) -> list[int]:
        return [seq for post in self.posts for seq in post.seqs]


def arrival(request: httpx.Request) -> Arrival:
    at = trio.current_time()
    if request.method != "POST":
        return Arrival(at, request.method, request.url.path)
    body = wire.decompress(request.content, request.headers.get("content-encoding", ""))
    envelope = wire.open_envelope(body)
    seqs = tuple(msgspec.json.decode(record)["seq"] for record in envelope.predictions)
    return Arrival(at, "POST", request.url.path, seqs, envelope.late)


@attrs.define(eq=False)
class Syncs:
    """The journal's fsync, as a counter and a switch."""

    count: int = 0
    broken: bool = False

    def __call__(self, fd: int) -> None:
        if self.broken:
            raise OSError(28, "No space left on device")
        self.count += 1


class Scratched:
    """A model that sees a scratch in everything."""

    model_name = "fake"
    model_version = "f1"

    def load(self) -> None:
        pass

    def detect(self, image: Any) -> Sight:
        return Sight((Detection("scratch", 0.9, (1.0, 2.0, 3.0, 4.0)),), 2.5)


@attrs.define(eq=False)
class World:
    """A cloud, the wire to it, and a folder for devices."""

    folder: Path
    wire: Wire
    web: httpx.AsyncClient
    syncs: Syncs = attrs.Factory(Syncs)
    ids: Iterator[str] = attrs.Factory(lambda: iter(["stream", *(f"stream-{n}" for n in range(2, 100))]))
    device_wire: httpx.AsyncBaseTransport | None = None
    """What lies between the device and `wire`, where a test puts something there."""
    key: ApiKey = attrs.Factory(ApiKey)

    def device(self, **knobs: Any) -> Any:
        """A device with the defaults of the documents; `knobs` are its settings."""
        fields: dict[str, Any] = {"edge_device_id": DEVICE, "buffer_db_path": self.folder / "buffer.db"} | knobs
        settings = Settings(cloud_logging_endpoint="http://cloud.test/log", **fields)
        timeout_s = settings.timeout_seconds
        endpoint = settings.cloud_logging_endpoint
        client = CloudClient(
            endpoint, timeout_s=timeout_s, key=self.key, run_sync=run_inline, transport=self.device_wire or self.wire
        )
        ports = Ports(
            now=now,
            rng=Halfway(),
            lane=lambda: run_inline,
            sources=(),
            detector=Scratched(),
            client=client,
            new_id=lambda _: next(self.ids),
            sync=self.syncs,
        )
        return open_pipeline(settings, ports)

    def rows(self) -> dict[int, str]:
        """What lies in the buffer: number and status. Only what SQLite holds, so after a stop."""
        with sqlite3.connect(self.folder / "buffer.db") as connection:
            found = dict(connection.execute("SELECT id, status FROM prediction_buffer").fetchall())
        connection.close()
        return found

    async def stored(self, device: str = DEVICE) -> list[dict[str, Any]]:
        """The cloud's predictions of a device, in the order of their numbers."""
        params: dict[str, str | int] = {"edge_device_id": device, "limit": 1000}
        found = (await self.web.get("/predictions", params=params)).raise_for_status().json()
        return sorted(found["predictions"], key=lambda item: item.get("seq", 0))


def now() -> float:
    return EPOCH + trio.current_time()


def prediction(number: int = 0, **changes: Any) -> Prediction:
    fields: dict[str, Any] = {
        "image_id": f"frame_{number}",
        "timestamp": EPOCH + number,
        "model_name": "m",
        "model_version": "v1",
        "inference_time_ms": 1.5,
        "detections": (),
        "defect_detected": False,
        "confidence_scores": (),
    }
    return Prediction(**fields | changes)


def predictions(count: int) -> list[Prediction]:
    return [prediction(number) for number in range(count)]


@asynccontextmanager
async def open_world(folder: Path) -> AsyncIterator[World]:
    async with open_ledger(MEMORY, run_sync=run_inline, synchronous="OFF", now=now) as ledger:
        app = httpx.ASGITransport(app=create_app(ledger, now=now))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=app, base_url="http://cloud.test") as web:
            yield World(folder, Wire(app), web)
