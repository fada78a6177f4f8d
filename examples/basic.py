"""The least there is: images in, durable predictions out, delivered whenever the network lets it.

    python examples/basic.py IMAGE...

Settings come from the environment: BUFFER_DB_PATH, CLOUD_LOGGING_ENDPOINT, EDGE_DEVICE_ID, …
"""

import os
import sys

import trio

from actors import FrameUnreadable, load_settings, open_pipeline


async def main(images: list[str]) -> None:
    """Look at each image; what is printed is on the disk already."""
    settings = load_settings(os.environ, flags={"sources": "none"})  # no cameras: we hand the images in
    async with open_pipeline(settings) as pipeline:
        for image in images:
            try:
                result = await pipeline.process_image(image)
            except FrameUnreadable as exc:
                print(exc)
                continue
            seen = ", ".join(f"{one['class']} {one['confidence']:.2f}" for one in result["detections"]) or "nothing"
            print(f"{result['image_id']}: {seen}; accepted: {result['logged_to_cloud']}")
    # Leaving the block stopped the device: all is flushed, and the last batch was offered to the cloud once.
    last = pipeline.status()
    print(f"{last['sent']} delivered, {last['pending']} wait on disk for the next start")


if __name__ == "__main__":
    trio.run(main, sys.argv[1:] or sys.exit(__doc__))
