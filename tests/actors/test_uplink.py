"""Every row of the table of outcomes, over real HTTP, through the uplink, at exact virtual times."""

import math
import random
from email.utils import formatdate
from functools import partial
from typing import Any

import pytest
import trio
from quart import Response, request
from quart_trio import QuartTrio
from trio_util import AsyncValue

from actors import uplink
from actors.messages import (
    Batch,
    Books,
    Delivery,
    Fate,
    Knobs,
    Lane,
    Link,
    LinkState,
    Outcome,
    Report,
    Sign,
    Stream,
    Traffic,
    Trouble,
)
from actors.ports.client import ApiKey, CloudClient
from actors.ports.lane import run_inline
from actors.reply import Reply
from actors.seqs import Stored
from cloud import wire
from tests.network import Network

WALL = 1_800_000_000.0
SEED = 4711
JSON = {"Content-Type": "application/json", "Holdfast-Wire": "1"}


def payload(seq, size=0):
    body = wire.encode_prediction(
        wire.Prediction(
            image_id=f"frame-{seq}" + "x" * size,
            timestamp=WALL,
            model_version="1",
            model_name="m",
            inference_time_ms=1.0,
            detections=(),
            defect_detected=False,
            confidence_scores=(),
        )
    )
    return Stored(seq, wire.number_payload(seq, body))


def live(*seqs):
    return Batch(tuple(payload(seq) for seq in seqs), Lane.LIVE)


def late(*seqs, losses=()):
    return Batch(tuple(payload(seq) for seq in seqs), Lane.BACKLOG, losses, Reply())


class World:
    """A cloud that answers as it is told, the uplink, and both ends of its channels."""

    def __init__(self, nursery, *, key=None, retries_max=3, reports_max=1000):
        self.envelopes, self.at, self.script, self.stored = [], [], [], []
        self.app = QuartTrio(__name__)
        self.app.post("/log")(self._log)
        self.network = Network(nursery, self.app)
        self.link = AsyncValue(Link(LinkState.UP))
        self.stopping = trio.Event()
        self.traffic = AsyncValue(Traffic())
        self.books = AsyncValue(Books(streams=(Stream("stream-1", "cam-1"),), pending=120))
        self.live, live_inbox = trio.open_memory_channel(100)
        self.backlog, backlog_inbox = trio.open_memory_channel(100)
        outcomes, self._outcomes = trio.open_memory_channel(math.inf)
        reports, self._reports = trio.open_memory_channel(reports_max)
        self.client = CloudClient(
            "http://10.0.0.1/log", timeout_s=30, key=key, run_sync=run_inline, transport=self.network.transport()
        )
        knobs = {
            "link": self.link,
            "stopping": self.stopping,
            "traffic": self.traffic,
            "books": self.books,
            "client": self.client,
            "device_id": "cam-1",
            "knobs": AsyncValue(Knobs(retries_max=retries_max, retry_multiplier=2.0)),
            "rng": random.Random(SEED),
            "now": lambda: WALL + trio.current_time(),
        }
        self.ended = trio.Event()
        self._run = partial(uplink.run, live_inbox, backlog_inbox, outcomes, reports, **knobs)
        nursery.start_soon(self._serve)

    async def _serve(self):
        async with self.client:
            await self._run()
        self.ended.set()

    async def _log(self):
        data: Any = await request.get_data()
        envelope = wire.open_envelope(wire.decompress(data, request.headers.get("Content-Encoding", "")))
        self.envelopes.append(envelope)
        self.at.append(trio.current_time())
        answer = self.script.pop(0) if self.script else self.store
        return await answer(envelope) if callable(answer) else answer

    async def store(self, envelope):
        """What the cloud does on a good day."""
        seqs = [wire.check_payload(raw).seq for raw in envelope.predictions]
        new = [seq for seq in seqs if seq not in self.stored]
        self.stored += new
        answer = wire.Answer(accepted=len(new), duplicates=len(seqs) - len(new))
        return Response(wire.encode_answer(answer), 200, JSON)

    async def end(self):
        """Both lanes end; everything that came out of the uplink: {fate: sorted seqs}, and the outcomes."""
        self.live.close()
        self.backlog.close()
        await self.ended.wait()
        self.outcomes = [outcome async for outcome in self._outcomes]
        self.reports = [report async for report in self._reports]
        fates: dict[Fate, list[int]] = {}
        for outcome in self.outcomes:
            fates.setdefault(outcome.fate, []).extend(outcome.seqs)
        told = [seq for outcome in self.outcomes for seq in outcome.seqs]
        assert len(told) == len(set(told)), "a prediction's fate is told once"
        return {fate: sorted(seqs) for fate, seqs in fates.items()}

    def signs(self):
        return [report.sign for report in self.reports]

    def shape(self):
        return [len(envelope.predictions) for envelope in self.envelopes]


