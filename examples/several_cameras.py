"""Several sources at once, each in a thread of its own: one that fails never holds up the others.

    python examples/several_cameras.py NAME=SOURCE...        # left=0 right=rtsp://10.0.0.7/stream door=/var/spool/door

A source is a camera's number or device file, an address, a video, a folder (watched), a glob or an image.
"""

import os
import sys
from collections import Counter

import sqlite_utils
import trio

from actors import load_settings, open_pipeline


async def main(sources: list[str]) -> None:
    """Watch them until all have ended (cameras never do: stop those with Ctrl-C)."""
    settings = load_settings(os.environ, flags={"sources": ",".join(sources)})
    async with open_pipeline(settings) as pipeline:
        while not pipeline.status()["sources_finished"]:
            await trio.sleep(0.1)
            for camera in pipeline.status()["cameras_down"]:
                print(f"{camera} gives no frames; it is opened again and again")
    # The buffer is an ordinary SQLite file. `image_id` begins with the source's name.
    rows = sqlite_utils.Database(settings.buffer_db_path).query("SELECT image_id FROM prediction_buffer")
    for name, count in sorted(Counter(row["image_id"].partition("/")[0] for row in rows).items()):
        print(f"{name}: {count} predictions")


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
