"""Something else answers in the cloud's place: a portal's page, nonsense, a success that is none."""

from chaos.liar import answering
from chaos.stage import Stage

PORTAL = b"<html><body>Please log in to the WiFi</body></html>"
FALSE = b'{"accepted": 1, "duplicates": 0}'


def http(body: bytes, kind: str) -> bytes:
    """A 200 that means nothing."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Type: %s\r\n\r\n%s" % (len(body), kind.encode(), body)


async def play(stage: Stage) -> None:
    """None of it is believed."""
    lies = {
        "a portal's page": http(PORTAL, "text/html"),
        "bytes that are no HTTP": bytes(range(256)),
        "a success that speaks of one prediction": http(FALSE, "application/json"),
    }
    async with stage.cloud(), stage.device(batch_size=7) as device:
        await stage.pass_time(5, 1)
        for name, lie in lies.items():
            async with answering(lie) as liar:
                stage.proxy.turn_to(liar.port)
                stage.tell(f"in the cloud's place answers {name}")
                await stage.pass_time(15, 3)
                liar.must_have_lied()
        stage.proxy.turn_to(stage.cloud_port)
        stage.tell("the cloud is back")
        await stage.finish(device)