def says(status, body=b"{}", **headers):
    return Response(body, status, JSON | {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.fixture
async def servers():
    async with trio.open_nursery() as nursery:
        yield nursery
        nursery.cancel_scope.cancel()


@pytest.fixture
def world(servers):
    return World(servers)


def pauses(count):
    """The live lane's waits between tries, as the seed fixes them."""
    rng = random.Random(SEED)
    return [rng.uniform(0.0, 2.0**n) for n in range(count)]


# --- 200


async def test_an_answer_in_the_instant_in_which_connectivity_is_cancelled_is_no_crash(world, autojump_clock):
    """What it has learnt is still told, and it ends as it would have ended."""
    world._reports.close()
    await world.live.send(live(1))
    world.live.close()
    world.backlog.close()
    await world.ended.wait()
    assert [(outcome.fate, list(outcome.seqs)) async for outcome in world._outcomes] == [(Fate.SENT, [1])]


async def test_a_live_batch_is_framed_around_its_stored_bytes_and_sent(autojump_clock, world):
    batch = live(1, 2, 3)
    await world.live.send(batch)
    assert await world.end() == {Fate.SENT: [1, 2, 3]}
    (envelope,) = world.envelopes
    assert [bytes(raw) for raw in envelope.predictions] == [record.payload for record in batch.records]
    assert (envelope.edge_device_id, envelope.stream_id, envelope.pending) == ("cam-1", "stream-1", 120)
    assert (envelope.sent_at, envelope.late) == (WALL, False)
    assert world.signs() == [Sign.ALIVE]
    assert (world.traffic.value.sent, world.traffic.value.posts, world.traffic.value.retried) == (3, 1, 0)


async def test_rejected_records_go_to_quarantine_each_with_its_error_and_the_others_are_sent(autojump_clock, world):
    rejected = [wire.Rejection(index=1, error="bbox: bad", seq=2), wire.Rejection(index=3, error="late", seq=4)]
    answer = wire.Answer(accepted=2, duplicates=1, rejected=rejected)
    world.script = [says(200, wire.encode_answer(answer))]
    await world.live.send(live(1, 2, 3, 4, 5))
    assert await world.end() == {Fate.SENT: [1, 3, 5], Fate.QUARANTINED: [2, 4]}
    assert [(o.seqs, o.error) for o in world.outcomes[1:]] == [((2,), "bbox: bad"), ((4,), "late")]
    assert (world.traffic.value.rejected, world.traffic.value.duplicates) == (2, 1)


async def test_a_backlog_batch_is_marked_late_carries_losses_and_answers_whoever_sent_it(autojump_clock, world):
    loss = wire.Loss(1, 4, "evicted")
    batch = late(5, 6, losses=(loss,))
    await world.backlog.send(batch)
    assert await batch.reply.wait() == Delivery(Trouble.NONE, records=2, seconds=0.0)
    await world.end()
    assert world.outcomes == [Outcome(Fate.SENT, (5, 6), losses=(loss,))]
    assert (world.envelopes[0].late, world.envelopes[0].losses) == (True, [loss])


async def test_losses_alone_are_confirmed_too(autojump_clock, world):
    loss = wire.Loss(1, 4, "evicted")
    await world.backlog.send(late(losses=(loss,)))
    await world.end()
    assert world.outcomes == [Outcome(Fate.SENT, (), losses=(loss,))]


# --- no answer, and 5xx


async def test_a_live_batch_is_retried_with_seeded_backoff_and_then_left_to_recovery(autojump_clock, world):
    world.script = [says(500, b"boom")] * 4
    await world.live.send(live(1, 2))
    assert await world.end() == {Fate.RELEASED: [1, 2]}
    first, second, third = pauses(3)
    assert world.at == pytest.approx([0, first, first + second, first + second + third])
    assert world.outcomes[0].error == "500: boom"
    assert world.signs() == [Sign.FAILED] * 4
    assert (world.traffic.value.retried, world.traffic.value.released) == (3, 2)


async def test_a_retry_that_gets_through_ends_it(autojump_clock, world):
    world.script = [says(502), says(503)]
    await world.live.send(live(1))
    assert await world.end() == {Fate.SENT: [1]}
    assert world.at == pytest.approx([0, pauses(2)[0], sum(pauses(2))])


async def test_refused_connections_lose_nothing(autojump_clock, world):
    world.network.sever()
    await world.live.send(live(1))
    assert await world.end() == {Fate.RELEASED: [1]}
    assert world.network.connects == 4
    assert trio.current_time() == pytest.approx(sum(pauses(3)))
    assert world.outcomes[0].error == "ConnectError: connection refused"


async def test_a_black_hole_times_out_at_exactly_30_s(autojump_clock, world):
    world.network.swallows = True
    batch = late(1)
    await world.backlog.send(batch)
    assert await batch.reply.wait() == Delivery(Trouble.FAILED, records=0, seconds=30.0)
    assert await world.end() == {Fate.RELEASED: [1]}
    assert world.outcomes[0].error == "no answer within 30 s"


async def test_a_reset_before_the_server_acted_is_tried_again(autojump_clock, world):
    async def reset(envelope):
        world.network.cut()
        await trio.sleep_forever()

    world.script = [reset]
    await world.live.send(live(1))
    assert await world.end() == {Fate.SENT: [1]}
    assert world.traffic.value.duplicates == 0


async def test_a_reply_lost_after_the_server_acted_is_stored_once(autojump_clock, world):
    async def reset(envelope):
        await world.store(envelope)
        world.network.cut()
        await trio.sleep_forever()

    world.script = [reset]
    await world.live.send(live(1, 2))
    assert await world.end() == {Fate.SENT: [1, 2]}
    assert world.stored == [1, 2]
    assert world.traffic.value.duplicates == 2


async def test_half_an_answer_is_none(autojump_clock, world):
    async def half(envelope):
        async def body():
            yield b'{"accepted": 1'
            world.network.cut()

        return Response(body(), 200, JSON | {"Content-Length": "16"})

    world.script = [half]
    await world.live.send(live(1))
    assert await world.end() == {Fate.SENT: [1]}
    assert world.signs() == [Sign.FAILED, Sign.ALIVE]


async def test_a_backlog_batch_is_tried_exactly_once(autojump_clock, world):
    world.script = [says(500)]
    batch = late(1, 2)
    await world.backlog.send(batch)
    assert await batch.reply.wait() == Delivery(Trouble.FAILED, records=0, seconds=0.0)
    assert await world.end() == {Fate.RELEASED: [1, 2]}
    assert len(world.at) == 1


# --- busy


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("header", ["7", formatdate(WALL + 7, usegmt=True)])
async def test_busy_releases_without_blame_and_holds_the_lane_for_as_long_as_the_cloud_asks(
    autojump_clock, world, status, header
):
    world.script = [says(status, Retry_After=header)]
    await world.live.send(live(1))
    await world.live.send(live(2))
    assert await world.end() == {Fate.SENT: [2], Fate.RELEASED: [1]}
    assert world.at == [0.0, 7.0]
    assert Outcome(Fate.RELEASED, (1,), error=None) in world.outcomes
    assert world.signs() == [Sign.ALIVE, Sign.ALIVE]


async def test_what_the_cloud_told_one_lane_holds_for_the_other(autojump_clock, world):
    world.script = [says(429, Retry_After="7")]
    first, second = late(1), late(2)
    await world.backlog.send(first)
    assert await first.reply.wait() == Delivery(Trouble.BUSY, records=0, seconds=0.0, retry_after_s=7.0)
    await trio.sleep(2)
    await world.backlog.send(second)
    await world.live.send(live(3))
    assert await second.reply.wait() == Delivery(Trouble.BUSY, records=0, seconds=0.0, retry_after_s=5.0)
    assert await world.end() == {Fate.SENT: [3], Fate.RELEASED: [1, 2]}
    assert world.at == [0.0, 7.0]


async def test_busy_does_not_hold_up_a_stop(autojump_clock, world):
    world.script = [says(503, Retry_After="200")]
    await world.live.send(live(1))
    await world.live.send(live(2))
    await trio.sleep(3)
    world.stopping.set()
    assert await world.end() == {Fate.SENT: [2], Fate.RELEASED: [1]}
    assert world.at == [0.0, 3.0]


# --- too large, unusable


async def test_413_splits_and_both_lanes_remember_the_size_that_passed(autojump_clock, world):
    async def small(envelope):
        return await world.store(envelope) if len(envelope.predictions) <= 8 else says(413)

    world.script = [small] * 6
    await world.live.send(live(*range(1, 33)))
    await trio.sleep(1)
    batch = late(*range(33, 49))
    await world.backlog.send(batch)
    assert await batch.reply.wait() == Delivery(Trouble.NONE, records=16, seconds=0.0)
    assert await world.end() == {Fate.SENT: list(range(1, 49))}
    assert world.shape()[:3] == [32, 16, 8]
    assert max(world.shape()[3:]) <= 8
    assert set(world.signs()) == {Sign.ALIVE}


async def test_a_split_backlog_batch_says_so_to_the_pace(autojump_clock, world):
    world.script = [says(413)]
    batch = late(1, 2)
    await world.backlog.send(batch)
    assert await batch.reply.wait() == Delivery(Trouble.TOO_LARGE, records=2, seconds=0.0)
    await world.end()


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("bad", [1, 500, 501, 777, 1000])
async def test_one_bad_record_among_1000_is_found_in_at_most_20_requests(autojump_clock, world, status, bad):
    async def picky(envelope):
        seqs = [wire.check_payload(raw).seq for raw in envelope.predictions]
        return says(status, b'{"error": "seq %d is bad"}' % bad) if bad in seqs else await world.store(envelope)

    world.script = [picky] * 1000
    batch = late(*range(1, 1001))
    await world.backlog.send(batch)
    assert (await batch.reply.wait()).records == 1000
    fates = await world.end()
    assert fates[Fate.QUARANTINED] == [bad]
    assert fates[Fate.SENT] == [seq for seq in range(1, 1001) if seq != bad]
    assert f"seq {bad} is bad" in next(o.error for o in world.outcomes if o.fate is Fate.QUARANTINED)
    assert len(world.envelopes) <= 1 + 2 * math.log2(1000)
    assert set(world.signs()) == {Sign.ALIVE}


async def test_a_failure_in_the_middle_of_a_search_retries_only_what_is_left(autojump_clock, world):
    async def picky(envelope):
        seqs = [wire.check_payload(raw).seq for raw in envelope.predictions]
        return says(422) if 4 in seqs else await world.store(envelope)

    world.script = [picky, picky, says(500), *[picky] * 20]
    await world.live.send(live(1, 2, 3, 4))
    assert await world.end() == {Fate.SENT: [1, 2, 3], Fate.QUARANTINED: [4]}
    assert world.shape()[:4] == [4, 2, 1, 2]
    assert world.traffic.value.duplicates == 0


# --- refused


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        (says(401, b"no such key"), "401: no such key"),
        (says(403), "403: {}"),
        (says(404, b"not here"), "404: not here"),
        (says(307, b"", Location="http://portal.example/"), "307: redirected to http://portal.example/"),
        (
            Response("<html>Hotel</html>", 200, {"Content-Type": "text/html"}),
            "200, but not from our cloud (text/html): <html>Hotel</html>",
        ),
        (Response("<html>Bad</html>", 400, {"Content-Type": "text/html"}), "400: <html>Bad</html>"),
        (says(200, b'{"accepted": 7}'), "200, but it speaks of 7 predictions; 2 were sent"),
        (says(200, b'{"accepted": 1}'), "200, but it speaks of 1 predictions; 2 were sent"),
    ],
)
async def test_whoever_is_not_our_cloud_gets_no_retries_and_is_reported_with_what_was_seen(
    autojump_clock, world, answer, seen
):
    world.script = [answer] * 2
    batch = late(3, 4)
    await world.live.send(live(1, 2))
    await world.backlog.send(batch)
    assert (await batch.reply.wait()).trouble is Trouble.FAILED
    assert await world.end() == {Fate.RELEASED: [1, 2, 3, 4]}
    assert world.reports == [Report(Sign.REFUSED, seen)] * 2
    assert {outcome.error for outcome in world.outcomes} == {None}, "not the predictions' fault"
    assert len(world.at) == 2


