"""How soon the first prediction is home after an outage: real sockets and real time, and an hour in virtual time."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import trio
import trio.testing

from actors.pipeline import Pipeline, Ports, open_pipeline
from actors.ports.client import CloudAnswer, Unreachable
from actors.ports.lane import run_inline
from bench import ours
from bench.load import START, predictions
from chaos.proxy import Proxy

PATIENCE_S = 120.0


def after_an_outage(folder: str, endpoint: str, devices: int, outage_s: float) -> list[float]:
    """Seconds from the wire's healing to the first confirmation, for each of several devices with default settings.

    Each has a proxy of its own between it and the cloud, and a backlog from the outage.
    """
    seen: list[float] = []
    address = urlsplit(endpoint)

    async def one(number: int) -> None:
        proxy = Proxy(address.hostname or "", address.port or 0)
        async with trio.open_nursery() as wires:
            port = await wires.start(proxy.serve)
            await trio.sleep(number / devices)  # so that they do not probe in step
            through = f"http://127.0.0.1:{port}/log"
            settings = ours.settings(Path(folder) / str(number), delivery=True, cloud_logging_endpoint=through)
            (Path(folder) / str(number)).mkdir(parents=True)
            async with open_pipeline(settings) as pipeline:
                seen.append(await _first_home(pipeline, proxy.sever, proxy.heal, outage_s))
            wires.cancel_scope.cancel()

    async def all_of_them() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(devices):
                nursery.start_soon(one, number)

    trio.run(all_of_them)
    return seen


async def _first_home(
    pipeline: Pipeline, sever: Callable[[], None], heal: Callable[[], None], outage_s: float
) -> float:
    """Live for a moment, be cut off, and come back."""
    load = list(predictions(40))
    await pipeline.log_many(load[:32])
    await pipeline.cells.traffic.wait_value(lambda traffic: traffic.sent > 0)
    sever()
    for one in load[32:]:
        await pipeline.log(one)
        await trio.sleep(outage_s / 8)
    heal()
    before, began = pipeline.cells.traffic.value.sent, trio.current_time()
    with trio.fail_after(PATIENCE_S):
        await pipeline.cells.traffic.wait_value(lambda traffic: traffic.sent > before)
    return trio.current_time() - began


class _Switched(ours.InstantCloud):
    """A cloud behind a link that can be cut."""

    up = True

    def switch(self, up: bool) -> None:
        self.up = up

    async def post(self, body: bytes) -> CloudAnswer:
        """Taken, if the link is there."""
        self._refuse_if_down()
        return await super().post(body)

    async def probe(self, *, timeout_s: float) -> CloudAnswer:
        """Alive, if the link is there."""
        self._refuse_if_down()
        return await super().probe(timeout_s=timeout_s)

    def _refuse_if_down(self) -> None:
        if not self.up:
            raise Unreachable("ConnectError: refused")


def after_a_virtual_outage(folder: str, devices: int, outage_s: float) -> list[float]:
    """The same under a virtual clock, each device with chance of its own; exact, however long the outage."""

    async def one(number: int) -> float:
        cloud = _Switched()
        place = Path(folder) / str(number)
        place.mkdir(parents=True)
        ports = Ports(
            now=lambda: START + trio.current_time(),
            rng=random.Random(number),  # noqa: S311 - a benchmark's chance
            lane=lambda: run_inline,
            sources=(),
            client=cloud,  # type: ignore[arg-type]
        )
        async with open_pipeline(ours.settings(place, delivery=True), ports) as pipeline:
            return await _first_home(pipeline, partial(cloud.switch, False), partial(cloud.switch, True), outage_s)

    return [trio.run(one, number, clock=trio.testing.MockClock(autojump_threshold=0)) for number in range(devices)]
