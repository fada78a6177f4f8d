import math
import random
from functools import partial
from itertools import pairwise
from typing import cast

import pytest
import structlog
import trio
from quart import Response
from quart_trio import QuartTrio
from trio_util import AsyncValue

from actors import connectivity
from actors.backoff import backoff_s
from actors.connectivity import PROBE_MULTIPLIER, PROBE_SILENT_S, Event, advance
from actors.messages import Link, LinkState, Report, Sign
from actors.ports.client import CloudAnswer, CloudClient, Unreachable
from actors.ports.lane import run_inline
from tests.network import Network

SEED = 4711
UNKNOWN, UP, SUSPECT, DOWN, REFUSED = (
    LinkState.UNKNOWN,
    LinkState.UP,
    LinkState.SUSPECT,
    LinkState.DOWN,
    LinkState.REFUSED,
)

# --- the state machine


@pytest.mark.parametrize(
    ("sign", "probe", "after"),
    [
        # what each of UNKNOWN, UP, SUSPECT, DOWN, REFUSED becomes
        (Sign.ALIVE, False, [UP, UP, UP, UP, UP]),
        (Sign.FAILED, False, [SUSPECT, SUSPECT, SUSPECT, DOWN, REFUSED]),
        (Sign.REFUSED, False, [REFUSED, REFUSED, REFUSED, REFUSED, REFUSED]),
        (Sign.ALIVE, True, [UP, UP, UP, UP, UNKNOWN]),
        (Sign.FAILED, True, [DOWN, DOWN, DOWN, DOWN, DOWN]),
        (Sign.REFUSED, True, [REFUSED, REFUSED, REFUSED, REFUSED, REFUSED]),
    ],
)
def test_every_state_takes_every_event(sign, probe, after):
    for before, state in zip([UNKNOWN, UP, SUSPECT, DOWN, REFUSED], after, strict=True):
        link = advance(Link(before, "old", 10.0), Event(sign, "new", probe=probe, began=15.0), 20.0)
        assert link.state is state
        assert link.since == (10.0 if state is before else 20.0)


def test_a_probe_that_began_before_the_refusal_says_nothing_about_it():
    refused = Link(REFUSED, "401", 10.0)
    assert advance(refused, Event(Sign.ALIVE, probe=True, began=10.0), 11.0) == refused
    assert advance(refused, Event(Sign.ALIVE, probe=True, began=10.5), 11.0).state is UNKNOWN


def test_the_reason_is_the_one_that_put_the_link_there_or_a_later_ones_of_the_same_weight():
    down = Link(DOWN, "probe: refused", 10.0)
    assert advance(down, Event(Sign.FAILED, "reset"), 11.0) == down
    assert advance(down, Event(Sign.FAILED, "probe: timeout", probe=True), 11.0).reason == "probe: timeout"
    assert advance(Link(REFUSED, "401", 1.0), Event(Sign.REFUSED, "404"), 2.0) == Link(REFUSED, "404", 1.0)


# --- the actor


class World:
    """A cloud whose `/health` answers as it is told, connectivity, and the other end of its channel."""

    def __init__(self, nursery):
        self.at = []
        self.status, self.headers = 200, {"Holdfast-Wire": "1"}
        app = QuartTrio(__name__)
        app.route("/health", methods=["GET", "HEAD"])(self._health)
        self.network = Network(nursery, app)
        self.reports, inbox = trio.open_memory_channel(math.inf)
        self.link = AsyncValue(Link(UNKNOWN))
        client = CloudClient(
            "http://10.0.0.1/log", timeout_s=30, run_sync=run_inline, transport=self.network.transport()
        )
        self.probes: list[float] = []
        self.ended = trio.Event()
        probe = client.probe

        async def counted(*, timeout_s):
            self.probes.append(trio.current_time())
            return await probe(timeout_s=timeout_s)

        client.probe = counted  # type: ignore[method-assign]
        self.client = client
        self._run = partial(connectivity.run, inbox, link=self.link, client=client, rng=random.Random(SEED))

    async def _health(self):
        return Response(b"", self.status, self.headers)

    async def run(self):
        async with self.client:
            await self._run()
        self.ended.set()

    def tell(self, sign, reason="seen"):
        self.reports.send_nowait(Report(sign, reason))

    @property
    def state(self):
        return self.link.value.state


@pytest.fixture
async def servers():
    async with trio.open_nursery() as nursery:
        yield nursery
        nursery.cancel_scope.cancel()


@pytest.fixture
def world(servers):
    return World(servers)


async def test_probes_at_once_and_then_every_30_s(autojump_clock, world, servers):
    servers.start_soon(world.run)
    await trio.sleep(95)
    assert world.probes == [0.0, 30.0, 60.0, 90.0]
    assert world.state is UP
    assert world.link.value.since == 0.0


