"""What holds up a stop of the cloud: no idle connection, whenever it comes; and one case that the grace ends.

Hypercorn's own server on memory streams under a virtual clock, stopped as hypercorn does it: the word `terminated`, and
`GRACE_S` later what is left is cancelled.
"""

import trio
import trio.testing
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext

from cloud.__main__ import GRACE_S, hosting
from tests.cloud.world import envelope, payload, service
from tests.network import _Peer

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
        ours, theirs = trio.testing.memory_stream_pair()
        theirs.socket = _Peer()  # type: ignore[attr-defined]
        context = WorkerContext(None)
        server = TCPServer(ASGIWrapper(cloud.app), hosting("10.0.0.1:80"), context, {}, theirs)  # type: ignore[arg-type]
        async with trio.open_nursery() as client:
            async with trio.open_nursery() as serving:
                serving.start_soon(server.run)
                client.start_soon(talk, ours)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                stopped_at = trio.current_time()
                await context.terminated.set()
                serving.cancel_scope.deadline = stopped_at + GRACE_S
            client.cancel_scope.cancel()
        return trio.current_time() - stopped_at


async def test_an_idle_connection_holds_up_no_stop_whenever_it_comes(autojump_clock):
    """Before the request, in the middle of it, while it is answered, and long after."""
    assert {steps: await held_up_s(request(1), steps=steps) for steps in STEPS_AWAY} == dict.fromkeys(STEPS_AWAY, 0.0)


async def test_a_request_that_comes_before_the_last_ones_end_waits_for_the_grace_and_no_longer(autojump_clock):
    """Hypercorn does not read on while an answer is under way, and with a stop it never comes to read again: the
    connection is closed for the client, but its reader waits for a turn that only the grace ends.
    """
    waits = {await held_up_s(request(1) + request(2), steps=steps) for steps in STEPS_AWAY}
    assert waits <= {0.0, GRACE_S}
