"""Conflicts over HTTP and on the page: a number that came again with another payload hides nowhere."""

import pytest

from cloud.dashboard.conflicts import DIFFERENCES_MAX, VALUE_CHARS_MAX, Difference, shown_of
from cloud.keys import Key, Keys, Scope, digest_of
from cloud.ledger import Conflict
from tests.cloud.world import NOON, payload, service


async def test_conflicts_are_told_with_both_payloads_page_by_page():
    async with service() as cloud:
        assert (await cloud.client.get("/devices/cam/conflicts")).status_code == 404
        await cloud.post(*(payload(n) for n in range(1, 6)))
        assert await cloud.get("/devices/cam/conflicts") == {
            "edge_device_id": "cam", "conflicts": [], "next_cursor": None,
        }  # fmt: skip
        await cloud.post(*(payload(n, image_id="other") for n in range(1, 6)))
        seen, cursor = [], dict[str, str]()
        for _ in range(3):
            page = await cloud.get("/devices/cam/conflicts", limit=2, **cursor)
            seen += page["conflicts"]
            cursor = {"cursor": page["next_cursor"]}
        assert cursor == {"cursor": None}
        assert [(c["seq"], c["stored"]["image_id"], c["received"]["image_id"]) for c in seen] == [
            (n, f"frame_{n}", "other") for n in range(1, 6)
        ]
        assert {(c["stream_id"], c["received_at"]) for c in seen} == {("s1", NOON)}


@pytest.mark.parametrize("query", ["cursor=x", "cursor=%22", "cursor=WzEsMl0", "limit=0", "limit=1001", "since=1"])
async def test_a_page_that_is_not_understood_is_refused_by_name(query):
    async with service() as cloud:
        await cloud.post(payload(1))
        answer = await cloud.client.get(f"/devices/cam/conflicts?{query}")
        assert (answer.status_code, answer.json()["detail"].startswith(query.partition("=")[0])) == (400, True)


async def test_a_key_reads_the_conflicts_of_its_device_alone():
    bound = Key(digest_of("bound"), "bound", frozenset({Scope.READ, Scope.INGEST}), "cam")
    sender = Key(digest_of("sender"), "sender", frozenset({Scope.INGEST}))
    async with service(keys=Keys((bound, sender))) as cloud:
        cloud.client.headers["Authorization"] = "Bearer bound"
        await cloud.post(payload(1))
        assert (await cloud.client.get("/devices/cam/conflicts")).status_code == 200
        assert (await cloud.client.get("/devices/other/conflicts")).status_code == 403
        cloud.client.headers["Authorization"] = "Bearer sender"
        assert (await cloud.client.get("/devices/cam/conflicts")).status_code == 403


async def test_the_device_page_shows_a_conflict_and_what_differs():
    async with service() as cloud:
        await cloud.post(payload(7))
        page = "/device/cam"
        cloud.client.headers["Accept"] = "text/html"
        assert 'id="conflicts"' not in (await cloud.client.get(page)).text
        await cloud.post(payload(7, image_id="<script>other"))
        shown = (await cloud.client.get(page)).text
        assert 'id="conflicts"' in shown.partition('id="audit" data-live')[2], "in a part that renews itself"
        assert "&lt;script&gt;other" in shown
        assert "frame_7" in shown
        assert "<script>other" not in shown


def test_the_fields_that_differ_are_named_and_cut():
    def conflict(stored: str | None, received: str) -> Conflict:
        return Conflict("s", 1, NOON, stored, received)

    assert shown_of(conflict(None, "{}")).differences is None
    assert shown_of(conflict('{"a":1}', '{"a" : 1}')).differences == ()
    one = shown_of(conflict('{"a":1,"b":2}', '{"a":1,"c":[3]}'))
    assert one.differences == (Difference("b", "2", "absent"), Difference("c", "absent", "[3]"))
    long = ",".join(f'"f{n}":"{"x" * 999}"' for n in range(99))
    many = shown_of(conflict("{}", "{" + long + "}"))
    assert (len(many.differences or ()), many.differences_total) == (DIFFERENCES_MAX, 99)
    assert {len(difference.received) for difference in many.differences or ()} == {VALUE_CHARS_MAX}
    assert shown_of(conflict("no json", '{"a":1}')).differences_total == 1
