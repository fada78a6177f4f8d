"""Several sources at once, each in a thread of its own: one that fails never holds up the others.

    python examples/several_cameras.py NAME=SOURCE...        # left=0 right=rtsp://10.0.0.7/stream door=/var/spool/door

A source is a camera's number or device file, an address, a video, a folder (watched), a glob or an image.
"""

import os
import signal
import sys
from collections import Counter

import sqlite_utils
import trio

from actors import load_settings, open_pipeline


async def stop_on_ctrl_c(scope: trio.CancelScope) -> None:
    """Leave the block in order instead of by an exception: what was seen is flushed, and offered to the cloud once."""
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()


async def main(sources: list[str]) -> None:
    """Watch them until all have ended; cameras and folders never do: stop those with Ctrl-C."""
    settings = load_settings(os.environ, flags={"sources": ",".join(sources)})
    async with open_pipeline(settings) as pipeline, trio.open_nursery() as nursery:
        nursery.start_soon(stop_on_ctrl_c, nursery.cancel_scope)
        down: set[str] = set()
        while not pipeline.status()["sources_finished"]:
            await trio.sleep(0.1)
            before, down = down, set(pipeline.status()["cameras_down"])
            for camera in sorted(down - before):
                print(f"{camera} gives no frames; it is opened again and again")
        nursery.cancel_scope.cancel()
    # The buffer is an ordinary SQLite file. `image_id` begins with the source's name.
    rows = sqlite_utils.Database(settings.buffer_db_path).query("SELECT image_id FROM prediction_buffer")
    for name, count in sorted(Counter(row["image_id"].partition("/")[0] for row in rows).items()):
        print(f"{name}: {count} predictions")


if __name__ == "__main__":
    trio.run(main, sys.argv[1:] or sys.exit(__doc__))
