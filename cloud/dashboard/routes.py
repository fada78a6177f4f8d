"""The pages' routes: they ask the ledger, and have what it says made into HTML."""

import hashlib
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio
from quart import Blueprint, Response, render_template, request

from cloud.dashboard import PAGES, words
from cloud.dashboard.asked import RANGES, Asked, device_link, read_asked
from cloud.dashboard.charts import Chart, charts_of
from cloud.dashboard.conflicts import Shown, shown_of
from cloud.dashboard.defects import Drawing, drawing_of
from cloud.dashboard.fleet import fleet_of, reasons_of, row_of
from cloud.guard import check_device
from cloud.ledger import ConflictQuery, Ledger, LedgerBusy, LedgerUnavailable, Query
from cloud.problems import DeviceOfAnotherKey, problem_of
from cloud.queries import QueryWrong

REFRESH_S = 5
"""How often a page fetches itself again."""
DEFECTS_MAX = 12
STREAMS_MAX = 20
"""Streams that a device's page lists, the newest; its audit has them all, too."""
GAPS_MAX = 20
"""Gaps of a stream that a device's page lists; its audit has them all."""
CONFLICTS_MAX = 10
"""Conflicts that a device's page lists; its JSON has them all."""
ASSETS = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
ASSET_S = 31_536_000
"""An address with a digest never changes what it gives."""

_folder = Path(__file__).parent / "static"
_assets = {name: (_folder / name).read_bytes() for name in ASSETS}
_version = hashlib.sha256(b"".join(_assets.values())).hexdigest()[:12]
_drawing = trio.CapacityLimiter(1)
"""Plots are drawn beside the loop, one page's at a time."""


def wants_page() -> bool:
    """Whether the request is a browser's: it prefers HTML to JSON, where curl and programs take anything."""
    return request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html"


@attrs.frozen
class Dashboard:
    """The pages of one service."""

    ledger: Callable[[], Ledger]
    now: Callable[[], float]

    async def fleet(self) -> Response:
        """The page at `/`."""
        return await self._answer(self._fleet)

    async def device(self, device_id: str) -> Response:
        """A device's own page."""
        return await self._answer(partial(self._device, device_id))

    async def _fleet(self) -> Response:
        asked = read_asked(request.args.to_dict(flat=False))
        ledger, now = self.ledger(), self.now()
        fleet = fleet_of(await ledger.devices(), asked, now)
        reasons = {
            row.device.edge_device_id: reasons_of(await ledger.audit(row.device.edge_device_id) or ())
            for row in fleet.rows
            if row.explained
        }
        return await _page(
            "fleet.html",
            asked=asked,
            now=now,
            fleet=fleet,
            reasons=reasons,
            charts=await _charts(ledger, asked, now),
            drawings=await _drawings(ledger),
            path="/",
        )

    async def _device(self, device_id: str) -> Response:
        check_device(device_id)
        asked = read_asked(request.args.to_dict(flat=False))
        ledger, now = self.ledger(), self.now()
        streams = await ledger.audit(device_id)
        found = [device for device in await ledger.devices() if device.edge_device_id == device_id]
        if streams is None or not found:
            return await _error(404, "No such device", "No device of this name ever sent anything here.", now)
        return await _page(
            "device.html",
            asked=asked,
            now=now,
            row=row_of(found[0], now),
            streams=streams[-STREAMS_MAX:],
            streams_total=len(streams),
            reasons=reasons_of(streams),
            gaps_max=GAPS_MAX,
            conflicts=await _conflicts(ledger, device_id),
            charts=await _charts(ledger, asked, now, device_id),
            drawings=await _drawings(ledger, device_id),
            path=device_link(device_id),
        )

    async def _answer(self, make: Callable[[], Awaitable[Response]]) -> Response:
        try:
            return await make()
        except (LedgerBusy, LedgerUnavailable, QueryWrong, DeviceOfAnotherKey) as exc:
            problem = problem_of(exc)
            assert problem is not None
            away = problem.status == 503
            title = "The ledger does not answer" if away else "This page can't be shown"
            response = await _error(problem.status, title, problem.detail, self.now())
            response.headers.update(problem.headers)
            return response


def dashboard(page: Dashboard) -> Blueprint:
    """The routes beside `/`: devices' pages, and what a page is made of."""
    routes = Blueprint(PAGES, __name__, template_folder="templates")

    # Slashes in a device's name are its own: none are merged.
    routes.add_url_rule("/device/<path:device_id>", view_func=page.device, methods=["GET"], merge_slashes=False)

    @routes.get("/assets/<name>")
    async def asset(name: str) -> Response:
        if name not in ASSETS:
            return await _error(404, "No such file", "A page is made of other files than this one.", page.now())
        headers = {"Cache-Control": f"private, max-age={ASSET_S}, immutable"}
        return Response(_assets[name], content_type=f"{ASSETS[name]}; charset=utf-8", headers=headers)

    return routes


async def _charts(ledger: Ledger, asked: Asked, now: float, device_id: str | None = None) -> tuple[Chart, ...]:
    query = asked.series(now, device_id)
    buckets = await ledger.series(query)
    return await trio.to_thread.run_sync(charts_of, buckets, query.bucket_s, limiter=_drawing)


async def _conflicts(ledger: Ledger, device_id: str) -> list[Shown]:
    page = await ledger.conflicts(ConflictQuery(device_id, limit=CONFLICTS_MAX))
    return [shown_of(conflict) for conflict in (page.items if page else ())]


async def _drawings(ledger: Ledger, device_id: str | None = None) -> list[Drawing]:
    query = Query(edge_device_id=device_id, defect_detected=True, limit=DEFECTS_MAX)
    items = (await ledger.predictions(query)).items
    return [drawing for drawing in map(drawing_of, items) if drawing]


async def _page(template: str, status: int = 200, *, refreshes: bool = True, **values: Any) -> Response:
    html = await render_template(
        template,
        words=words,
        device_link=device_link,
        ranges=RANGES,
        refreshes=refreshes,
        refresh_s=REFRESH_S,
        version=_version,
        **values,
    )
    return Response(html, status, content_type="text/html; charset=utf-8", headers={"Vary": "Accept"})


async def _error(status: int, title: str, detail: str, now: float) -> Response:
    # Only what can change by itself is asked for again.
    return await _page("error.html", status, refreshes=status == 503, title=title, detail=detail, now=now)
