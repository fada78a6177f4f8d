"""notifier and webhook: every alert is told in order, whatever the network does, and its address is never shown."""

import json
import random

import attrs
import httpx
import pytest
import trio
from structlog.testing import capture_logs

from actors import notifier
from actors.messages import AlertChange
from actors.ports.lane import run_inline
from actors.ports.webhook import NotHeard, Webhook
from tests.world import Halfway

URL = "https://hooks.test/services/T0KEN"
BEGAN = AlertChange("failed_high", "101 predictions were refused", 1.8e9, began=True)
OVER = attrs.evolve(BEGAN, began=False, held_s=12.5)


@attrs.define(eq=False)
class Listener(httpx.AsyncBaseTransport):
    """The other side: answers what it is told to, one after another, then 200."""

    answers: list[int | type[Exception] | None] = attrs.Factory(list)
    heard: list[dict[str, object]] = attrs.Factory(list)
    tried_at: list[float] = attrs.Factory(list)
    urls: list[str] = attrs.Factory(list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.tried_at.append(trio.current_time())
        self.urls.append(str(request.url))
        answer = self.answers.pop(0) if self.answers else 200
        if answer is None:
            await trio.sleep_forever()
        if isinstance(answer, type):
            raise answer(f"at {URL}")
        assert isinstance(answer, int)
        if answer < 300:
            self.heard.append(json.loads(request.content))
        return httpx.Response(answer)


async def tell(listener: Listener, *changes: AlertChange, file=None) -> list[dict[str, object]]:
    changes_in, changes_out = trio.open_memory_channel[AlertChange](len(changes))
    with changes_in:
        for change in changes:
            changes_in.send_nowait(change)
    webhook = Webhook(run_inline, "" if file else URL, file, transport=listener)
    with capture_logs() as told:
        await notifier.run(changes_out, webhook=webhook, device_id="cam", rng=Halfway())
    assert "T0KEN" not in repr((told, webhook))
    return [dict(event) for event in told]


async def test_beginning_and_end_are_told_with_fields_and_a_sentence(autojump_clock):
    listener = Listener()
    assert await tell(listener, BEGAN, OVER) == []
    first, second = listener.heard
    assert first == {
        "text": "cam: ALERT failed_high: 101 predictions were refused",
        "edge_device_id": "cam",
        "alert": "failed_high",
        "state": "firing",
        "detail": "101 predictions were refused",
        "at": "2027-01-15T08:00:00+00:00",
        "held_s": 0.0,
    }
    assert second["text"] == "cam: over failed_high: 101 predictions were refused (held 12.5 s)"
    assert second["state"] == "resolved"


async def test_what_is_not_heard_is_tried_again_with_growing_pauses_and_in_order(autojump_clock):
    listener = Listener([httpx.ConnectError, 503, 429, None])
    told = await tell(listener, BEGAN, OVER)
    assert [one["state"] for one in listener.heard] == ["firing", "resolved"]
    # Halves of 1, 2, 4 s; then 10 s without an answer and half of 8 s.
    assert listener.tried_at == [0.0, 0.5, 1.5, 3.5, 17.5, 17.5]
    assert [(event["event"], event["reason"]) for event in told] == [("alert_not_heard", "ConnectError")]


async def test_a_long_outage_is_tried_at_least_once_a_minute(autojump_clock):
    listener = Listener([httpx.ConnectError] * 20)
    await tell(listener, BEGAN)
    pauses = [later - sooner for sooner, later in zip(listener.tried_at, listener.tried_at[1:], strict=False)]
    assert max(pauses) == notifier.PAUSE_MAX_S / 2


@pytest.mark.parametrize("status", [301, 401, 404, 410])
async def test_a_refusal_for_good_gives_up_that_alert_and_tells_the_next(autojump_clock, status):
    listener = Listener([status])
    told = await tell(listener, BEGAN, OVER)
    assert [one["state"] for one in listener.heard] == ["resolved"]
    assert [(event["reason"], event["again"]) for event in told] == [(f"answered {status}", False)]


async def test_an_address_in_a_file_is_read_anew_each_time(autojump_clock, tmp_path):
    file = tmp_path / "url"
    listener = Listener()
    file.write_text("https://one.test/T0KEN\n")
    await tell(listener, BEGAN, file=file)
    file.write_text("https://two.test/T0KEN")
    await tell(listener, OVER, file=file)
    assert listener.urls == ["https://one.test/T0KEN", "https://two.test/T0KEN"]


async def test_a_file_that_holds_no_address_is_told_without_what_it_holds(tmp_path):
    (tmp_path / "url").write_text("T0KEN without a scheme")
    with pytest.raises(NotHeard) as caught:
        await Webhook(run_inline, file=tmp_path / "url", transport=Listener()).post({})
    assert caught.value.again
    assert "T0KEN" not in str(caught.value)


async def test_jitter_spreads_a_fleet(autojump_clock):
    first, second = Listener([httpx.ConnectError]), Listener([httpx.ConnectError])
    for listener, seed in ((first, 1), (second, 2)):
        await notifier.tell(BEGAN, Webhook(run_inline, URL, transport=listener), "cam", random.Random(seed))
    assert first.tried_at[1] - first.tried_at[0] != second.tried_at[1] - second.tried_at[0]
