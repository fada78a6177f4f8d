"""The OpenAPI document: valid, of the routes that are and the answers that come; and garbage gets a 5xx from none."""

import re
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import validate

from cloud import documents, wire
from cloud.openapi import EXAMPLE_ANSWER, EXAMPLE_BATCH
from tests.cloud.world import NOON, payload, service

PATH_VARIABLE = re.compile("<[^>]+>")


async def document(cloud) -> dict[str, Any]:
    found = await cloud.get("/openapi.json")
    assert isinstance(found, dict)
    return found


async def test_the_document_is_valid_openapi():
    async with service() as cloud:
        validate(await document(cloud))


async def test_the_document_names_every_route_and_no_other_and_so_does_the_index():
    async with service() as cloud:
        told = {
            f"{method.upper()} {path}" for path, item in (await document(cloud))["paths"].items() for method in item
        }
        real = {
            f"{method} {PATH_VARIABLE.sub('{device_id}', rule.rule)}"
            for rule in cloud.app.url_map.iter_rules()
            for method in rule.methods - {"HEAD", "OPTIONS"}
            if not rule.endpoint.startswith("dashboard.")
        }
        assert told == real
        listed = {name.replace("{id}", "{device_id}") for name in (await cloud.get("/"))["endpoints"]}
        assert listed == real - {"GET /"}


async def test_the_example_is_taken_and_answered_as_the_document_says():
    async with service() as cloud:
        answer = await cloud.client.post("/log", json=EXAMPLE_BATCH)
        assert answer.json() == EXAMPLE_ANSWER
        post = (await document(cloud))["paths"]["/log"]["post"]
        assert post["requestBody"]["content"]["application/json"]["example"] == EXAMPLE_BATCH


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", documents.Index), ("/health", documents.State), ("/ready", documents.State), ("/stats", documents.Stats),
     (f"/series?since={NOON}&until={NOON + 60}", documents.Series), ("/predictions", documents.Page),
     ("/devices", documents.Devices), ("/devices/cam/audit", documents.Audit),
     ("/devices/cam/conflicts", documents.Conflicts), ("/nowhere", documents.Problem)],
)  # fmt: skip
async def test_real_answers_have_exactly_the_fields_of_the_document(path, kind):
    async with service() as cloud:
        await cloud.post(payload(1), payload(3), losses=[(2, 2, "evicted")])
        await cloud.post(payload(1, image_id="other"))
        body = (await cloud.client.get(path)).content
        read = msgspec.json.decode(body, type=kind)
        assert msgspec.json.decode(msgspec.json.encode(read)) == msgspec.json.decode(body)


async def test_the_docs_page_shows_every_operation_and_needs_nobody_else():
    async with service() as cloud:
        answer = await cloud.client.get("/docs")
        assert answer.headers["Content-Type"].startswith("text/html")
        for path in (await document(cloud))["paths"]:
            assert f" {path}</code>" in answer.text
        assert "<script" not in answer.text
        assert not re.search(r"""(?:src|href)=["'](?!#|/)""", answer.text)
        assert "://" not in answer.text
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


async def test_the_docs_need_no_key_and_tell_nothing_of_what_is_stored():
    async with service() as cloud:
        await cloud.post(payload(1), device="secret-name")
        for path in ("/docs", "/openapi.json"):
            assert "secret-name" not in (await cloud.client.get(path)).text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=12,
)
FIELDS = (
    "edge_device_id",
    "stream_id",
    "sent_at",
    "pending",
    "late",
    "losses",
    "predictions",
    *EXAMPLE_BATCH["predictions"][0],
)


@st.composite
def nearly_good(draw) -> bytes:
    """The example with a few of its values exchanged for anything."""
    batch = msgspec.json.decode(msgspec.json.encode(EXAMPLE_BATCH))
    for name in draw(st.lists(st.sampled_from(FIELDS), max_size=3)):
        where = batch if name in EXAMPLE_BATCH or name == "late" else batch["predictions"]
        if isinstance(where, list) and where and isinstance(where[0], dict):
            where = where[0]
        if isinstance(where, dict):
            where[name] = draw(JSON)
    return msgspec.json.encode(batch)


BODIES = st.binary(max_size=300) | JSON.map(msgspec.json.encode) | nearly_good()
ENCODINGS = st.sampled_from(["", "gzip", "zstd", "identity", "br", "gzip, zstd", "\t"]) | st.text(
    st.characters(min_codepoint=33, max_codepoint=126), max_size=10
)
WORDS = st.text(max_size=12)
NAMES = st.sampled_from(["since", "until", "limit", "cursor", "class", "format", "bucket_s", "edge_device_id"]) | WORDS
READS = ("/stats", "/series", "/predictions", "/devices", "/metrics", "/devices/x/audit", "/devices/x/conflicts")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(BODIES, ENCODINGS), max_size=8),
    st.lists(st.tuples(st.sampled_from(READS), st.dictionaries(NAMES, WORDS, max_size=3)), max_size=8),
)
def test_garbage_gets_an_answer_below_500_and_a_good_client_beside_it_is_served(posts, reads):
    async def scenario() -> None:
        async with service() as cloud:
            for number, (body, encoding) in enumerate(posts, 1):
                headers = {"Content-Encoding": encoding.strip()}
                answer = await cloud.client.post("/log", content=body, headers=headers)
                assert answer.status_code < 500, (answer.text, body)
                assert (await cloud.post(payload(number), device="good")).json()["accepted"] == 1
            for path, params in reads:
                answer = await cloud.client.get(path, params=params)
                assert answer.status_code < 500, (answer.text, path, params)
            audit = await cloud.audit("good") if posts else {"stored": 0}
            assert audit["stored"] == len(posts)

    trio.run(scenario)


def test_an_answer_of_the_example_is_one_that_the_device_understands():
    assert wire.read_answer(msgspec.json.encode(EXAMPLE_ANSWER)).accepted == 1
