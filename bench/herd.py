"""A thousand devices come back at once to a cloud that sheds load: who finishes when, in virtual time.

Each device is our own recovery, uplink and connectivity around a disk in memory; the cloud answers one POST after the
other, and turns away with 503 and Retry-After what finds its queue full.
"""

import random
from collections.abc import Callable
from types import TracebackType
from typing import Self

import attrs
import trio
import trio.testing
from trio_util import AsyncValue

from actors import connectivity, recovery, uplink
from actors.messages import (
    Batch,
    Books,
    Drain,
    Fate,
    Knobs,
    Link,
    LinkState,
    Outcome,
    Page,
    PageRequest,
    Report,
    Traffic,
)
from actors.pipeline import RECOVERY_JITTER_S
from actors.ports.client import CloudAnswer
from actors.seqs import Stored
from bench.load import START
from cloud.wire import Answer, encode_answer

POST_S = 0.005
"""What the cloud takes for one POST: 200 a second."""
RECORD_S = 0.00002
"""And for each prediction in it."""
QUEUE_MAX = 64
RETRY_AFTER_S = 1
ANSWERED = {"holdfast-wire": "1", "content-type": "application/json"}


@attrs.define(eq=False)
class _Server:
    """One POST after the other; a bounded queue before it."""

    waiting: int = 0
    most_waiting: int = 0
    shed: int = 0
    lock: trio.StrictFIFOLock = attrs.field(factory=trio.StrictFIFOLock)

    async def post(self, body: bytes) -> CloudAnswer:
        await trio.lowlevel.checkpoint()
        if self.waiting >= QUEUE_MAX:
            self.shed += 1
            return CloudAnswer(503, ANSWERED | {"retry-after": str(RETRY_AFTER_S)}, b'{"error":"busy"}')
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        try:
            records = body.count(b'{"seq":')
            async with self.lock:
                await trio.sleep(POST_S + records * RECORD_S)
        finally:
            self.waiting -= 1
        return CloudAnswer(200, ANSWERED, encode_answer(Answer(accepted=records)))


@attrs.define(eq=False)
class _Client:
    """A device's door to the server."""

    server: _Server

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    async def post(self, body: bytes) -> CloudAnswer:
        """Through the server's queue."""
        return await self.server.post(body)

    async def probe(self, *, timeout_s: float) -> CloudAnswer:  # noqa: ARG002 - the client's own signature
        """A probe is answered beside the queue."""
        await trio.lowlevel.checkpoint()
        return CloudAnswer(200, ANSWERED, b"")


@attrs.define(eq=False)
class _Disk:
    """What is pending, and who has claimed it."""

    pending: range
    claimed: set[int] = attrs.field(factory=set)
    empty: trio.Event = attrs.field(factory=trio.Event)

    async def serve(self, control: trio.MemoryReceiveChannel[PageRequest | Outcome]) -> None:
        left = set(self.pending)
        async for message in control:
            if isinstance(message, Outcome):
                self.claimed.difference_update(message.seqs)
                if message.fate is Fate.SENT:
                    left.difference_update(message.seqs)
                    if not left:
                        self.empty.set()
                continue
            free = sorted(seq for seq in left - self.claimed if seq > message.after)
            page = free[: message.records_max]
            self.claimed.update(page)
            records = [Stored(seq, b'{"seq":%d,"image_id":"x"}' % seq) for seq in page]
            message.reply.put(Page(records, page[-1] if page else message.after, exhausted=not page))


def herd(devices: int, backlog: int, seed: int = 1) -> dict[str, float]:
    """Every device has `backlog` pending predictions when the link returns. Times are virtual seconds from then."""

    async def come_back() -> dict[str, float]:
        server, finished = _Server(), []

        async def device(number: int) -> None:
            await _drain(_Client(server), backlog, random.Random(seed * 1_000_000 + number))  # noqa: S311
            finished.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            for number in range(devices):
                nursery.start_soon(device, number)
        mean = sum(finished) / len(finished)
        return {
            "mean_s": mean,
            "slowest_s": max(finished),
            "ratio": max(finished) / mean,
            "queue": server.most_waiting,
            "shed": server.shed,
        }

    return trio.run(come_back, clock=trio.testing.MockClock(autojump_threshold=0))


async def _drain(client: _Client, backlog: int, rng: random.Random) -> None:
    """One device from link up to the last confirmation."""
    link = AsyncValue(Link(LinkState.UNKNOWN))
    knobs, traffic, stopping = AsyncValue(Knobs()), AsyncValue(Traffic()), trio.Event()
    control_in, control = trio.open_memory_channel[PageRequest | Outcome](64)
    batches_in, batches = trio.open_memory_channel[Batch](1)
    live_in, live = trio.open_memory_channel[Batch](1)
    nudges_in, nudges = trio.open_memory_channel[None](1)
    reports_in, reports = trio.open_memory_channel[Report](16)
    disk = _Disk(range(1, backlog + 1))
    now: Callable[[], float] = lambda: START + trio.current_time()  # noqa: E731
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            await uplink.run(
                live, batches, control_in.clone(), reports_in,
                link=link, stopping=stopping, traffic=traffic, books=AsyncValue(Books()),
                client=client, device_id="d", knobs=knobs, rng=rng, now=now,  # type: ignore[arg-type]
            )  # fmt: skip

        async def recover() -> None:
            await recovery.run(
                nudges, control_in, batches_in,
                link=link, drain=AsyncValue(Drain()), traffic=traffic, knobs=knobs, rng=rng,
                start_jitter_s=RECOVERY_JITTER_S,
            )  # fmt: skip

        async def watch() -> None:
            await connectivity.run(reports, link=link, client=client, rng=rng)  # type: ignore[arg-type]

        nursery.start_soon(disk.serve, control)
        nursery.start_soon(send)
        nursery.start_soon(recover)
        nursery.start_soon(watch)
        nudges_in.send_nowait(None)
        await disk.empty.wait()
        nursery.cancel_scope.cancel()
    live_in.close()
