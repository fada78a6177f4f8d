"""The cloud: the real app in one or two replicas on one ledger file, each of which may be killed, or lose its power."""

import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, ParamSpec, TypeVar, cast

import attrs
import httpx
import trio

from chaos.sim.coverage import Coverage, speaker
from chaos.sim.drive import Drive
from chaos.sim.older import older_answer, older_request, set_back
from chaos.sim.plan import MIB, Fault, Plan, chance
from cloud import intake, wire
from cloud.ledger import LedgerUnusable
from cloud.ledger.lane import RunSync
from cloud.ledger.sqlite import open_ledger
from cloud.service import create_app

P = ParamSpec("P")
T = TypeVar("T")

DOWN_S = 6.0
"""How long a replica stays away, on average."""
CUT_OFF = "upgrade of the cloud cut off"
UPGRADE_CALLS = 22
"""About so many calls to its disk does a replica make that brings a ledger to this release's shape."""


@attrs.define(eq=False)
class Exchange:
    """A request on its way through a replica."""

    request: httpx.Request
    response: httpx.Response | None = None
    done: trio.Event = attrs.Factory(trio.Event)


@attrs.define(eq=False)
class Replica:
    """One process of the cloud, as long as it lives."""

    number: int
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    dead: bool = False
    nursery: trio.Nursery | None = None
    """Where its requests are served; None while it is down."""

    def kill(self) -> None:
        """SIGKILL: what it has not committed is gone."""
        self.dead = True
        self.nursery = None
        self.scope.cancel()


class _Standing:
    """The ledger that an app stands on, in the replica's life of this moment."""

    ledger: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ledger, name)


