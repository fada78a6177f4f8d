"""The routes: HTTP on one side, a ledger on the other, and nothing decided in between."""

import functools
import time
from collections.abc import Callable
from typing import Any, NoReturn

import attrs
import msgspec
import structlog
import trio
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import NotFound

from cloud import wire
from cloud.answers import audit_json, conflicts_json, devices_json, page_json, series_json, stats_json
from cloud.connection import BELOW, OBSERVER, CloudRequest, Ended, Exchange, NoWebsocket
from cloud.dashboard.routes import Dashboard, dashboard, wants_page
from cloud.docs_page import CSP, docs_page
from cloud.export import Exports
from cloud.garbage import seldom_collected
from cloud.guard import Gate, check_device, guard, respond, this_request
from cloud.ingest import METHOD, PATH, Ingest
from cloud.keyring import Keyring
from cloud.ledger import Ledger, LedgerBusy, LedgerUnavailable
from cloud.limits import Limits
from cloud.logs import log_to_stderr
from cloud.metrics import CONTENT_TYPE as METRICS_TYPE
from cloud.metrics import Metrics
from cloud.openapi import openapi_document
from cloud.problems import Problem, excerpt, explain
from cloud.queries import (
    CONTENT_TYPES,
    read_conflict_query,
    read_export_query,
    read_format,
    read_query,
    read_series_query,
    read_stats_query,
)
from cloud.settings import Settings, own_names, read_settings
from cloud.store import open_store

ENDPOINTS = {
    "POST /log": "take a batch of predictions",
    "GET /health": "the process lives",
    "GET /ready": "the ledger answers",
    "GET /stats": "totals, by device and by model; since, until, edge_device_id, model_name",
    "GET /series": "the same over time; since, until, bucket_s, edge_device_id, model_name",
    "GET /predictions": "newest first; edge_device_id, model_name, model_version, defect_detected, class, since, until,"
    " limit, cursor; as JSON lines or CSV by Accept or format=jsonl|csv",
    "GET /devices": "every device that ever sent something",
    "GET /devices/{id}/audit": "accepted against stored, number by number",
    "GET /devices/{id}/conflicts": "numbers that came again with another payload, beside what is stored; limit, cursor",
    "GET /metrics": "for Prometheus",
    "GET /openapi.json": "all of this for programs",
    "GET /docs": "and for people",
}
log = structlog.get_logger()
_encode = msgspec.json.Encoder().encode


@attrs.define(eq=False)
class _Door:
    """Where the routes find the ledger: given at once, or opened when serving begins."""

    opened: Ledger | None = None

    @property
    def ledger(self) -> Ledger:
        if self.opened is None:
            raise LedgerUnavailable("the ledger is not open yet")
        return self.opened


def create_app(
    ledger: Ledger | None = None,
    *,
    keyring: Keyring | None = None,
    limits: Limits | None = None,
    names: frozenset[str] | None = None,
    now: Callable[[], float] = time.time,
) -> QuartTrio:
    """The service around `ledger`, which the caller opens and closes; the caller also watches the `keyring`.

    `names`: while no key is set it answers to this machine alone, under loopback's names and these; None: to whoever
    asks, as where it is not reached over a network at all.

    Without a ledger (`hypercorn -k trio 'cloud.service:create_app()'`) the settings of the environment hold; the
    app opens the ledger and watches the keys when serving begins, and while no key is set it answers to this machine
    alone. `SettingsWrong` lists every setting that is wrong.
    """
    app = QuartTrio("cloud", static_folder=None)
    app.request_class = CloudRequest
    app.asgi_http_class = Exchange
    app.asgi_websocket_class = NoWebsocket
    app.config.update(MAX_CONTENT_LENGTH=wire.BODY_BYTES_MAX, BODY_TIMEOUT=None)
    door = _Door(ledger)
    if ledger is None:
        settings = read_settings()
        if not structlog.is_configured():
            log_to_stderr()
        keyring = keyring or settings.keyring
        limits = limits or settings.limits
        names = names or own_names()
        _open_when_serving(app, door, settings)
    held = keyring or Keyring()
    metrics = Metrics.create()
    observe = _observer(metrics)
    app.extensions[OBSERVER] = observe
    gate = Gate(lambda: held.current, names)
    guard(app, gate)
    _answer_errors(app)
    _add_log(app, Ingest(lambda: door.ledger, gate, observe, metrics, now, limits or Limits()))
    _add_reads(app, door, now)
    _add_devices(app, door, now)
    _add_operations(app, door, metrics, now)
    _add_docs(app)
    return app