async def test_a_key_rotated_on_disk_opens_the_door_again(autojump_clock, servers, tmp_path):
    file = tmp_path / "key"
    file.write_text("old")
    world = World(servers, key=ApiKey(file=file))

    async def guarded(envelope):
        right = request.headers.get("Authorization") == "Bearer brand-new"
        return await world.store(envelope) if right else says(401)

    world.script = [guarded] * 2
    await world.live.send(live(1))
    await trio.sleep(1)
    file.write_text("brand-new")
    await world.live.send(live(2))
    assert await world.end() == {Fate.SENT: [2], Fate.RELEASED: [1]}
    assert world.signs() == [Sign.REFUSED, Sign.ALIVE]


# --- the link, the lanes, the end


@pytest.mark.parametrize("state", [LinkState.DOWN, LinkState.REFUSED])
async def test_while_the_link_is_away_batches_are_released_at_once_without_a_try(autojump_clock, world, state):
    world.link.value = Link(state)
    batch = late(2)
    await world.live.send(live(1))
    await world.backlog.send(batch)
    assert (await batch.reply.wait()).trouble is Trouble.FAILED
    assert await world.end() == {Fate.RELEASED: [1, 2]}
    assert {outcome.error for outcome in world.outcomes} == {None}
    assert (world.at, trio.current_time()) == ([], 0.0)


