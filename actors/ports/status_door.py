"""The device's own endpoints on STATUS_BIND: is it alive, is it ready, and what is it doing."""

from collections.abc import Callable
from functools import partial

import attrs
import msgspec
import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve
from quart import Response
from quart_trio import QuartTrio

from actors.ports import metrics
from actors.status import Status

GRACE_S = 1.0
UNAVAILABLE = 503

log = structlog.get_logger()


@attrs.frozen
class Window:
    """What the endpoints see of the device."""

    status: Callable[[], Status]


def create_status_app(window: Window) -> QuartTrio:
    """`/health` (restart me if not), `/ready` (I do my work), `/status` (all there is to know), `/metrics`."""
    app = QuartTrio("device", static_folder=None)
    page = metrics.Metrics(window.status)

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

    return app


def _verdict(good: str, bad: str, reasons: list[str]) -> Response:
    if not reasons:
        return _json({"status": good})
    return _json({"status": bad, "reasons": reasons}, UNAVAILABLE)


def _json(answer: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(answer), status, content_type="application/json")


async def serve(window: Window, bind: str) -> None:
    """Serve until cancelled. A port that can't be had is told, and the device goes on without its endpoints."""
    config = Config()
    config.bind = [bind]
    config.graceful_timeout = GRACE_S
    config.include_server_header = False
    config.loglevel = "WARNING"
    try:
        async with trio.open_nursery() as nursery:
            binds = await nursery.start(partial(hypercorn_serve, create_status_app(window), config))
            log.info("status_endpoint", url=f"{binds[0]}/status")
    except* OSError as group:
        log.warning(
            "status_endpoint_unavailable",
            bind=bind,
            error=str(group.exceptions[0]),
            remedy="free the port, or give this device a STATUS_BIND of its own; it works on without",
        )
