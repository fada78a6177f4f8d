"""The page at `/` as a browser's request gets it: what it shows, to whom, and what hostile names do to it."""

import base64
import html
import re
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest

from cloud.dashboard.asked import device_link
from cloud.keys import Key, Keys, Scope, digest_of
from cloud.ledger import LedgerUnavailable
from cloud.service import create_app
from tests.cloud.world import NOON, Clock, envelope, payload, service

HTML = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8"}
HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "\u202eright to left כשל",
    "n" * 256,
    "🏭🎥",
    "a/b//c?d=e#f%2Fg",
    "{{ 7 * 7 }}",
    "&lt;b&gt;",
)


async def page(cloud, path="/", status=200, **params):
    answer = await cloud.client.get(path, headers=HTML, params=params or None)
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    return answer.text


def text_of(markup: str) -> str:
    """What a reader sees: no tags, one space between words."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", markup)).split())


class Tags(HTMLParser):
    """Every element with the names of its attributes, as a browser takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, list[str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, [name for name, _ in attrs]))


def tags_of(markup: str) -> list[tuple[str, list[str]]]:
    parser = Tags()
    parser.feed(markup)
    return parser.found


def rows(markup: str) -> list[str]:
    """The text of each row of the fleet's table."""
    found = re.search(r"<tbody.*?</tbody>", markup, re.DOTALL)
    return [text_of(row) for row in re.findall(r"<tr.*?</tr>", found[0], re.DOTALL)] if found else []


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("", "application/json"),
        ("application/json", "application/json"),
        (HTML["Accept"], "text/html; charset=utf-8"),
    ],
)
async def test_a_browser_gets_the_page_and_a_program_the_list(accept, kind):
    async with service() as cloud:
        answer = await cloud.client.get("/", headers={"Accept": accept})
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, kind)
        assert answer.headers["Vary"] == "Accept"


async def test_before_the_first_device_the_page_says_how_to_send():
    async with service() as cloud:
        shown = text_of(await page(cloud))
        assert "Nothing has arrived yet" in shown
        assert "http://cloud/log" in shown


async def test_a_row_tells_what_a_device_does():
    async with service() as cloud:
        await cloud.post(payload(1, timestamp=NOON - 30), payload(2, timestamp=NOON - 20, classes=()), pending=7)
        cloud.clock.at += 12
        (row,) = rows(await page(cloud))
        assert row == "cam live 12 s ago 7 < 0.1 50 % none"


async def test_a_cut_device_turns_silent_and_a_backlog_late():
    async with service() as cloud:
        await cloud.post(payload(1), device="cut")
        cloud.clock.at += 301
        await cloud.post(payload(1), device="behind", late=True)
        shown = await page(cloud, sort="device")
        assert [row.split()[:2] for row in rows(shown)] == [["behind", "late"], ["cut", "silent"]]
        assert "live 0 late 1 silent 1" in text_of(shown)


async def test_gaps_show_with_their_reasons_and_heal():
    """Unexplained stands out, unless the device itself reports a backlog that may hold it; then it is awaited."""
    async with service() as cloud:
        await cloud.post(payload(10), losses=[(3, 5, "evicted"), (6, 6, "rejected: detections[0]: too long a story")])
        assert rows(await page(cloud))[0].endswith("5 unexplained evicted 3 rejected 1")
        await cloud.post(payload(11), pending=4)
        assert rows(await page(cloud))[0].endswith("1 unexplained 4 awaited evicted 3 rejected 1")
        await cloud.post(payload(12), pending=40)
        assert rows(await page(cloud))[0].endswith("100 % 5 awaited evicted 3 rejected 1")
        await cloud.post(*(payload(seq) for seq in range(1, 10)), pending=0, late=True)
        assert rows(await page(cloud))[0].endswith("none")
        assert "every number is accounted for" in text_of(await page(cloud))


async def test_the_page_of_a_device_has_its_audit_stream_by_stream():
    async with service() as cloud:
        await cloud.post(payload(4), stream="first", losses=[(1, 2, "evicted")])
        await cloud.post(payload(1), payload(1), payload(1, image_id="another"), stream="second")
        await cloud.post(payload())
        shown = text_of(await page(cloud, "/device/cam"))
        second, first = shown[shown.index("Stream second") :], shown[shown.index("Stream first") :]
        assert second.startswith(
            "Stream second Numbered up to 1 Stored 1 Missing 0 Explained 0 Repeats 1 Conflicts 1 Refused 0"
        )
        assert first.startswith(
            "Stream first Numbered up to 4 Stored 1 Missing 3 Explained 2 Repeats 0 Conflicts 0 Refused 0"
            " 1\N{EN DASH}2 evicted 3 no reason yet"
        )