async def test_a_request_that_gets_through_spares_the_probe(autojump_clock, world, servers):
    servers.start_soon(world.run)
    for _ in range(5):
        await trio.sleep(20)
        world.tell(Sign.ALIVE)
    await trio.sleep(31)
    assert world.probes == [0.0, 130.0]


async def test_a_silent_cloud_is_down_5_s_after_the_probe_and_suspect_until_then(autojump_clock, world, servers):
    servers.start_soon(world.run)
    await trio.sleep(10)
    world.network.cut()
    world.network.swallows = True
    world.tell(Sign.FAILED, "timeout")
    await trio.sleep(4.99)
    assert world.probes == [0.0, 10.0]
    assert (world.state, world.link.value.reason) == (SUSPECT, "timeout")
    await trio.sleep(0.02)
    assert world.link.value == Link(DOWN, "probe: no answer within 5 s", 15.0)


async def test_a_failure_that_the_probe_does_not_confirm_is_forgiven(autojump_clock, world, servers):
    servers.start_soon(world.run)
    await trio.sleep(10)
    world.tell(Sign.FAILED)
    await trio.sleep(1)
    assert (world.state, world.probes) == (UP, [0.0, 10.0])
    await trio.sleep(30)
    assert world.probes == [0.0, 10.0, 40.0]


async def test_eight_failures_at_once_are_one_probe(autojump_clock, world, servers):
    servers.start_soon(world.run)
    await trio.sleep(10)
    for _ in range(8):
        world.tell(Sign.FAILED)
    await trio.sleep(1)
    assert world.probes == [0.0, 10.0]


async def test_while_down_probes_come_with_seeded_backoff_from_1_s_and_never_slower_than_30_s(
    autojump_clock, world, servers
):
    world.network.sever()
    servers.start_soon(world.run)
    await trio.sleep(3600)
    assert world.state is DOWN
    rng = random.Random(SEED)
    expected, at = [], 0.0
    for n in range(len(world.probes)):
        expected.append(at)
        at += backoff_s(n, multiplier=PROBE_MULTIPLIER, rng=rng, max_s=30.0)
    assert world.probes == pytest.approx(expected)
    gaps = [after - before for before, after in zip(world.probes, world.probes[1:], strict=False)]
    assert max(gaps[:3]) <= 1.1**2
    assert 25 < max(gaps) <= 30
    world.network.heal()
    await trio.sleep(30)
    assert world.state is UP


class Void:
    """A way that swallows everything, or carries a probe in no time; an hour of probes costs no HTTP."""

    def __init__(self, nursery):
        self.open, self.refuses = False, False
        self.probes: list[float] = []
        self.link = AsyncValue(Link(UNKNOWN))
        self.reports, inbox = trio.open_memory_channel[Report](0)
        client = cast("CloudClient", self)
        nursery.start_soon(partial(connectivity.run, inbox, link=self.link, client=client, rng=random.Random(SEED)))

    async def probe(self, *, timeout_s):
        self.probes.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self.refuses:
            raise Unreachable("ConnectError: refused")
        if not self.open:
            await trio.sleep(timeout_s)
            raise Unreachable(f"no answer within {timeout_s:g} s", silent=True)
        return CloudAnswer(200, {"holdfast-wire": "1"}, b"")


async def test_while_nobody_answers_probes_begin_within_every_second_and_do_not_wait_for_each_other(
    autojump_clock, servers
):
    """A black hole answers none of them: each would take 5 s, and a window between them would be missed."""
    void = Void(servers)
    await trio.sleep(3_600)
    assert void.link.value.state is DOWN
    first, *gaps = [after - before for before, after in pairwise(void.probes)]
    assert 5.5 <= first <= 6.0, "whether anybody is there is not known yet"
    assert all(0.5 <= gap <= 1.0 for gap in gaps)


@pytest.mark.parametrize("seed", range(4))
async def test_a_window_of_two_seconds_in_an_hour_of_silence_is_met_wherever_it_falls(autojump_clock, servers, seed):
    void = Void(servers)
    await trio.sleep(3_600 + random.Random(seed).uniform(0, 30))
    assert void.link.value.state is DOWN
    void.open, began = True, trio.current_time()
    await void.link.wait_value(lambda link: link.state is UP)
    assert trio.current_time() - began <= PROBE_SILENT_S
    await trio.sleep_until(began + 2)
    void.open = False
    await trio.sleep(10)
    assert void.link.value.state is UP, "what began before the window is no news of it"


async def test_where_somebody_refuses_after_a_long_silence_the_backoff_starts_from_its_beginning(
    autojump_clock, servers
):
    void = Void(servers)
    await trio.sleep(600)
    void.refuses = True
    await trio.sleep(10)
    assert len([at for at in void.probes if at > 601]) >= 5


