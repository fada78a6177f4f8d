"""A control door without a device behind it, which always answers the same: `python -m … BUFFER`."""

import sys
from pathlib import Path

import trio
import trio.testing

from actors.ports.control_door import Control, serve
from actors.readiness import Bounds
from actors.status import Cells, status_of


async def main(db_path: Path) -> None:
    status = status_of("cam-1", Cells(), now=0.0, monotonic=0.0, bounds=Bounds(model_wanted=False, stuck_s=60.0))

    async def nothing(_: object) -> object:
        raise AssertionError

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, Control(lambda: status, nothing, nothing), db_path, trio.Event())  # type: ignore[arg-type]
        await trio.testing.wait_all_tasks_blocked()
        print("open", flush=True)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