async def test_a_backoff_ends_when_the_link_is_known_to_be_down(autojump_clock, world):
    world.script = [says(500), says(500), says(500)]
    await world.live.send(live(1))
    await trio.sleep(sum(pauses(2)) + 0.01)
    assert len(world.at) == 3
    world.link.value = Link(LinkState.DOWN)
    assert await world.end() == {Fate.RELEASED: [1]}
    assert trio.current_time() == pytest.approx(sum(pauses(2)) + 0.01)
    assert world.outcomes[0].error == "500: {}"


async def test_a_backoff_ends_when_the_device_stops_and_each_batch_left_is_offered_once(autojump_clock, world):
    world.script = [says(500), says(500), says(500), says(500)]
    await world.live.send(live(1))
    await world.live.send(live(2))
    await world.live.send(live(3))
    await trio.sleep(sum(pauses(2)) + 0.01)
    world.stopping.set()
    world.link.value = Link(LinkState.DOWN)
    assert await world.end() == {Fate.RELEASED: [1, 2], Fate.SENT: [3]}
    assert len(world.at) == 5, "the last batch is offered even over a link that is thought to be down"
    assert trio.current_time() == pytest.approx(sum(pauses(2)) + 0.01)


async def test_bad_news_waits_for_connectivity_good_news_does_not(autojump_clock, servers):
    world = World(servers, reports_max=1)
    world.script = [says(404), says(404)]
    for seq in range(1, 3):
        await world.live.send(live(seq))
    await trio.sleep(1)
    assert len(world.at) == 2, "the second refusal waits for room, or it might never be known"
    assert (await world._reports.receive()).sign is Sign.REFUSED
    await trio.sleep(1)
    assert (await world._reports.receive()).sign is Sign.REFUSED
    for seq in range(3, 9):
        await world.live.send(live(seq))
    assert (await world.end())[Fate.SENT] == list(range(3, 9))
    assert world.signs() == [Sign.ALIVE]
