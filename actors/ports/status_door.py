"""The device's own endpoints on STATUS_BIND: is it alive, and what is it doing."""

from collections.abc import Callable, Mapping
from functools import partial

import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve
from quart_trio import QuartTrio

GRACE_S = 1.0

log = structlog.get_logger()


def create_status_app(status: Callable[[], Mapping[str, object]]) -> QuartTrio:
    """`GET /health` (this process turns its loop) and `GET /status` (the account of this moment)."""
    app = QuartTrio("device", static_folder=None)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/status")
    async def show() -> dict[str, object]:
        return dict(status())

    return app


async def serve(status: Callable[[], Mapping[str, object]], bind: str) -> None:
    """Serve until cancelled. A port that can't be had is told, and the device goes on without its endpoints."""
    config = Config()
    config.bind = [bind]
    config.graceful_timeout = GRACE_S
    config.include_server_header = False
    config.loglevel = "WARNING"
    try:
        async with trio.open_nursery() as nursery:
            binds = await nursery.start(partial(hypercorn_serve, create_status_app(status), config))
            log.info("status_endpoint", url=f"{binds[0]}/status")
    except* OSError as group:
        log.warning(
            "status_endpoint_unavailable",
            bind=bind,
            error=str(group.exceptions[0]),
            remedy="free the port, or give this device a STATUS_BIND of its own; it works on without",
        )
