"""What holds up a stop of the cloud: no idle connection, whenever it comes, and no request behind another one."""

import trio
import trio.testing

from cloud.__main__ import GRACE_S, hosting
from hosting import Host
from tests.cloud.world import envelope, payload, service
from tests.network import socketed_pair

STEPS_AWAY = range(0, 40, 2)
"""The stop comes so many turns of the loop after the start; an exchange takes about twenty."""


def request(seq: int) -> bytes:
    body = envelope(payload(seq))
    return b"POST /log HTTP/1.1\r\nhost: cloud\r\ncontent-length: %d\r\n\r\n" % len(body) + body


async def held_up_s(requests: bytes, *, steps: int) -> float:
    """How long a stop waits for a client that sends `requests` and then only reads."""

    async def talk(stream: trio.abc.Stream) -> None:
        await stream.send_all(requests)
        while await stream.receive_some(65_536):
            pass  # the client keeps its end open: it is the server that has to let go

    async with service() as cloud:
        ours, theirs = socketed_pair()
        host = Host(cloud.app, hosting("10.0.0.1:80"))
        async with trio.open_nursery() as client:
            async with trio.open_nursery() as serving:
                serving.start_soon(host.handle, theirs)
                client.start_soon(talk, ours)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                stopped_at = trio.current_time()
                await host.stop()
                serving.cancel_scope.deadline = stopped_at + GRACE_S
            client.cancel_scope.cancel()
        return trio.current_time() - stopped_at


async def test_an_idle_connection_holds_up_no_stop_whenever_it_comes(autojump_clock):
    """Before the request, in the middle of it, while it is answered, and long after."""
    assert {steps: await held_up_s(request(1), steps=steps) for steps in STEPS_AWAY} == dict.fromkeys(STEPS_AWAY, 0.0)


async def test_a_request_that_comes_before_the_last_ones_end_holds_up_no_stop_either(autojump_clock):
    """The protocol does not read on while an answer is under way, and with a stop it never comes to read again."""
    waits = {steps: await held_up_s(request(1) + request(2), steps=steps) for steps in STEPS_AWAY}
    assert waits == dict.fromkeys(STEPS_AWAY, 0.0)