async def test_reports_of_failures_do_not_hurry_the_backoff(autojump_clock, world, servers):
    world.network.sever()
    servers.start_soon(world.run)
    await trio.sleep(1000)
    count = len(world.probes)
    for _ in range(50):
        world.tell(Sign.FAILED)
    await trio.sleep(0.0001)
    assert len(world.probes) == count
    assert world.state is DOWN


async def test_a_request_that_gets_through_ends_the_outage_at_once(autojump_clock, world, servers):
    world.network.sever()
    servers.start_soon(world.run)
    await trio.sleep(5)
    assert world.state is DOWN
    world.tell(Sign.ALIVE)
    await trio.testing.wait_all_tasks_blocked()
    assert world.state is UP
    count = len(world.probes)
    world.network.heal()
    await trio.sleep(29.9)
    assert len(world.probes) == count
    await trio.sleep(0.2)
    assert len(world.probes) == count + 1


async def test_a_refused_key_lets_one_attempt_through_an_interval_and_a_right_one_ends_it(
    autojump_clock, world, servers
):
    servers.start_soon(world.run)
    await trio.sleep(10)
    states = []

    async def attempts():
        """The uplink: a try whenever the link allows one, answered with 401 until the key is right."""
        async for link in world.link.eventual_values():
            states.append((link.state, trio.current_time()))
            if link.state is UNKNOWN:
                await trio.sleep(1)
                world.tell(Sign.REFUSED if trio.current_time() < 100 else Sign.ALIVE, "401")

    world.tell(Sign.REFUSED, "401")
    await trio.testing.wait_all_tasks_blocked()
    servers.start_soon(attempts)
    await trio.sleep(200)
    assert states == [
        (REFUSED, 10.0),
        (UNKNOWN, 40.0),
        (REFUSED, 41.0),
        (UNKNOWN, 71.0),
        (REFUSED, 72.0),
        (UNKNOWN, 102.0),
        (UP, 103.0),
    ]


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, {}),
        (302, {"Location": "http://portal/"}),
        (404, {"Content-Type": "text/html"}),
        (404, {"Holdfast-Wire": "1"}),
    ],
)
async def test_a_portal_that_answers_the_probe_is_no_cloud(autojump_clock, world, servers, status, headers):
    world.status, world.headers = status, headers
    servers.start_soon(world.run)
    await trio.sleep(61)
    assert world.state is REFUSED
    assert str(status) in world.link.value.reason
    assert world.probes == [0.0, 30.0, 60.0]


async def test_a_gateway_without_a_cloud_behind_it_is_down(autojump_clock, world, servers):
    world.status, world.headers = 502, {"Content-Type": "text/html"}
    servers.start_soon(world.run)
    await trio.sleep(1)
    assert (world.state, world.link.value.reason) == (DOWN, "probe: 502")


async def test_every_change_is_told_with_its_reason_and_how_long_the_last_state_held(autojump_clock, world, servers):
    with structlog.testing.capture_logs() as logs:
        servers.start_soon(world.run)
        await trio.sleep(12)
        world.network.sever()
        world.tell(Sign.FAILED, "reset")
        await trio.sleep(0.0001)
    told = [(e["before"], e["state"], e["reason"], e["held_s"]) for e in logs if e["event"] == "link_changed"]
    assert told == [
        ("unknown", "up", "probe: 200", 0.0),
        ("up", "suspect", "reset", 12.0),
        ("suspect", "down", "probe: ConnectError: connection refused", 0.0),
    ]


async def test_a_suspicion_that_comes_to_nothing_is_no_line_in_an_operators_log(autojump_clock, world, servers):
    with structlog.testing.capture_logs() as logs:
        servers.start_soon(world.run)
        for _ in range(20):
            await trio.sleep(1)
            world.tell(Sign.FAILED, "503")
        await trio.sleep(1)
        world.network.sever()
        world.tell(Sign.FAILED, "reset")
        await trio.sleep(1)
        world.network.heal()
        await trio.sleep(60)
    changes = [(e["log_level"], e["before"], e["state"]) for e in logs if e["event"] == "link_changed"]
    assert changes.count(("debug", "up", "suspect")) == 21
    assert [change for change in changes if change[0] != "debug"] == [
        ("info", "unknown", "up"),
        ("warning", "suspect", "down"),
        ("info", "down", "up"),
    ]


async def test_the_end_of_the_reports_is_the_end_even_in_the_middle_of_a_probe(autojump_clock, world, servers):
    world.network.swallows = True
    servers.start_soon(world.run)
    await trio.sleep(1)
    world.reports.close()
    await world.ended.wait()
    assert trio.current_time() == 1.0