@attrs.define(eq=False)
class Cloud(httpx.AsyncBaseTransport):
    """A load balancer in front of the replicas; a request lives on when the client has gone away."""

    plan: Plan
    drive: Drive
    rng: random.Random
    now: Callable[[], float]
    tell: Callable[[str], None]
    coverage: Coverage
    replicas: list[Replica] = attrs.Factory(list)
    healed: bool = False
    said: Counter[str] = attrs.Factory(Counter)
    """What the app said of the records that it was sent, over all answers, by the names of its metrics."""
    deaths: int = 0
    older: bool = False
    """It is of the last release, by what it says and reads."""
    _running: str = ""
    """What a replica does with the ledger at this moment."""
    _apps: list[tuple["_Standing", httpx.ASGITransport]] = attrs.Factory(list)
    """By replica: the app, which is costly to make, and the ledger that it stands on in this life."""

    async def run(self, nursery: trio.Nursery) -> None:
        """Start the replicas, and let befall them what the plan says."""
        for number in range(self.plan.replicas):
            standing = _Standing()
            app = create_app(standing, now=self.now)
            self._apps.append((standing, httpx.ASGITransport(app=app)))  # type: ignore[arg-type]
            nursery.start_soon(self._live_for_ever, number)
        if Fault.REPLICA_KILL in self.plan.faults:
            nursery.start_soon(self._now_and_then, 13, self._kill_one)
        if Fault.CLOUD_POWER_CUT in self.plan.faults:
            nursery.start_soon(self._now_and_then, 20, self._lose_power)
        if Fault.CLOUD_DISK_FULL in self.plan.faults:
            nursery.start_soon(self._now_and_then, 13, self._fill)
        if Fault.CLOUD_UPGRADED in self.plan.faults:
            self.older = True
            nursery.start_soon(self._upgrade, chance(self.plan.seed, "cloud upgraded"))

    def heal(self) -> None:
        """No more faults."""
        self.healed = True
        self.drive.heal()
        self.drive.spare()

    async def metrics(self) -> list[bytes]:
        """`GET /metrics` of every replica; none once one has died, for they count from their start."""
        if self.deaths:
            return []
        pages = []
        for _, transport in self._apps:
            async with httpx.AsyncClient(transport=transport, base_url="http://cloud.test") as client:
                pages.append((await client.get("/metrics")).raise_for_status().content)
        return pages

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Have any replica serve it."""
        up = [replica for replica in self.replicas if replica.nursery is not None]
        if not up:
            await trio.sleep(0.01)
            raise httpx.ConnectError("no replica is up", request=request)
        replica = self.rng.choice(up)
        assert replica.nursery is not None
        exchange = Exchange(request)
        replica.nursery.start_soon(self._serve, replica, exchange)
        await exchange.done.wait()
        if exchange.response is None:
            raise httpx.RemoteProtocolError("the replica is gone", request=request)
        return exchange.response

    async def _serve(self, replica: Replica, exchange: Exchange) -> None:
        try:
            sent = exchange.request  # whose body can be read once, and the network may deliver it twice
            request = httpx.Request(sent.method, sent.url, headers=sent.headers, content=sent.content)
            older = self.older
            if older:
                request = older_request(request, MIB)
            response = await self._apps[replica.number][1].handle_async_request(request)
            body = await response.aread()
            headers = {key: value for key, value in response.headers.items() if key != "content-length"}
            if exchange.request.method == "POST" and response.status_code == 200:
                self._count(body)
            if older:
                body = older_answer(sent, body)
            exchange.response = httpx.Response(
                response.status_code, headers=headers, stream=httpx.ByteStream(body), request=exchange.request
            )
        finally:
            exchange.done.set()

    def _count(self, body: bytes) -> None:
        answer = wire.read_answer(body)
        self.said["ingested"] += answer.accepted
        self.said["duplicate"] += answer.duplicates
        self.said["conflicting"] += answer.conflicts
        self.said["rejected"] += len(answer.rejected)
        self.coverage("outcome: stored")
        if answer.duplicates:
            self.coverage("outcome: duplicate")
        if answer.rejected:
            self.coverage("outcome: rejected record")

    # --- lives

    async def _live_for_ever(self, number: int) -> None:
        speaker.set(f"replica {number}")
        while True:
            replica = Replica(number)
            self.replicas.append(replica)
            with replica.scope:
                try:
                    await self._live(replica)
                except* LedgerUnusable as group:
                    self.tell(f"replica {number} does not start: {group.exceptions[0]}")
            replica.nursery = None
            self.replicas.remove(replica)
            await trio.sleep(self.rng.expovariate(1 / DOWN_S))

    async def _live(self, replica: Replica) -> None:
        path = str(self.drive.folder / "cloud.db")
        async with open_ledger(path, run_sync=self._lane(replica), now=self.now) as ledger:
            self._apps[replica.number][0].ledger = ledger
            async with trio.open_nursery() as nursery:
                replica.nursery = nursery
                self.tell(f"replica {replica.number} is up")
                await trio.sleep_forever()

    def _lane(self, replica: Replica) -> RunSync:
        async def run(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
            if not replica.dead:
                await trio.sleep(self.rng.expovariate(500))
            if replica.dead and getattr(function, "__name__", "") != "close":
                await trio.sleep_forever()
            self._running = getattr(function, "__name__", "")
            result = function(*args, **kwargs)
            if replica.dead and self._running == "_open":
                for connection in attrs.astuple(cast("Any", result)):
                    connection.close()  # the system closes what a dead process had open
            if replica.dead and self._running != "close":
                await trio.sleep_forever()
            return result

        return run

    # --- faults

    async def _now_and_then(self, calls: float, act: Callable[[], Awaitable[None]]) -> None:
        """Again and again, after so many log() calls of a caller on average."""
        while True:
            await trio.sleep(self.plan.calm_s * self.rng.expovariate(1 / calls))
            if self.healed:
                return
            await act()

    async def _kill_one(self) -> None:
        up = [replica for replica in self.replicas if replica.nursery is not None]
        if up:
            replica = self.rng.choice(up)
            self.tell(f"replica {replica.number} is killed")
            self.coverage(f"fault: {Fault.REPLICA_KILL.value}")
            self.deaths += 1
            replica.kill()

    async def _lose_power(self) -> None:
        self.drive.on_fatal = lambda kind, inside: self._die(f"at {kind} {inside}")
        if self.rng.random() < 0.5:
            self.drive.fatal_in = self.rng.randrange(1, 40)
        else:
            self._die("at rest")

    def _die(self, when: str) -> None:
        self.coverage(f"fault: {Fault.CLOUD_POWER_CUT.value}")
        self.tell(f"the cloud loses its power {when}: {self._end_all(power_cut=True)}")

    def _end_all(self, *, power_cut: bool) -> str:
        """No process is left; says what is left of the files."""
        for replica in list(self.replicas):
            replica.kill()
        self.deaths += 1
        return self.drive.move(power_cut=power_cut)

    async def _upgrade(self, rng: random.Random) -> None:
        """Until a moment in the middle it was the last release; this one begins on what that left."""
        await trio.sleep(rng.random() * self.plan.faults_s)
        self.older = False
        if self.healed:
            return
        self._end_all(power_cut=False)
        held: list[int | None] = []
        killed = rng.random() < 0.5
        self.drive.furnish(lambda folder: held.append(set_back(folder / "cloud.db", killed=killed)))
        if held[0] is None:
            return
        self.coverage(f"fault: {Fault.CLOUD_UPGRADED.value}")
        self.tell(f"the last release is {'killed' if killed else 'stopped'}; it leaves {held[0]} predictions")
        self._cut_off(rng)

    def _cut_off(self, rng: random.Random) -> None:
        """The replica that brings the ledger to this release's shape may die of it, and the next one too."""

        def die(kind: str, inside: str) -> None:
            in_the_middle = self._running == "_open"
            if in_the_middle:
                self.coverage(CUT_OFF)
            power_cut = Fault.CLOUD_POWER_CUT in self.plan.faults and rng.random() < 0.5
            self.tell(f"the cloud dies at {kind} {inside} in {self._running}: {self._end_all(power_cut=power_cut)}")
            if in_the_middle:
                self._cut_off(rng)

        if rng.random() < 0.7:
            self.drive.on_fatal = die
            self.drive.fatal_in = rng.randrange(1, UPGRADE_CALLS)

    async def _fill(self) -> None:
        self.drive.taken_bytes = max(0, self.drive.free_bytes - self.rng.choice((0, 8_192)))
        self.tell("the cloud's disk is full")
        await trio.sleep(self.rng.expovariate(1 / 10))
        self.drive.taken_bytes = 0


