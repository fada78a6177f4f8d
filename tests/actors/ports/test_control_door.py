"""The control door: it comes and goes with the device, and can't keep the device from going."""

from typing import Any

import trio

from actors.ports.control_door import Control, serve
from actors.ports.control_socket import control_path


async def test_a_socket_that_can_not_be_taken_away_holds_up_no_stop(folder, nursery):
    """As on a disk that has become read-only: a device that stopped in good order ended with a traceback there."""
    nothing: Any = None
    stop, path = trio.Event(), control_path(folder / "buffer.db")
    ended = trio.Event()

    async def door() -> None:
        await serve(Control(nothing, nothing, nothing), folder / "buffer.db", stop)
        ended.set()

    nursery.start_soon(door)
    with trio.fail_after(60):
        while not path.exists():  # noqa: ASYNC110 - a file system tells nobody
            await trio.sleep(0.01)
        path.unlink()
        path.mkdir()  # which no unlink takes away
        stop.set()
        await ended.wait()