async def test_a_device_with_many_lives_lists_the_newest_streams_and_counts_the_others():
    async with service() as cloud:
        for number in range(23):
            await cloud.post(payload(30), stream=f"life-{number}", losses=[(n, n, f"r{n}") for n in range(1, 30)])
        shown = text_of(await page(cloud, "/device/cam"))
        assert re.findall(r"Stream (life-\d+)", shown) == [f"life-{number}" for number in range(22, 2, -1)]
        assert "and 3 older streams, in the JSON" in shown
        assert shown.count("and 9 more gaps, in the JSON") == 20


async def test_the_plots_show_the_range_that_was_asked_for():
    async with service() as cloud:
        await cloud.post(payload(1, timestamp=NOON - 100), payload(2, timestamp=NOON - 7200))
        assert "Predictions per 1 min 1 in all" in text_of(await page(cloud))
        shown = await page(cloud, range="24h")
        assert "Predictions per 30 min 2 in all" in text_of(shown)
        assert re.findall(r'<a id="range-(\w+)"[^>]*aria-current', shown) == ["24h"]
        alone = await page(cloud, "/device/other", status=404)
        assert "No such device" in text_of(alone)


async def test_a_plot_of_nothing_says_so():
    async with service() as cloud:
        await cloud.post(payload(1, timestamp=NOON - 7200))
        shown = await page(cloud)
        assert shown.count("Nothing arrived for this stretch of time") == 3
        assert "pygal-chart" not in shown


async def test_defects_are_drawn_to_scale_on_a_frame_of_their_own():
    async with service() as cloud:
        detections = [
            {"class": "dent", "confidence": 0.5, "bbox": [0, 0, 100, 50]},
            {"class": "dent", "confidence": 0.9, "bbox": [100, 150, 200, 200]},
        ]
        await cloud.post(payload(1, detections=detections, confidence_scores=[0.5, 0.9]))
        shown = await page(cloud)
        first, second = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', shown)[-2:]
        (x1, y1, w1, h1), (x2, y2, w2, h2) = (tuple(map(float, box)) for box in (first, second))
        assert (x1, y1) == (0, 0)
        assert x2 == w1 == w2 == pytest.approx(2 * h1, abs=0.02)
        assert y2 == pytest.approx(3 * h1, abs=0.02)
        assert h2 == h1
        assert "dent 90 %" in text_of(shown)


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_names_are_text_and_their_pages_are_found(name):
    """Device, stream, class, image, reason and search text come from strangers: none becomes markup."""
    async with service() as cloud:
        defect = [{"class": name, "confidence": 0.9, "bbox": [-1e300, 0, 1e300, 1e-300]}]
        await cloud.post(
            payload(2, image_id=name, detections=defect, model_name=name),
            device=name,
            stream=name,
            losses=[(1, 1, name)],
        )
        for shown in (await page(cloud, q=name), await page(cloud, q="no" + name[:9])):
            tags = tags_of(shown)
            assert [tag for tag, _ in tags if tag in ("script", "img", "b")] == ["script", *["b"] * 3]
            assert not [names for _, names in tags if any(name.startswith("on") for name in names)]
        own = await page(cloud, device_link(name))
        assert f"<h1><bdi>{html.escape(name)}</bdi></h1>".replace("&quot;", "&#34;").replace("&#x27;", "&#39;") in own
        assert html.unescape(own).count(name) >= 4


async def test_nothing_on_a_page_comes_from_elsewhere_or_needs_what_the_policy_forbids():
    """The policy allows this origin alone: no inline script, no inline style, no address of another host."""
    async with service() as cloud:
        await cloud.post(payload(1), losses=[(2, 4, "evicted")])
        for path in ("/", "/device/cam", "/?range=nonsense"):
            answer = await cloud.client.get(path, headers=HTML)
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'self'" in policy
            assert "unsafe" not in policy
            shown = answer.text
            assert not re.search(r"<style|\sstyle=|<script(?![^>]*\ssrc=)", shown)
            links = re.findall(r'(?:href|src|action)="([^"]*)"', shown)
            assert links
            assert all(re.match(r"[/#?](?!/)", link) for link in links), links
            for link in {html.unescape(link) for link in links if link.startswith("/")}:
                assert (await cloud.client.get(link, headers=HTML)).status_code == 200, link


