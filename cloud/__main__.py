"""`python -m cloud`: the service on one port, until SIGTERM or SIGINT; `python -m cloud keys`: its keys.

Its first line on stdout says where it listens, the second where the fleet's page is; stderr has the log, one JSON
object a line. Exit codes: 0 stopped by a signal, 1 the database or the port can't be used, 2 a setting is wrong.
"""

import signal
import sys
from collections.abc import Iterator
from typing import NoReturn

import click
import trio

from cloud.garbage import seldom_collected
from cloud.keys_command import keys
from cloud.ledger import LedgerUnusable
from cloud.logs import log_to_stderr
from cloud.service import create_app
from cloud.settings import BIND, DATABASE, Settings, SettingsWrong, own_names, read_settings
from cloud.store import open_store
from hosting import Hosting, serve

GRACE_S = 5.0
"""How long requests under way may take to finish once a signal has come."""
KEEP_ALIVE_S = 75.0
"""How long an idle connection stays open: longer than a device waits between two batches. Headers may take as long."""
HEADERS_BYTES_MAX = 16 * 1024
STALLED_S_MAX = 15
"""How long a client may take nothing of its answer before its connection is cut."""


@click.group(invoke_without_command=True)
@click.option("--bind", metavar="HOST:PORT", help=f"Where to listen; port 0 takes any free one. [default: {BIND}]")
@click.option("--database", metavar="PATH|URL", help=f"A SQLite file or postgresql://…; goes before {DATABASE}.")
@click.pass_context
def main(ctx: click.Context, bind: str | None, database: str | None) -> None:
    """Take batches of predictions over HTTP and keep them in a ledger."""
    if ctx.invoked_subcommand is not None:
        return
    # stdout is for the line that says where we listen; everything else goes to stderr.
    log_to_stderr()
    try:
        settings = read_settings(bind=bind, database=database)
    except SettingsWrong as exc:
        _fail(2, *exc.errors)
    failures: list[str] = []
    try:
        trio.run(run, settings)
    except* LedgerUnusable as group:
        failures += [str(exc) for exc in _leaves(group)]
    except* OSError as group:
        failures += [f"--bind {settings.bind}: {exc}; give another one" for exc in _leaves(group)]
    if failures:
        _fail(1, *failures)


def _fail(code: int, *lines: str) -> NoReturn:
    for line in lines:
        print(line, file=sys.stderr)
    sys.exit(code)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _leaves(exc)
        else:
            yield exc


def hosting(bind: str) -> Hosting:
    """How the service is hosted: what is bounded before the app is asked."""
    config = Hosting(bind, grace_s=GRACE_S, keep_alive_s=KEEP_ALIVE_S, stalled_s=STALLED_S_MAX)
    config.h11_max_incomplete_size = HEADERS_BYTES_MAX
    return config


async def run(settings: Settings) -> None:
    """Serve until a signal comes; then finish what is under way, close the ledger, return."""
    async with open_store(settings.database, retention_s=settings.retention_s) as ledger:
        names = own_names(settings.host)
        app = create_app(ledger, keyring=settings.keyring, limits=settings.limits, names=names)
        config = hosting(settings.bind)
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(_watch_signals, stop, nursery.cancel_scope)
            nursery.start_soon(settings.keyring.watch)
            with seldom_collected():
                async with trio.open_nursery() as serving:
                    binds = await serving.start(serve, app, config, stop)
                    keys = "keys needed" if settings.keyring.current else "no keys: loopback only"
                    url = binds[0]
                    where = f"holdfast cloud on {url} (database {settings.database}, {keys})"
                    # In one piece: whoever reads the first line alone may be gone by the second.
                    print(f"{where}\nthe fleet's page: {url}/", flush=True)
            nursery.cancel_scope.cancel()


async def _watch_signals(
    stop: trio.Event, scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """The first signal stops gracefully; the second one cancels the requests, but what was acknowledged is stored."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            if stop.is_set():
                scope.cancel()
            stop.set()


main.add_command(keys)

if __name__ == "__main__":
    main(prog_name="python -m cloud")
