"""The page in a real browser: it fills, follows, says what is wrong, and works with a keyboard alone.

One headless Chromium for the module. The page's timers are wound on by hand, so that nobody waits for its five seconds.
"""

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import attrs
import httpx
import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from cloud.dashboard.asked import device_link
from cloud.ledger import LedgerUnavailable
from cloud.ledger.sqlite import MEMORY, open_ledger
from cloud.service import create_app
from tests.cloud.world import envelope, payload
from tests.needs import tool

pytestmark = pytest.mark.process

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE_MS = 20_000
"""How long a busy machine may take; nothing waits for it where all is well."""
expect.set_options(timeout=PATIENCE_MS)


@attrs.define
class Clock:
    ahead_s: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@attrs.define
class Fragile:
    """A ledger that can be taken away."""

    ledger: Any
    away: bool = False

    def __getattr__(self, name: str) -> Any:
        if self.away:
            raise LedgerUnavailable("the disk is full")
        return getattr(self.ledger, name)


@attrs.frozen
class Cloud:
    url: str
    clock: Clock
    ledger: Fragile

    def post(self, *seqs: int, device: str = "cam", age_s: float = 1.0, defect: bool = False, **more: Any) -> None:
        """Predictions captured `age_s` ago."""
        made = [
            payload(seq, timestamp=self.clock() - age_s, classes=("dent",) if defect else ()) for seq in seqs
        ]  # fmt: skip
        answer = httpx.post(f"{self.url}/log", content=envelope(*made, device=device, **more), timeout=30)
        assert answer.status_code == 200, answer.text


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    """A service of its own, on a real socket, in a thread; its clock can be moved and its ledger taken away."""
    ready: queue.SimpleQueue[tuple[Cloud, Any, trio.Event]] = queue.SimpleQueue()

    async def run() -> None:
        clock = Clock()
        async with open_ledger(MEMORY, synchronous="OFF", now=clock) as ledger, trio.open_nursery() as nursery:
            fragile: Any = Fragile(ledger)
            config = Config()
            config.bind = ["127.0.0.1:0"]
            config.graceful_timeout = 0.1
            stop = trio.Event()
            app: Any = create_app(fragile, now=clock)
            binds = await nursery.start(partial(serve, app, config, shutdown_trigger=stop.wait))
            ready.put((Cloud(binds[0], clock, fragile), trio.lowlevel.current_trio_token(), stop))

    thread = threading.Thread(target=trio.run, args=(run,))
    thread.start()
    started, token, stop = ready.get(timeout=30)
    yield started
    trio.from_thread.run_sync(stop.set, trio_token=token)
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = tool("chromium", "chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield started
        started.close()


@contextmanager
def opened(browser: Browser, address: str, *, errors: tuple[str, ...] = (), **knobs: Any) -> Iterator[Page]:
    """A page at `address`. Whatever it does, it asks no other host, and its console stays clean but for `errors`."""
    context = browser.new_context(**knobs)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    if knobs.get("java_script_enabled", True):
        page.clock.install()
    page.goto(address)
    yield page
    context.close()
    origin = "/".join(address.split("/")[:3]) + "/"
    assert asked
    assert [url for url in asked if not url.startswith(origin)] == []
    assert [text for text in said if not any(error in text for error in errors)] == []


def rows(page: Page) -> Locator:
    return page.locator("#fleet tbody tr")


def wind(page: Page) -> None:
    """Let the page's five seconds be over."""
    page.clock.fast_forward(6_000)


def test_the_first_device_appears_and_the_plots_follow_what_arrives(cloud, browser):
    with opened(browser, f"{cloud.url}/") as page:
        expect(page.get_by_text("Nothing has arrived yet")).to_be_visible()
        cloud.post(1, 2)
        wind(page)
        expect(rows(page)).to_have_count(1)
        expect(page.locator("#chart-predictions .sum")).to_have_text("2 in all, 0 of them late")
        before = page.locator("#chart-predictions .serie-0 .line").get_attribute("d")
        cloud.post(*range(3, 60), defect=True)
        cloud.post(1, device="second")
        wind(page)
        expect(rows(page)).to_have_count(2)
        expect(page.locator("#chart-predictions .sum")).to_have_text("60 in all, 0 of them late")
        assert page.locator("#chart-predictions .serie-0 .line").get_attribute("d") != before
        expect(page.locator("#defects svg rect")).to_have_count(12)
        # The plot has its colours: nothing of it was left to a stylesheet that the policy blocks.
        line = page.locator("#chart-defects .serie-0 .line")
        assert line.evaluate("e => getComputedStyle(e).stroke") not in ("none", "rgb(0, 0, 0)")


def test_a_cut_device_turns_silent_then_late_then_live_again(cloud, browser):
    cloud.post(1)
    with opened(browser, f"{cloud.url}/") as page:
        state = rows(page).first.locator(".state")
        for change, expected in (
            (lambda: setattr(cloud.clock, "ahead_s", 301.0), "silent"),
            (lambda: cloud.post(2, age_s=250, late=True, pending=40), "late"),
            (lambda: cloud.post(3, pending=0), "live"),
        ):
            change()
            wind(page)
            expect(state).to_have_text(expected)
            # What changed is read aloud: the summary is a live region that stays in its place.
            summary = page.get_by_role("status")
            expect(summary).to_contain_text(f"{expected} 1")


def test_a_gap_shows_and_heals(cloud, browser):
    cloud.post(1, 5)
    with opened(browser, f"{cloud.url}/") as page:
        missing = rows(page).first.locator("td").last
        expect(missing).to_have_text("3 unexplained")
        cloud.post(2, losses=[(3, 3, "evicted")])
        wind(page)
        expect(missing).to_have_text("1 unexplained evicted 1")
        page.get_by_role("link", name="cam").first.click()
        expect(page.locator(".gaps li")).to_have_text(["3 evicted", "4 no reason yet"])
        cloud.post(4)
        wind(page)
        expect(page.locator(".gaps li")).to_have_text(["3 evicted"])
        expect(page.get_by_role("status")).to_contain_text("every number is accounted for")


def test_while_the_ledger_is_away_the_last_figures_stay_and_it_recovers(cloud, browser):
    cloud.post(1)
    with opened(browser, f"{cloud.url}/", errors=("503",)) as page:
        alarm = page.get_by_role("alert")
        expect(alarm).to_have_text("")
        cloud.ledger.away = True
        wind(page)
        expect(alarm).to_contain_text("The ledger does not answer. These are the figures as of 20")
        expect(rows(page)).to_have_count(1)
        page.reload()
        expect(page.get_by_role("heading", name="The ledger does not answer")).to_be_visible()
        cloud.ledger.away = False
        wind(page)
        expect(rows(page)).to_have_count(1)
        expect(alarm).to_have_text("")


def test_a_keyboard_alone_reaches_everything_in_order_and_an_update_takes_nothing_away(cloud, browser):
    cloud.post(1, defect=True)
    with opened(browser, f"{cloud.url}/") as page:

        def focused() -> str:
            return str(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))

        def walk(presses: int) -> list[str]:
            found = []
            for _ in range(presses):
                page.keyboard.press("Tab")
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", f"{focused()}: its focus can't be seen"
                found.append(focused())
            return found

        assert walk(1) == ["Skip to the figures"]
        expect(page.locator(".skip")).to_be_in_viewport()
        page.keyboard.press("Enter")
        assert focused() == "main"
        order = [
            "range-1h", "range-24h", "range-7d", "range-30d", "q", "Filter", "state-all", "state-live", "state-late",
            "state-silent", "sort-device", "sort-attention", "sort-seen", "sort-backlog", "sort-rate", "sort-defects",
            "sort-missing", "device-1",
        ]  # fmt: skip
        assert walk(len(order)) == order
        cloud.post(2)
        wind(page)
        expect(page.locator("#chart-predictions .sum")).to_have_text("2 in all, 0 of them late")
        assert focused() == "device-1"
        assert walk(1) == ["defect-1"]
        page.locator("#range-7d").focus()
        page.keyboard.press("Enter")
        expect(page.locator("#range-7d")).to_have_attribute("aria-current", "true")
        expect(page.locator("#chart-predictions")).to_contain_text("Predictions per 3 h")
        page.locator("#q").focus()
        page.keyboard.type("nobody")
        page.keyboard.press("Enter")
        expect(page.get_by_text("No device fits this filter.")).to_be_visible()
        assert "range=7d" in page.url


