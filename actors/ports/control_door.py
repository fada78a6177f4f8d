"""The control door: a unix socket beside the buffer, through which an operator's command asks the running device.

The device's process is the only owner of the disk, so a command that changes something never writes beside it: it asks
here, and the request goes to `buffer_writer` like every other message. Only the user of the device can open the door:
the socket is 0600, in a folder that is 0700.
"""

import contextlib
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import attrs
import msgspec
import structlog
import trio
from quart import Response, request
from quart_trio import QuartTrio

from actors.messages import Receipt
from actors.ports.control_socket import control_path, short_path
from actors.tasks import Done, Task, TaskRefused
from cloud.wire import Prediction, WireError
from hosting import Exchange, Hosting
from hosting import serve as host

GRACE_S = 1.0
"""How long requests under way may take once the device stops."""
KEEP_ALIVE_S = 5.0
"""How long an idle connection stays open."""
BODY_BYTES_MAX = 64 * 1024 * 1024
log = structlog.get_logger()


@attrs.frozen
class Control:
    """What the door leads to."""

    status: Callable[[], Mapping[str, object]]
    perform: Callable[[Task], Awaitable[Done]]
    accept: Callable[[Sequence[Prediction]], Awaitable[Sequence[Receipt]]]


def create_control_app(control: Control) -> QuartTrio:
    """`GET /status`, `POST /task` (a `Task`), `POST /accept` (predictions, to be logged as new ones)."""
    app = QuartTrio("control", static_folder=None)
    app.asgi_http_class = Exchange
    app.config["MAX_CONTENT_LENGTH"] = BODY_BYTES_MAX
    app.config["RESPONSE_TIMEOUT"] = None
    app.config["BODY_TIMEOUT"] = None

    @app.get("/status")
    async def show() -> dict[str, object]:
        return dict(control.status())

    @app.post("/task")
    async def do_task() -> Response:
        try:
            task = msgspec.json.decode(await _body(), type=Task)
        except msgspec.DecodeError as exc:
            return _json({"error": f"not a task: {exc}"}, 400)
        try:
            return _json(await control.perform(task))
        except TaskRefused as exc:
            return _json({"error": exc.reason}, 409)

    @app.post("/accept")
    async def do_accept() -> Response:
        try:
            predictions = msgspec.json.decode(await _body(), type=list[Prediction])
            receipts = await control.accept(predictions)
        except (msgspec.DecodeError, WireError) as exc:
            return _json({"error": str(exc)}, 400)
        return _json({"accepted": sum(receipt.accepted for receipt in receipts)})

    return app


async def _body() -> bytes:
    body = await request.get_data()
    assert isinstance(body, bytes)
    return body


def _json(content: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, content_type="application/json")


async def serve(control: Control, db_path: Path, stop: trio.Event) -> None:
    """Serve until `stop`, then take the socket away. Where there can be none, that is told and nothing else lost.

    To be called by whoever holds the buffer's lock: a socket that is already there was left by a process that is gone.
    """
    path = control_path(db_path)
    try:
        listener = _listen(path)
    except OSError as exc:
        log.warning(
            "control_door_unavailable",
            path=str(path),
            error=str(exc),
            remedy="commands that change the buffer need the device stopped; make its folder writable",
        )
        return
    config = Hosting(f"fd://{listener.detach()}", grace_s=GRACE_S, keep_alive_s=KEEP_ALIVE_S, stalled_s=None)
    app = create_control_app(control)
    try:
        log.debug("control_door", path=str(path))
        await host(app, config, stop)
    finally:
        # On a disk that has become read-only it stays; the next start takes its place.
        with contextlib.suppress(OSError):
            path.unlink()


def _listen(path: Path) -> socket.socket:
    """A listener whose socket has its name only once it listens: whoever finds it is answered."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_path(fresh) as name:
            listener.bind(name)
        fresh.chmod(0o600)  # nobody can connect before the next line
        listener.listen()
        fresh.replace(path)
    except OSError:
        listener.close()
        raise
    return listener
