"""A satellite's link: 600 ms each way, 64 kbit a second; with packets lost on top it is `lossy`."""

from chaos.stage import Stage

DELAY_S = 0.6
BYTES_PER_S = 8_000


async def play(stage: Stage) -> None:
    """The backlog of an outage drains over it, with live predictions among it."""
    async with stage.cloud(), stage.device(per_second=5, timeout_seconds=20, connectivity_timeout_seconds=5) as device:
        stage.proxy.sever()
        await stage.pass_time(30, 3)
        stage.proxy.heal()
        stage.proxy.slow(delay_s=DELAY_S, bytes_per_s=BYTES_PER_S)
        stage.tell(f"the link is back, {DELAY_S * 1000:.0f} ms away and {BYTES_PER_S * 8 // 1000} kbit/s wide")
        await stage.pass_time(30, 6)
        await stage.finish(device)