REFUSED = "refused-"
"""An image whose name begins so is one that the cloud will not take."""
POISON = "poison-"
UNWANTED = "image_id: this cloud does not take it"
"""What the cloud says of the former; of what makes a whole body unusable only the device knows."""


@contextlib.contextmanager
def stricter_cloud() -> Iterator[None]:
    """A cloud of another version than the device: it refuses what the device's own check lets through.

    One kind of record is rejected by itself, the other makes the whole body unusable, as a defect in a decoder would.
    """
    record, open_body = intake._record, intake.open_body  # noqa: SLF001

    def record_strictly(prediction: wire.Prediction, payload: str, numbered: bool) -> Any:
        if f'"{REFUSED}' in payload:
            raise wire.WireError(UNWANTED)
        return record(prediction, payload, numbered)

    def open_strictly(body: bytes, encoding: str) -> Any:
        opened = open_body(body, encoding)
        if any(f'"{POISON}'.encode() in bytes(record) for record in opened.envelope.predictions):
            raise intake.EnvelopeInvalid("predictions: this cloud chokes on one of them")
        return opened

    changes = ((intake, "_record", record_strictly, record), (intake, "open_body", open_strictly, open_body))
    for room, name, new, _ in changes:
        setattr(room, name, new)
    try:
        yield
    finally:
        for room, name, _, old in changes:
            setattr(room, name, old)
