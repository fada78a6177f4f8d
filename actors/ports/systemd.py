"""Tell systemd that we are up, that we live, and that we stop: the datagrams of sd_notify(3), without a library."""

import os
import socket
from collections.abc import Callable, Mapping

import structlog
import trio

from actors.status import Status, summary

log = structlog.get_logger()


def watchdog_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Within how many seconds systemd wants a sign of life (`WatchdogSec=`); None if it wants none of this process."""
    micros, meant = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", str(pid))
    return int(micros) / 1e6 if micros.isdecimal() and int(micros) > 0 and meant == str(pid) else None


def notify(address: str, *words: str) -> None:
    """Send one datagram to the service manager. One that can't be sent is logged: the device works on without."""
    path = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
            channel.sendto("\n".join(words).encode(), path)
    except OSError as exc:
        log.warning("systemd_not_told", words=words, error=str(exc))


async def keep_posted(
    status: Callable[[], Status], stopping: trio.Event, environ: Mapping[str, str] = os.environ
) -> None:
    """`READY=1` now, `WATCHDOG=1` twice in each of its periods while the device is healthy, `STOPPING=1` at the end.

    Without a service manager it returns at once. While something fails nothing is sent but why, so that the watchdog
    bites.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    every_s = (watchdog_s(environ, os.getpid()) or 60.0) / 2
    notify(address, "READY=1", f"STATUS={summary(status())}")
    while not stopping.is_set():
        with trio.move_on_after(every_s):
            await stopping.wait()
        if why := status()["failing"]:
            notify(address, f"STATUS=failing: {'; '.join(why)}")
        else:
            notify(address, "WATCHDOG=1", f"STATUS={summary(status())}")
    notify(address, "STOPPING=1")