def _open_when_serving(app: QuartTrio, door: _Door, settings: Settings) -> None:
    closing = trio.Event()

    async def hold_open(task_status: trio.TaskStatus[Ledger] = trio.TASK_STATUS_IGNORED) -> None:
        async with (
            open_store(settings.database, retention_s=settings.retention_s) as ledger,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(settings.keyring.watch)
            with seldom_collected():
                task_status.started(ledger)
                await closing.wait()
            nursery.cancel_scope.cancel()

    @app.after_serving
    async def close_door() -> None:
        door.opened = None
        closing.set()

    @app.before_serving
    async def open_door() -> None:
        door.opened = await app.nursery.start(hold_open)


def _observer(metrics: Metrics) -> Callable[[Ended], None]:
    def observe(ended: Ended) -> None:
        metrics.answered(ended.method, ended.route, ended.status, ended.seconds)
        log.info(
            "request",
            request_id=ended.request_id,
            method=excerpt(ended.method, 16),
            path=excerpt(ended.path, 200),
            status=ended.status,
            seconds=round(ended.seconds, 6),
            bytes_sent=ended.bytes_sent,
            peer=ended.peer,
            key=ended.key.name if ended.key else None,
            edge_device_id=ended.device_id,
        )

    return observe


def _answer_errors(app: QuartTrio) -> None:
    @app.errorhandler(Exception)
    async def answer(error: Exception) -> Response:
        return respond(explain(error, request_id=this_request().request_id, path=request.path))


def _add_log(app: QuartTrio, ingest: Ingest) -> None:
    app.extensions[BELOW] = {(METHOD, PATH): ingest}

    @app.post(PATH)
    async def take() -> NoReturn:
        """The route's place in the map and in the documents; no batch comes as far as here."""
        raise NotFound


def _add_reads(app: QuartTrio, door: _Door, now: Callable[[], float]) -> None:
    exports = Exports()

    page = Dashboard(lambda: door.ledger, now)
    app.register_blueprint(dashboard(page))

    @app.get("/")
    async def index() -> Response:
        if wants_page():
            return await page.fleet()
        response = _json(_encode({"service": "holdfast cloud", "endpoints": ENDPOINTS}))
        response.headers["Vary"] = "Accept"
        return response

    @app.get("/stats")
    async def stats() -> Response:
        query = read_stats_query(request.args.to_dict(flat=False))
        return _json(stats_json(await door.ledger.stats(query)))

    @app.get("/series")
    async def series() -> Response:
        query = read_series_query(request.args.to_dict(flat=False), now())
        return _json(series_json(query, await door.ledger.series(query)))

    @app.get("/predictions")
    async def predictions() -> Response:
        args = request.args.to_dict(flat=False)
        accepted = request.accept_mimetypes.best_match([kind.partition(";")[0] for kind in CONTENT_TYPES.values()])
        form = read_format(args, accepted)
        if form == "json":
            return _json(page_json(await door.ledger.predictions(read_query(args))))
        query, rows_max = read_export_query(args)
        if request.method == "HEAD":
            return Response(b"", content_type=CONTENT_TYPES[form])
        pieces = await exports.start(door.ledger, query, form, rows_max)
        response = Response(pieces, content_type=CONTENT_TYPES[form], headers={"Vary": "Accept"})
        response.timeout = None  # As long as there are rows and somebody reads them.
        return response


def _add_devices(app: QuartTrio, door: _Door, now: Callable[[], float]) -> None:
    @app.get("/devices")
    async def devices() -> Response:
        return _json(devices_json(await door.ledger.devices(), now()))

    @app.get("/devices/<path:device_id>/audit")
    async def audit(device_id: str) -> Response:
        check_device(device_id)
        streams = await door.ledger.audit(device_id)
        return _no_device() if streams is None else _json(audit_json(device_id, streams))

    @app.get("/devices/<path:device_id>/conflicts")
    async def conflicts(device_id: str) -> Response:
        check_device(device_id)
        page = await door.ledger.conflicts(read_conflict_query(device_id, request.args.to_dict(flat=False)))
        return _no_device() if page is None else _json(conflicts_json(device_id, page))


def _no_device() -> Response:
    return respond(Problem(404, "edge_device_id: no such device", "GET /devices lists them"))


def _add_operations(app: QuartTrio, door: _Door, metrics: Metrics, now: Callable[[], float]) -> None:
    @app.get("/health")
    async def health() -> Response:
        return _json(b'{"status":"ok"}')

    @app.get("/ready")
    async def ready() -> Response:
        await door.ledger.check()
        return _json(b'{"status":"ready"}')

    @app.get("/metrics")
    async def exposed() -> Response:
        try:
            devices = await door.ledger.devices()
        except (LedgerBusy, LedgerUnavailable):
            devices = None
        return Response(metrics.exposition(devices, now()), content_type=METRICS_TYPE)


def _add_docs(app: QuartTrio) -> None:
    @functools.cache
    def document() -> dict[str, Any]:
        return openapi_document(app)

    @app.get("/openapi.json")
    async def openapi() -> Response:
        return _json(_encode(document()))

    @app.get("/docs")
    async def docs() -> Response:
        return Response(
            docs_page(document()), content_type="text/html; charset=utf-8", headers={"Content-Security-Policy": CSP}
        )


def _json(body: bytes) -> Response:
    return Response(body, content_type="application/json")
