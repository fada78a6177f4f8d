"""Exports: the predictions of the pages, line by line, in the memory of one page, and never half of them as all."""

import csv
import io
import json
import tracemalloc
from contextlib import aclosing
from typing import Any

import httpx
import pytest
import trio

from cloud.export import COLUMNS, EXPORTS_MAX, Exports
from cloud.ledger import Cursor, LedgerBusy, LedgerUnavailable, Page, Query, StoredPrediction
from cloud.ledger.pages import pages
from cloud.ledger.sqlite import SqliteLedger
from tests.cloud.world import NOON, payload, service
from tests.network import Network

ROWS = 2_300
"""More than two pages of an export."""


async def fill(cloud) -> None:
    for start in range(1, ROWS + 1, 500):
        seqs = range(start, min(start + 500, ROWS + 1))
        await cloud.post(*(payload(n, classes=("defect",) if n % 2 else ()) for n in seqs))


async def test_json_lines_are_the_predictions_of_the_pages_and_all_of_them():
    async with service() as cloud:
        await fill(cloud)
        answer = await cloud.client.get("/predictions", params={"format": "jsonl"})
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        assert answer.text.endswith("\n")
        rows = [json.loads(line) for line in answer.text.splitlines()]
        assert [row["seq"] for row in rows] == list(range(ROWS, 0, -1))
        assert rows[:100] == (await cloud.get("/predictions"))["predictions"]


@pytest.mark.parametrize(
    ("params", "seqs"),
    [({"limit": 2}, [ROWS, ROWS - 1]), ({"limit": 1_500}, list(range(ROWS, ROWS - 1_500, -1))),
     ({"defect_detected": "true", "until": NOON + 6}, [5, 3, 1]), ({"edge_device_id": "nobody"}, [])],
)  # fmt: skip
@pytest.mark.parametrize("form", ["jsonl", "csv"])
async def test_filters_and_limit_hold_for_an_export_too(params, seqs, form):
    async with service() as cloud:
        await fill(cloud)
        text = (await cloud.client.get("/predictions", params=params | {"format": form})).text
        if form == "csv":
            assert [int(row["seq"]) for row in csv.DictReader(io.StringIO(text))] == seqs
        else:
            assert [json.loads(line)["seq"] for line in text.splitlines()] == seqs


async def test_csv_has_a_head_and_a_row_for_each_prediction_and_no_formula():
    async with service() as cloud:
        odd = payload(7, image_id="=cmd|' /C calc'!A0", model_name='a,"b"\n')
        await cloud.post(odd.replace(b'"seq":7,', b'"seq":7,\r\n '), device="-cam")
        answer = await cloud.client.get("/predictions", headers={"Accept": "text/csv"})
        assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
        (row,) = csv.DictReader(io.StringIO(answer.text))
        assert tuple(row) == COLUMNS
        assert (row["edge_device_id"], row["image_id"], row["model_name"]) == (
            "'-cam",
            "'=cmd|' /C calc'!A0",
            'a,"b"\n',
        )
        assert (row["seq"], row["timestamp"], row["late"]) == ("7", str(NOON + 7), "false")
        assert json.loads(row["detections"])[0]["class"] == "defect"
        lines = await cloud.client.get("/predictions?format=jsonl")
        assert len(lines.text.splitlines()) == 1


@pytest.mark.parametrize(
    ("accept", "kind"),
    [("*/*", "application/json"), ("text/html,*/*;q=0.1", "application/json"), ("text/csv", "text/csv; charset=utf-8"),
     ("application/x-ndjson", "application/x-ndjson"), ("application/json;q=0.5, text/csv", "text/csv; charset=utf-8"),
     ("image/png", "application/json"), ("", "application/json")],
)  # fmt: skip
async def test_the_format_follows_accept_and_the_parameter_goes_first(accept, kind):
    async with service() as cloud:
        headers = {"Accept": accept}
        assert (await cloud.client.get("/predictions", headers=headers)).headers["Content-Type"] == kind
        chosen = await cloud.client.get("/predictions?format=json", headers=headers)
        assert chosen.headers["Content-Type"] == "application/json"
        assert (await cloud.client.head("/predictions", headers=headers)).headers["Content-Type"] == kind


