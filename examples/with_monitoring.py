"""A device that watches its sources, and beside it a task of yours that watches the device.

python examples/with_monitoring.py [SECONDS]
"""

import os
import sys

import trio

from actors import Pipeline, load_settings, open_pipeline


async def watch(pipeline: Pipeline) -> None:
    """A line a second, and every alert. `pipeline.status()` costs next to nothing: ask as often as you like."""
    while True:
        now = pipeline.status()
        print(
            f"{now['frames']} frames ({now['inference_ms']:.1f} ms), {now['pending']} pending, {now['sent']} sent,"
            f" link {now['link']['state']}, disk {now['capacity_percent']:.1f} %"
        )
        for name, alert in now["alert_details"].items():
            print(f"  {name}, for {alert['for_s']:.0f} s: {alert['detail']}")
        await trio.sleep(1)


async def main(seconds: float) -> None:
    """Run for so long, then stop in order."""
    async with open_pipeline(load_settings(os.environ)) as pipeline, trio.open_nursery() as nursery:
        nursery.start_soon(watch, pipeline)
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()
    print("stopped")


if __name__ == "__main__":
    trio.run(main, float(sys.argv[1]) if len(sys.argv) > 1 else 10.0)
