"""What the service tells of itself: problem documents, request ids, the access log, the metrics."""

import json

import pytest
import structlog
import trio
from prometheus_client.parser import text_string_to_metric_families

from cloud.keys import Key, Keys, Scope, digest_of
from cloud.ledger import LedgerUnavailable
from cloud.ledger.sqlite import SqliteLedger
from cloud.presence import SILENT_AFTER_S
from cloud.problems import Problem
from tests.cloud.world import envelope, payload, service

READER = Keys((Key(digest_of("r"), "page", frozenset({Scope.READ})),))


async def numbers(cloud) -> dict[str, dict[tuple[str, ...], float]]:
    """Every sample of `/metrics` by its name, then by its labels' values."""
    text = (await cloud.client.get("/metrics")).text
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


async def test_an_error_is_a_problem_document_that_names_the_field_and_the_request():
    async with service() as cloud:
        answer = await cloud.client.post("/log", content=b"{}", headers={"X-Request-Id": "abc-1"})
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json() == {
            "type": "about:blank", "title": "Unprocessable Content", "status": 422, "request_id": "abc-1",
            "detail": "body: Object missing required field `edge_device_id`",
        }  # fmt: skip


NASTY = "<script>alert(1)</script>\r\n\x1b[2J" + "x" * 5_000


@pytest.mark.parametrize(
    ("method", "path", "headers", "body"),
    [
        ("POST", "/log", {"Content-Encoding": NASTY.replace("\r\n\x1b", "")}, b""),
        ("GET", "/predictions", {}, b""),
        ("POST", "/log", {}, envelope(payload(1, timestamp=NASTY))),
        ("POST", "/log", {}, envelope(device=NASTY)),
    ],
)
async def test_what_a_stranger_sent_never_comes_back_whole_or_as_markup(method, path, headers, body):
    async with service() as cloud:
        params = {NASTY: NASTY} if method == "GET" else {}
        answer = await cloud.client.request(method, path, headers=headers, content=body, params=params)
        assert len(answer.content) < 1_000
        assert b"<" not in answer.content
        assert b"\x1b" not in answer.content
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        answer.json()


@pytest.mark.parametrize(
    ("given", "kept"),
    [("req-1:a/b", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ('"><script>', False), ("", False)],
)
async def test_a_request_id_is_taken_if_sane_echoed_and_logged(given, kept):
    with structlog.testing.capture_logs() as logs:
        async with service() as cloud:
            answer = await cloud.client.get("/nowhere", headers={"X-Request-Id": given})
    echoed = answer.headers["X-Request-Id"]
    assert (echoed == given) == kept
    assert len(echoed) >= 8
    assert answer.json()["request_id"] == echoed
    assert [line["request_id"] for line in logs] == [echoed]


async def test_the_access_log_says_who_asked_for_what_and_what_came_of_it_and_no_secret(autojump_clock):
    with structlog.testing.capture_logs() as logs:
        async with service(keys=READER) as cloud:
            headers = {"Authorization": "Bearer r"}
            await cloud.client.get("/predictions?class=secret-class", headers=headers)
            await cloud.client.post("/log", content=envelope(payload(1)), headers=headers)
    assert [(line["method"], line["path"], line["status"], line["key"]) for line in logs] == [
        ("GET", "/predictions", 200, "page"),
        ("POST", "/log", 403, "page"),
    ]
    assert logs[0]["bytes_sent"] > 0
    assert logs[0]["peer"] == "127.0.0.1"
    assert "secret" not in json.dumps(logs)


async def test_every_answer_carries_the_security_headers():
    async with service() as cloud:
        for path in ("/", "/health", "/nowhere"):
            headers = (await cloud.client.get(path)).headers
            assert headers["X-Frame-Options"] == "DENY"
            assert "default-src 'self'" in headers["Content-Security-Policy"]
            assert "unsafe" not in headers["Content-Security-Policy"]
            assert headers["Referrer-Policy"] == "no-referrer"


async def test_the_metrics_count_what_was_stored_what_was_not_and_what_was_asked():
    async with service() as cloud:
        bad = payload(3, inference_time_ms=-1)
        await cloud.post(payload(1), payload(2), bad)
        await cloud.post(payload(1), payload(2, image_id="other"))
        await cloud.client.get("/nowhere/1")
        await cloud.client.get("/nowhere/2")
        await cloud.client.request("MADE-UP", "/stats")
        found = await numbers(cloud)
        counts = {name: found[f"holdfast_cloud_predictions_{name}_total"][()] for name in
                  ("ingested", "duplicate", "conflicting", "rejected")}  # fmt: skip
        assert counts == {"ingested": 2, "duplicate": 1, "conflicting": 1, "rejected": 1}
        assert found["holdfast_cloud_requests_total"] == {
            ("POST", "/log", "200"): 2,
            ("GET", "unmatched", "404"): 2,
            ("other", "unmatched", "405"): 1,
        }
        assert found["holdfast_cloud_commit_seconds_count"][()] == 2
        assert found["holdfast_cloud_queue_batches"][()] == 0
        assert found["holdfast_cloud_body_bytes_total"][()] > 500
        assert list(found["holdfast_cloud_build_info"].values()) == [1]
        assert found["process_resident_memory_bytes"][()] > 1e6


async def test_the_queue_and_the_commit_time_are_those_of_the_store(autojump_clock):
    async def slow_disk(function, /, *args, **kwargs):
        await trio.sleep(2)
        return function(*args, **kwargs)

    async with service(run_sync=slow_disk) as cloud, trio.open_nursery() as nursery:
        for n in (1, 2, 3):
            nursery.start_soon(cloud.post, payload(n))
        await trio.sleep(9)
        found = await numbers(cloud)
        assert found["holdfast_cloud_commit_seconds_count"][()] == 3
        assert 2 <= found["holdfast_cloud_commit_seconds_sum"][()] / 3 <= 4


async def test_devices_are_live_late_or_silent():
    async with service() as cloud:
        await cloud.post(payload(1), device="asleep")
        cloud.clock.at += SILENT_AFTER_S + 1
        await cloud.post(payload(1), device="works")
        await cloud.post(payload(1), device="catches up", late=True)
        found = await numbers(cloud)
        assert found["holdfast_cloud_devices"] == {("live",): 1, ("late",): 1, ("silent",): 1}


async def test_the_metrics_answer_without_the_store_and_say_nothing_of_devices(monkeypatch):
    async def gone(self):
        raise LedgerUnavailable("gone")

    async with service() as cloud:
        await cloud.post(payload(1))
        monkeypatch.setattr(SqliteLedger, "devices", gone)
        found = await numbers(cloud)
        assert found["holdfast_cloud_predictions_ingested_total"][()] == 1
        assert "holdfast_cloud_devices" not in found


@pytest.mark.parametrize(
    ("status", "title"), [(413, "Content Too Large"), (422, "Unprocessable Content"), (404, "Not Found")]
)
def test_a_status_has_the_name_of_rfc_9110_on_every_python(status, title):
    assert json.loads(Problem(status, "body: …").json())["title"] == title
