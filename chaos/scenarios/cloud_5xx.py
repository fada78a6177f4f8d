"""The cloud answers 500 to everything for a while."""

from chaos.liar import answering
from chaos.stage import Stage

ANSWER = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\nContent-Type: text/plain\r\n\r\noops"


async def play(stage: Stage) -> None:
    """A broken release behind the same address, then the right one again."""
    async with stage.cloud(), stage.device() as device:
        await stage.pass_time(5, 1)
        async with answering(ANSWER) as liar:
            stage.proxy.turn_to(liar.port)
            stage.tell("every request is answered with 500")
            await stage.pass_time(30, 4)
            liar.must_have_lied()
        stage.proxy.turn_to(stage.cloud_port)
        stage.tell(f"the cloud is back; {liar.answers} requests were answered with 500")
        await stage.finish(device)
