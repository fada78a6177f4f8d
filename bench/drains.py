"""A device that drains a backlog, the naive reference that does the same, and a plain client with prebuilt bodies."""

import contextlib
import http.client
import itertools
import resource
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import msgspec
import trio

from actors.messages import Books
from actors.pipeline import Pipeline, Ports, open_pipeline
from actors.ports.client import CloudAnswer, CloudClient
from actors.ports.lane import thread_lane
from bench import ours
from bench.backlog import memory_mib
from bench.load import entries, predictions
from bench.peers import Naive
from bench.table import percentile
from cloud.wire import compress, frame_batch, join_payloads, number_payload

LIVE_EVERY_S = 0.02
LIVE_MISSED_S = 5.0
"""A live prediction that takes longer has left its lane: the backlog brings it."""
TICK_S = 0.005
GRACE_S = 120.0
SAMPLE_S = 0.05


def cpu_s() -> float:
    """CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def device(folder: str, endpoint: str) -> dict[str, float]:
    """Drain everything: records a second from the drain's first page to the last confirmation, CPU, memory."""

    async def drain() -> dict[str, float]:
        settings = ours.settings(Path(folder), delivery=True, cloud_logging_endpoint=endpoint)
        idle = memory_mib("VmRSS")
        async with open_pipeline(settings) as pipeline:
            cells = pipeline.cells
            await cells.drain.wait_value(lambda drain: drain.active)
            count, began, cpu = pipeline.status()["pending"], time.perf_counter(), cpu_s()
            samples: list[float] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_sample, samples)
                with trio.fail_after(GRACE_S):
                    await cells.books.wait_value(_nothing_pending)
                took, used = time.perf_counter() - began, cpu_s() - cpu
                nursery.cancel_scope.cancel()
            sent, repeats, posts = (getattr(cells.traffic.value, name) for name in ("sent", "duplicates", "posts"))
            assert (sent, repeats) == (count, 0), f"{sent} sent, {repeats} of them again, of {count}"
        few = max(1, len(samples) // 5)
        return {
            "per_s": count / took,
            "cpu_100k": used / count * 1e5,
            "per_post": count / posts,
            "above_idle": max(samples, default=0.0) - idle,
            "growth": max(samples[-few:], default=0.0) - max(samples[few : 2 * few], default=0.0),
        }

    return trio.run(drain)


async def _sample(samples: list[float]) -> None:
    while True:
        await trio.sleep(SAMPLE_S)
        samples.append(memory_mib("VmRSS"))


def _nothing_pending(books: Books) -> bool:
    return books.pending == 0


class _WatchedClient(CloudClient):
    """The real client, which tells when a live prediction was answered for."""

    answered: dict[bytes, trio.Event]

    async def post(self, body: bytes) -> CloudAnswer:
        """As the real one."""
        answer = await super().post(body)
        if b'"late":false' in body[:300]:
            for number in body.split(b'{"seq":')[1:]:
                self.answered.setdefault(number.partition(b",")[0], trio.Event()).set()
        return answer


def live_latency(folder: str, endpoint: str, count: int, *, backlog: bool) -> dict[str, float]:
    """ms from log() to the confirmation of a live prediction, each in a batch of its own, one after the other.

    With a backlog, all of them while it drains; `per_s` says how fast, and `lag` how late a timer of the device's own
    was then.
    """

    async def live() -> dict[str, float]:
        settings = ours.settings(
            Path(folder),
            delivery=True,
            cloud_logging_endpoint=endpoint,
            batch_size=1,
            batch_timeout_seconds=0.1,
        )
        client = _WatchedClient(endpoint, timeout_s=30, run_sync=thread_lane())
        client.answered = {}
        took: list[float] = []
        durable: list[float] = []
        lag: list[float] = []
        missed = 0
        async with open_pipeline(settings, Ports(client=client)) as pipeline, trio.open_nursery() as nursery:
            await _until_ready(pipeline, backlog=backlog)
            nursery.start_soon(_tick, lag)
            drain = pipeline.cells.drain
            began, sent = time.perf_counter(), drain.value.sent
            for one in itertools.islice(itertools.cycle(predictions(1_000)), count):
                asked = time.perf_counter()
                receipt = await pipeline.log(one)
                durable.append((time.perf_counter() - asked) * 1e3)
                with trio.move_on_after(LIVE_MISSED_S) as scope:
                    await client.answered.setdefault(b"%d" % (receipt.seq or 0), trio.Event()).wait()
                    took.append((time.perf_counter() - asked) * 1e3)
                missed += scope.cancelled_caught
                await trio.sleep(LIVE_EVERY_S)
            assert drain.value.active is backlog, "a drain that ends before the last of them is none beside them"
            per_s = (drain.value.sent - sent) / (time.perf_counter() - began)
            nursery.cancel_scope.cancel()
        return {
            "first": took[0],
            "p50": percentile(took, 0.5),
            "p99": percentile(took, 0.99),
            "worst": max(took),
            "missed": missed,
            "durable": percentile(durable, 0.99),
            "lag": percentile(lag, 0.99),
            "per_s": per_s,
        }

    return trio.run(live)


async def _tick(lag: list[float]) -> None:
    """How many ms after its time a timer's task has its turn."""
    while True:
        due = time.perf_counter() + TICK_S
        await trio.sleep(TICK_S)
        lag.append((time.perf_counter() - due) * 1e3)


async def _until_ready(pipeline: Pipeline, *, backlog: bool) -> None:
    """With a backlog: until its drain runs."""
    if backlog:
        await pipeline.cells.drain.wait_value(lambda drain: drain.active)
        await trio.sleep(0.3)  # the pace has grown by then
    else:
        await pipeline.log(next(predictions(1)))
        await trio.sleep(0.5)


def naive_store(folder: str, count: int) -> None:
    """The naive reference's own backlog."""
    path = Path(folder)
    path.mkdir(parents=True)
    place = Naive(path)
    load = [msgspec.json.encode(one) for one in predictions(count)]
    for start in range(0, count, 1_000):
        place.put(load[start : start + 1_000])
    place.close()


def naive(folder: str, endpoint: str, seconds: float) -> dict[str, float]:
    """Sequential batches of 32: read, decode, POST, mark sent; for at most so many seconds."""
    place = Naive(Path(folder))
    began, cpu, count = time.perf_counter(), cpu_s(), 0
    with httpx.Client() as client, contextlib.closing(place):
        while time.perf_counter() - began < seconds:
            rows = place.connection.execute(
                "SELECT id, prediction_data FROM prediction_buffer WHERE status = 'pending' ORDER BY id LIMIT 32"
            ).fetchall()
            if not rows:
                break
            batch = {"edge_device_id": "naive", "predictions": [msgspec.json.decode(data) for _, data in rows]}
            client.post(endpoint, json=batch).raise_for_status()
            place.confirm(rows[0][0], rows[-1][0])
            count += len(rows)
    took = time.perf_counter() - began
    return {"per_s": count / took, "cpu_100k": (cpu_s() - cpu) / count * 1e5}


def plain_client(endpoint: str, count: int, size: int, in_flight: int) -> dict[str, float]:
    """What the cloud takes: bodies framed and compressed beforehand, each connection as fast as it is answered."""
    payloads = [number_payload(seq, entry.body) for seq, entry in enumerate(entries(list(predictions(count))), 1)]
    bodies = [
        compress(
            frame_batch(
                "bench", "plain", join_payloads(payloads[at : at + size]), sent_at=1.79e9, pending=0, late=True
            ),
            "zstd",
        )
        for at in range(0, count, size)
    ]
    del payloads
    url = urlsplit(endpoint)
    headers = {"content-type": "application/json", "content-encoding": "zstd"}
    left = iter(bodies)

    def feed() -> None:
        connection = http.client.HTTPConnection(url.hostname or "", url.port)
        for body in left:
            connection.request("POST", url.path, body, headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
        connection.close()

    async def all_of_them() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(in_flight):
                nursery.start_soon(trio.to_thread.run_sync, feed)

    began = time.perf_counter()
    trio.run(all_of_them)
    return {"per_s": count / (time.perf_counter() - began)}


def bytes_on_the_wire(size: int, count: int) -> dict[str, float]:
    """Bytes a prediction in batches of `size`: as plain JSON, and as the device sends them."""
    payloads = [number_payload(seq, entry.body) for seq, entry in enumerate(entries(list(predictions(count))), 1)]
    bodies = [
        frame_batch(
            "factory-camera-01",
            "01JD0000000000000000000000",
            join_payloads(payloads[at : at + size]),
            sent_at=1.79e9,
            pending=0,
        )
        for at in range(0, count, size)
    ]
    return {
        "plain": sum(len(body) for body in bodies) / count,
        "sent": sum(len(compress(body, "zstd")) for body in bodies) / count,
    }