@pytest.mark.parametrize("query", ["format=xml", "format=csv&format=csv", "format=csv&limit=0", "format=csv&clas=x"])
async def test_an_export_that_is_not_understood_is_refused(query):
    async with service() as cloud:
        assert (await cloud.client.get(f"/predictions?{query}")).status_code == 400


class Endless:
    """A ledger that makes its pages up: as many as it is asked for."""

    def __init__(self, pages_max: int, rows: int = 100):
        self.pages_max, self.rows = pages_max, rows
        self.asked = 0

    def export(self, query: Query):
        return pages(self.predictions, query)

    async def predictions(self, query: Query) -> Page:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        text = payload(self.asked).decode()
        items = tuple(StoredPrediction(text, f"cam-{self.asked}-{n}", "s", NOON, late=False) for n in range(self.rows))
        return Page(items, Cursor(NOON, self.asked) if self.asked < self.pages_max else None)


async def export(ledger: Any, form: Any = "jsonl") -> int:
    lines = 0
    async with aclosing(await Exports().start(ledger, Query(limit=100), form, None)) as pieces:
        async for piece in pieces:
            lines += piece.count(b"\n")
    return lines


@pytest.mark.parametrize("form", ["jsonl", "csv"])
async def test_the_memory_of_an_export_does_not_grow_with_its_rows(form):
    peaks = []
    for count in (5, 5, 100):
        tracemalloc.start()
        assert await export(Endless(count), form) == count * 100 + (form == "csv")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] * 1.2


async def test_a_page_is_read_only_when_the_one_before_is_taken():
    ledger: Any = Endless(1_000)
    async with aclosing(await Exports().start(ledger, Query(limit=100), "jsonl", None)) as pieces:
        for taken in range(1, 5):
            await anext(pieces)
            assert ledger.asked <= taken + 1


async def test_a_store_that_fails_on_the_way_breaks_the_connection_and_nobody_takes_the_half_for_all(monkeypatch):
    asked = 0
    real = SqliteLedger.predictions

    async def fails_later(self, query):
        nonlocal asked
        asked += 1
        if asked == 2:
            raise LedgerUnavailable("disk gone")
        return await real(self, query)

    async with service() as cloud, trio.open_nursery() as nursery:
        await fill(cloud)
        monkeypatch.setattr(SqliteLedger, "predictions", fails_later)
        network = Network(nursery, cloud.app)
        async with httpx.AsyncClient(transport=network.transport(), base_url="http://10.0.0.1") as client:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get("/predictions?format=jsonl")
            whole = await client.get("/predictions?format=jsonl")
            assert len(whole.text.splitlines()) == ROWS
        nursery.cancel_scope.cancel()


async def test_a_store_that_fails_at_once_is_a_503_and_not_an_empty_file(monkeypatch):
    async def fails(self, query):
        raise LedgerUnavailable("disk gone")

    async with service() as cloud:
        monkeypatch.setattr(SqliteLedger, "predictions", fails)
        assert (await cloud.client.get("/predictions?format=csv")).status_code == 503


async def test_only_so_many_exports_run_at_once_and_one_that_is_left_makes_room():
    exports = Exports()
    running = [await exports.start(Endless(9), Query(limit=100), "csv", None) for _ in range(EXPORTS_MAX)]  # type: ignore[arg-type]
    for pieces in running:
        await anext(pieces)
    with pytest.raises(LedgerBusy):
        await exports.start(Endless(9), Query(), "csv", None)  # type: ignore[arg-type]
    for pieces in running:
        await pieces.aclose()
    assert exports.running == 0