async def test_a_thousand_devices_come_in_pages_that_can_be_sorted_and_searched():
    async with service() as cloud:
        for number in range(120):
            seqs = range(1, 2 + number % 3)
            await cloud.post(*(payload(seq) for seq in seqs), device=f"Cam-{number:03d}", pending=number)
        await cloud.post(payload(3), device="cam-gap")
        first = await page(cloud)
        assert len(rows(first)) == 50
        assert rows(first)[0].startswith("cam-gap")
        assert "Page 1 of 3, 121 devices" in text_of(first)
        last = await page(cloud, page=3, sort="device")
        assert [row.split()[0] for row in rows(last)][-2:] == ["Cam-119", "cam-gap"]
        assert "Page 3 of 3" in text_of(await page(cloud, page=99))
        assert [row.split()[0] for row in rows(await page(cloud, q="CAM-11"))] == [f"Cam-11{n}" for n in range(10)]
        assert rows(await page(cloud, sort="backlog"))[0].startswith("Cam-119")
        assert rows(await page(cloud, state="silent")) == []
        link = re.search(r'id="next" rel="next" href="([^"]*)"', await page(cloud, q="cam-0", sort="rate", range="7d"))
        assert link is not None
        followed = await page(cloud, html.unescape(link[1]))
        assert "Page 2 of 2, 100 devices" in text_of(followed)
        assert 'value="cam-0"' in followed


@pytest.mark.parametrize(
    "wrong", ["range=2h", "sort=<b>", "state=dead", "page=0", "page=x", "rnage=1h", "q=a&q=b", f"q={'x' * 257}"]
)
async def test_a_misspelt_address_is_refused_in_words(wrong):
    async with service() as cloud:
        await cloud.post(payload(1))
        answer = await cloud.client.get(f"/?{wrong}", headers=HTML)
        assert answer.status_code == 400
        shown = text_of(answer.text)
        assert wrong.partition("=")[0] + ": " in shown
        assert "To the fleet" in shown
        assert "renews itself" not in shown


async def test_while_the_ledger_is_away_the_page_says_so_and_to_come_back(monkeypatch):
    async with service() as cloud:
        await cloud.post(payload(1))

        async def away(*_: object) -> None:
            raise LedgerUnavailable("disk full")

        with monkeypatch.context() as patched:
            patched.setattr(type(cloud.ledger), "devices", away)
            answer = await cloud.client.get("/", headers=HTML)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
            assert "The ledger does not answer" in text_of(answer.text)
            assert 'http-equiv="refresh"' in answer.text
            assert "renews itself" in answer.text
        assert rows(await page(cloud))


async def test_either_store_makes_the_page(opened):
    clock = Clock()
    async with opened(now=clock) as ledger:
        app: Any = create_app(ledger, now=clock)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://cloud") as client:
            sent = envelope(payload(1, timestamp=NOON - 9), payload(4), losses=[(2, 2, "evicted")], pending=0)
            assert (await client.post("/log", content=sent)).status_code == 200
            answer = await client.get("/", headers=HTML)
            assert rows(answer.text) == ["cam live now 0 < 0.1 100 % 1 unexplained evicted 1"]
            assert "2 in all" in text_of(answer.text)
            assert answer.text.count('class="drawing"') == 2
            audit = text_of((await client.get("/device/cam", headers=HTML)).text)
            assert "Numbered up to 4 Stored 2 Missing 2 Explained 1" in audit


async def test_the_page_takes_keys_that_read_and_a_bound_one_sees_its_own_device():
    keys = Keys(
        (
            Key(digest_of("all")),
            Key(digest_of("send"), scopes=frozenset({Scope.INGEST})),
            Key(digest_of("own"), device_id="cam"),
        )
    )

    async with service(keys=keys) as cloud:
        for device in ("cam", "other"):
            body = await cloud.client.post(
                "/log", content=b'{"edge_device_id":"%s","predictions":[]}' % device.encode(),
                headers={"Authorization": "Bearer all"},
            )  # fmt: skip
            assert body.status_code == 200

        async def status(path, secret):
            basic = base64.b64encode(f":{secret}".encode()).decode()
            return (await cloud.client.get(path, headers=HTML | {"Authorization": f"Basic {basic}"})).status_code

        assert (await cloud.client.get("/", headers=HTML)).status_code == 401
        assert await status("/", "all") == 200
        assert await status("/", "send") == 401
        assert await status("/device/cam", "own") == 200
        assert await status("/device/other", "own") == 403
