"""`POST /log` where the body is not read to its end, or its client does not wait, and where the ledger fails."""

import pytest
import trio

from cloud import wire
from cloud.keys import Keys
from cloud.ledger import LedgerBusy
from tests.cloud.test_limits import post, raw
from tests.cloud.world import envelope, payload, service

SCOPE = {
    "type": "http", "method": "POST", "path": "/log", "root_path": "", "query_string": b"", "scheme": "http",
    "http_version": "1.1", "headers": [(b"host", b"x")], "client": ("127.0.0.1", 1),
}  # fmt: skip


async def test_who_is_refused_and_takes_its_answer_late_can_go_on_sending_meanwhile(autojump_clock):
    """Hypercorn can't end a request whose queue of pieces is full."""
    pieces, queued = trio.open_memory_channel[dict[str, object]](10)
    sent = trio.Event()
    statuses = []

    async def upload() -> None:
        for _ in range(40):
            await pieces.send({"type": "http.request", "body": b"x", "more_body": True})
        sent.set()

    async def send(event) -> None:
        await sent.wait()
        statuses.append(event.get("status"))

    async with service(keys=Keys.of(["secret"])) as cloud, trio.open_nursery() as nursery:
        nursery.start_soon(upload)
        with trio.fail_after(60):
            await cloud.app(SCOPE, queued.receive, send)
    assert statuses == [401, None]


async def test_who_announces_too_much_is_told_before_any_of_it_is_read(autojump_clock):
    async with raw() as (_, connect):
        link = await connect()
        await link.send(post(wire.BODY_BYTES_MAX + 1))
        status, _, body = await link.answer()
        assert (status, b"body: more than" in body) == (413, True)
        assert trio.current_time() == 0.0


async def test_who_leaves_in_the_middle_of_a_body_is_counted_and_holds_no_place(autojump_clock):
    async with raw() as (cloud, connect):
        for _ in range(3):
            link = await connect()
            await link.send(post(1_000) + b"half")
            await link.close()
        await trio.sleep(1)
        text = (await cloud.client.get("/metrics")).text
        assert 'holdfast_cloud_requests_total{method="POST",route="/log",status="499"} 3.0' in text
        assert "holdfast_cloud_queue_batches 0.0" in text


async def test_a_batch_that_is_here_whole_is_stored_though_its_client_has_gone(autojump_clock):
    """The device will send it again, and be told that it is a duplicate."""
    body = envelope(payload(1))
    async with raw() as (cloud, connect):
        link = await connect()
        await link.send(post(len(body)) + body)
        await link.close()
        await trio.sleep(1)
        assert (await cloud.audit())["stored"] == 1


@pytest.mark.parametrize("error", [LedgerBusy(3), RuntimeError("a defect")])
async def test_what_the_ledger_raises_is_told_as_a_problem_with_the_headers_of_every_answer(error, monkeypatch):
    async with service() as cloud:

        async def fail(_):
            raise error

        monkeypatch.setattr(type(cloud.ledger), "ingest", lambda _, batch: fail(batch))
        answer = await cloud.post(payload(1))
        assert answer.status_code == (503 if isinstance(error, LedgerBusy) else 500)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers.get("retry-after") == ("3" if isinstance(error, LedgerBusy) else None)
        other = await cloud.client.get("/nowhere")
        shared = {
            "accept-encoding",
            "holdfast-wire",
            "holdfast-batch-max",
            "x-content-type-options",
            "cache-control",
            "content-security-policy",
        }
        assert {answer.headers[name] for name in shared} == {other.headers[name] for name in shared}
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
        assert "a defect" not in answer.text
