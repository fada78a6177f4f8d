"""The device's own endpoints on STATUS_BIND: is it alive, is it ready, what is it doing, and a page that shows it."""

from collections.abc import Awaitable, Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import attrs
import msgspec
import structlog
import trio
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from actors.ports import metrics
from actors.ports.prediction_door import (
    LOOPBACK_HOSTS,
    Log,
    Refused,
    Turnstile,
    add_predictions,
    check_local,
    name_asked,
)
from actors.status import Status
from hosting import Exchange, Hosting
from hosting import serve as host

GRACE_S = 1.0
"""How long requests under way may take once the device stops."""
KEEP_ALIVE_S = 30.0
"""How long an idle connection stays open: longer than Prometheus waits between two looks."""
STALLED_S_MAX = 5.0
"""How long a client may take nothing of its answer."""
UNAVAILABLE = 503
PICTURES_AT_ONCE_MAX = 4
PAGE = Path(__file__).parents[1] / "assets" / "page"
PAGE_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

log = structlog.get_logger()


@attrs.frozen
class Window:
    """What the endpoints see of the device."""

    status: Callable[[], Status]
    picture: Callable[[], Awaitable[bytes | None]]
    log: Log


def names_of(bind: str) -> frozenset[str] | None:
    """The names by which the device may be asked on `bind`; None for any: beyond loopback it has many."""
    host = bind.rpartition(":")[0].lower()
    try:
        loopback = host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return None
    return frozenset({host, *LOOPBACK_HOSTS}) if loopback else None


def create_status_app(window: Window, names: frozenset[str] | None) -> QuartTrio:
    """`/health` (restart me if not), `/ready` (I do my work), `/status` (all there is to know), `/metrics`, a page with
    the last frame, and `POST /predictions`. A page from elsewhere can have its own name lead here; its browser asks by
    that name, which is not among `names`. Who sends no `Host` is no browser.
    """
    app = QuartTrio("device", static_folder=None)
    app.asgi_http_class = Exchange
    page = metrics.Metrics(window.status)

    @app.before_request
    async def admit() -> Response | None:
        if names is None or name_asked(request) in names | {""}:
            return None
        what = "Host: on loopback the device is asked by loopback's names only"
        return Refused(403, "forbidden", what, "ask for 127.0.0.1 or localhost").response()

    @app.get("/health")
    async def health() -> Response:
        return _verdict("ok", "failing", window.status()["failing"])

    @app.get("/ready")
    async def ready() -> Response:
        return _verdict("ready", "not ready", window.status()["unready"])

    @app.get("/status")
    async def show() -> Response:
        return _json(window.status())

    @app.get("/metrics")
    async def figures() -> Response:
        return Response(page.page(), content_type=metrics.CONTENT_TYPE)

    @app.after_request
    async def introduce(response: Response) -> Response:
        response.headers.update(HEADERS)
        return response

    @app.errorhandler(HTTPException)
    async def explain(error: HTTPException) -> Response:
        return Refused(error.code or 500, error.name.lower(), error.description or error.name).response()

    _add_page(app)
    _add_picture(app, window)
    add_predictions(app, window.log)
    return app


def _add_page(app: QuartTrio) -> None:
    """Read once, at start: the page must come even if the disk hangs."""
    for path, (name, content_type) in PAGE_FILES.items():
        body = (PAGE / name).read_bytes()

        async def show(body: bytes = body, content_type: str = content_type) -> Response:
            return Response(body, content_type=content_type)

        app.add_url_rule(path, endpoint=name, view_func=show)


def _add_picture(app: QuartTrio, window: Window) -> None:
    turnstile = Turnstile(PICTURES_AT_ONCE_MAX)

    @app.get("/frame.jpg")
    async def picture() -> Response:
        try:
            check_local(request)
            with turnstile.entered():
                data = await window.picture()
        except Refused as refused:
            return refused.response()
        if data is None:
            return Refused(404, "no frame", "the model has not seen a frame yet").response()
        return Response(data, content_type="image/jpeg")


def _verdict(good: str, bad: str, reasons: list[str]) -> Response:
    if not reasons:
        return _json({"status": good})
    return _json({"status": bad, "reasons": reasons}, UNAVAILABLE)


def _json(answer: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(answer), status, content_type="application/json")


async def serve(
    window: Window, bind: str, stopping: trio.Event, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve until `stopping`, then finish what is under way; `task_status` is told the address.

    A port that can't be had is told; the device goes on.
    """
    config = Hosting(bind, grace_s=GRACE_S, keep_alive_s=KEEP_ALIVE_S, stalled_s=STALLED_S_MAX)
    try:
        async with trio.open_nursery() as nursery:
            binds = await nursery.start(host, create_status_app(window, names_of(bind)), config, stopping)
            log.info("status_endpoint", url=f"{binds[0]}/status")
            task_status.started(binds[0])
    except* OSError as group:
        log.warning(
            "status_endpoint_unavailable",
            bind=bind,
            error="; ".join(_leaves(group)),
            remedy="free the port, or give this device a STATUS_BIND of its own; it works on without",
        )


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[str]:
    """What the single errors say in a group of groups."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield str(error)
