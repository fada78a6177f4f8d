"""The PostgreSQL behind the cloud is stopped and started again under load; two replicas share it."""

import trio

from chaos.postgres import postgres
from chaos.stage import Failed, Stage

NEEDS = ("postgres",)


async def play(stage: Stage) -> None:
    """The cloud says 503 meanwhile and the device waits; the wire leads to one replica and to the other by turns."""
    with postgres() as server:
        stage.database = server.url()
        async with stage.cloud("replica1"):
            first, stage.cloud_port = stage.cloud_port, 0
            async with stage.cloud("replica2"), stage.device() as device:
                second = stage.cloud_port
                if first == second:
                    raise Failed("the replicas listen on the same port")
                for round_ in range(stage.rounds(10, 2)):
                    stage.proxy.turn_to((first, second)[round_ % 2])
                    await stage.pass_time(5, 1.5)
                    await trio.to_thread.run_sync(server.stop)
                    stage.tell("the database has stopped")
                    await stage.pass_time(10, 2)
                    await trio.to_thread.run_sync(server.start)
                    stage.tell("the database is back")
                await stage.finish(device)
