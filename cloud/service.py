"""The routes: HTTP on one side, a ledger on the other, and nothing decided in between."""

import time
from collections.abc import Callable

import attrs
import msgspec
import structlog
import trio
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from cloud import intake, wire
from cloud.answers import Problem, audit_json, devices_json, page_json, series_json, stats_json
from cloud.connection import Exchange
from cloud.keys import Keys, Verdict
from cloud.ledger import Ledger, LedgerBusy, LedgerUnavailable
from cloud.ledger.sqlite import open_ledger
from cloud.queries import QueryWrong, read_query, read_series_query, read_stats_query
from cloud.settings import API_KEYS, Settings, is_loopback, read_settings

OPEN_PATHS = frozenset({"/", "/health", "/ready"})
"""What needs no key: it tells nothing of what is stored."""
BODY_S_MAX = 60
"""How long a body may take to arrive."""
ENDPOINTS = {
    "POST /log": "take a batch of predictions",
    "GET /health": "the process lives",
    "GET /ready": "the ledger answers",
    "GET /stats": "totals, by device and by model; since, until, edge_device_id, model_name",
    "GET /series": "the same over time; since, until, bucket_s, edge_device_id, model_name",
    "GET /predictions": "newest first; edge_device_id, model_name, model_version, defect_detected, class, since, until,"
    " limit, cursor",
    "GET /devices": "every device that ever sent something",
    "GET /devices/{id}/audit": "accepted against stored, number by number",
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
    ledger: Ledger | None = None, *, keys: Keys | None = None, now: Callable[[], float] = time.time
) -> QuartTrio:
    """The service around `ledger`, which the caller opens and closes.

    Without a ledger (`hypercorn -k trio 'cloud.service:create_app()'`) the settings of the environment hold; the
    app opens the ledger when serving begins, and where no key is set it answers to this machine alone.
    `SettingsWrong` lists every setting that is wrong.
    """
    app = QuartTrio("cloud", static_folder=None)
    app.asgi_http_class = Exchange
    app.config.update(MAX_CONTENT_LENGTH=wire.BODY_BYTES_MAX, BODY_TIMEOUT=BODY_S_MAX)
    door = _Door(ledger)
    loopback_only = False
    if ledger is None:
        settings = read_settings()
        keys = settings.keys if keys is None else keys
        loopback_only = not keys
        _open_when_serving(app, door, settings)
    _guard(app, keys or Keys(), loopback_only=loopback_only)
    _answer_errors(app)
    _add_log(app, door, now)
    _add_reads(app, door, now)
    return app


def _open_when_serving(app: QuartTrio, door: _Door, settings: Settings) -> None:
    closing = trio.Event()

    async def hold_open(task_status: trio.TaskStatus[Ledger] = trio.TASK_STATUS_IGNORED) -> None:
        async with open_ledger(str(settings.database), retention_s=settings.retention_s) as ledger:
            task_status.started(ledger)
            await closing.wait()

    @app.after_serving
    async def close_door() -> None:
        door.opened = None
        closing.set()

    @app.before_serving
    async def open_door() -> None:
        door.opened = await app.nursery.start(hold_open)


def _guard(app: QuartTrio, keys: Keys, *, loopback_only: bool) -> None:
    @app.before_request
    async def admit() -> Response | None:
        if loopback_only and not is_loopback(request.remote_addr or "127.0.0.1"):
            return _refuse(
                403, Problem("no keys are set, so only this machine is served", f"set {API_KEYS} and restart")
            )
        if request.path in OPEN_PATHS:
            return None
        match keys.judge(request.headers.get("Authorization")):
            case Verdict.ADMITTED:
                return None
            case Verdict.NO_KEY:
                problem = Problem("Authorization: a key is needed", "send 'Authorization: Bearer <key>'")
                return _refuse(401, problem, {"WWW-Authenticate": 'Bearer realm="holdfast"'})
            case Verdict.UNKNOWN_KEY:
                return _refuse(403, Problem("Authorization: this key is not known", f"use a key of {API_KEYS}"))

    @app.after_request
    async def introduce(response: Response) -> Response:
        response.headers["Accept-Encoding"] = wire.ENCODINGS_TAKEN
        response.headers["Holdfast-Wire"] = "1"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def _answer_errors(app: QuartTrio) -> None:
    statuses: dict[type[Exception], tuple[int, str | None]] = {
        intake.BodyMalformed: (400, "send the batch as JSON, compressed as Content-Encoding says"),
        intake.EnvelopeInvalid: (422, None),
        intake.BatchTooLarge: (413, "split the batch"),
        wire.EncodingUnknown: (415, None),
        wire.BodyTooLarge: (413, "split the batch"),
        QueryWrong: (400, None),
    }

    @app.errorhandler(Exception)
    async def answer(error: Exception) -> Response:
        match error:
            case LedgerBusy() | LedgerUnavailable():
                problem = Problem(str(error), "nothing was stored; send it again")
                return _refuse(503, problem, {"Retry-After": str(error.retry_after_s)})
            case HTTPException():
                return _refuse_as(error)
        if type(error) in statuses:
            status, remedy = statuses[type(error)]
            return _refuse(status, Problem(str(error), remedy))
        log.error("request_failed", path=request.path, exc_info=error)
        return _refuse(500, Problem("internal error", "the service's log has the cause"))


def _add_log(app: QuartTrio, door: _Door, now: Callable[[], float]) -> None:
    @app.post("/log")
    async def take() -> Response:
        ledger = door.ledger
        if ledger.busy:
            raise LedgerBusy(retry_after_s=1)
        body = await request.get_data(cache=False)
        assert isinstance(body, bytes)
        batch = intake.open_batch(body, request.headers.get("Content-Encoding", ""), now())
        answer = await ledger.ingest(batch)
        return _json(wire.encode_answer(answer))


def _add_reads(app: QuartTrio, door: _Door, now: Callable[[], float]) -> None:
    @app.get("/")
    async def index() -> Response:
        return _json(_encode({"service": "holdfast cloud", "endpoints": ENDPOINTS}))

    @app.get("/health")
    async def health() -> Response:
        return _json(b'{"status":"ok"}')

    @app.get("/ready")
    async def ready() -> Response:
        await door.ledger.check()
        return _json(b'{"status":"ready"}')

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
        query = read_query(request.args.to_dict(flat=False))
        return _json(page_json(await door.ledger.predictions(query)))

    @app.get("/devices")
    async def devices() -> Response:
        return _json(devices_json(await door.ledger.devices()))

    @app.get("/devices/<path:device_id>/audit")
    async def audit(device_id: str) -> Response:
        streams = await door.ledger.audit(device_id)
        if streams is None:
            return _refuse(404, Problem("edge_device_id: no such device", "GET /devices lists them"))
        return _json(audit_json(device_id, streams))


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, content_type="application/json")


def _refuse(status: int, problem: Problem, headers: dict[str, str] | None = None) -> Response:
    response = _json(problem.json(), status)
    response.headers.update(headers or {})
    return response


def _refuse_as(error: HTTPException) -> Response:
    """What the framework refuses: unknown paths and methods, bodies that are too large or too slow."""
    status = error.code or 500
    if status == 413:
        return _refuse(status, Problem(f"body: more than {wire.BODY_BYTES_MAX} bytes", "split the batch"))
    response = _refuse(
        status, Problem(error.name.lower(), "GET / lists the endpoints" if status in (404, 405) else None)
    )
    response.headers.extend((k, v) for k, v in error.get_headers() if k.lower() == "allow")
    return response