FAINT = """() => {
  const linear = (part) => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4;
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map((part) => linear(part / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = (element) => {
    const colour = getComputedStyle(element).backgroundColor;
    return /, 0\\)$/.test(colour) ? ground(element.parentElement) : colour;
  };
  const contrast = (element) => {
    const [low, high] = [light(getComputedStyle(element).color), light(ground(element))].sort((a, b) => a - b);
    return (high + .05) / (low + .05);
  };
  const says = (element) => [...element.childNodes].some((node) => node.nodeName === "#text" && node.data.trim());
  return [...document.querySelectorAll("main *, header *, footer *")]
    .filter((element) => !element.closest("svg") && element.checkVisibility() && says(element))
    .map((element) => [contrast(element), element.outerHTML])
    .filter(([ratio]) => !(ratio >= 4.5));
}"""
"""What is written in less contrast than 4.5 to 1 (WCAG 2.1, 1.4.3)."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_in_light_and_dark_all_is_legible_whatever_devices_are_called(cloud, browser, scheme):
    names = ("<script>document.title = 'taken'</script>", "n" * 256, "\u202eright to left", "🏭")
    for name in names:
        cloud.post(3, device=name, defect=True, losses=[(1, 1, "w" * 256)], late=True)
    with opened(browser, f"{cloud.url}/", viewport={"width": 400, "height": 800}, color_scheme=scheme) as page:
        expect(rows(page)).to_have_count(len(names))
        for address in ("/", device_link(names[0]), device_link(names[1])):
            page.goto(cloud.url + address)
            assert page.evaluate("document.documentElement.scrollWidth") == 400, "it scrolls sideways"
            assert page.evaluate(FAINT) == []
        assert page.title() != "taken"
        page.goto(cloud.url + device_link(names[0]))
        expect(page.get_by_role("heading", level=1)).to_have_text(names[0])


def test_without_scripts_the_page_has_all_of_it(cloud, browser):
    cloud.post(1, defect=True)
    with opened(browser, f"{cloud.url}/", java_script_enabled=False) as page:
        expect(rows(page)).to_have_count(1)
        expect(page.locator("svg.pygal-chart")).to_have_count(3)
        page.locator("#range-24h").click()
        expect(page.locator("#chart-predictions")).to_contain_text("Predictions per 30 min")
