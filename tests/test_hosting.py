"""A connection ends when it is over: whichever side closes it, whenever, and whatever is still under way."""

import contextlib

import attrs
import pytest
import trio
from hypercorn.config import Config

from hosting import Host
from tests.network import socketed_pair

KEEP_ALIVE_S = 75.0
ANSWER_S = 2.0
"""How long the app takes to begin an answer."""
GET = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n"
UPLOAD = b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 9\r\n\r\n"


@attrs.define
class App:
    """Answers each request with a number of pieces, one a second, unless its client goes; notes what became of each."""

    pieces: int = 1
    closing: bool = False
    """Whether an answer says that it is the last one."""
    ends: list[str] = attrs.field(factory=list)

    async def __call__(self, scope, receive, send) -> None:
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                nursery.cancel_scope.cancel()

            nursery.start_soon(read)
            end = "gone"
            try:
                await trio.sleep(ANSWER_S)
                headers = [(b"content-length", b"3"), *([(b"connection", b"close")] if self.closing else [])]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                for left in reversed(range(self.pieces)):
                    await send({"type": "http.response.body", "body": b"!" * (3 // self.pieces), "more_body": left > 0})
                    end = "gone" if left else "answered"
                    if left:
                        await trio.sleep(1)
            finally:
                self.ends.append(end)
            nursery.cancel_scope.cancel()


@attrs.define
class Client:
    """What one client got, and when the server's side of its connection was over."""

    received: bytes = b""
    reads: int = 0
    """In how many pieces it came."""
    over_at: float = 0.0

    @property
    def answers(self) -> int:
        """How many answers are whole."""
        return self.received.count(b"\r\n\r\n!!!")


async def talk(
    app: App, sent: bytes, *, shut_after_s: float | None = None, close_after_s: float | None = None
) -> Client:
    """Send; close the sending side, or both, after so long; and wait for the server to be through with it."""
    ours, theirs = socketed_pair()
    config = Config()
    config.errorlog = None
    config.keep_alive_timeout = KEEP_ALIVE_S
    host = Host(app, config)
    client = Client()
    began = trio.current_time()

    async def listen() -> None:
        with contextlib.suppress(trio.ClosedResourceError):
            async for data in ours.receive_stream:
                client.received += data
                client.reads += 1

    async def hang_up(after_s: float, *sides) -> None:
        await trio.sleep(after_s)
        for side in sides:
            side.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await ours.send_all(sent)
        if shut_after_s is not None:
            nursery.start_soon(hang_up, shut_after_s, ours.send_stream)
        if close_after_s is not None:
            nursery.start_soon(hang_up, close_after_s, ours.send_stream, ours.receive_stream)
        with trio.move_on_after(10 * KEEP_ALIVE_S):
            await host.handle(theirs)
        client.over_at = trio.current_time() - began
        nursery.cancel_scope.cancel()
    return client


@pytest.mark.parametrize("sent", [b"", GET[:9], UPLOAD + b"half"], ids=["nothing", "half a head", "half a body"])
async def test_who_closes_before_the_request_is_whole_is_let_go_at_once(autojump_clock, sent):
    assert (await talk(App(), sent, close_after_s=1.0)).over_at == 1.0


async def test_who_closes_after_the_answer_is_let_go_at_once(autojump_clock):
    client = await talk(App(), GET, close_after_s=30.0)
    assert (client.answers, client.over_at) == (1, 30.0)


async def test_who_sends_garbage_is_told_and_let_go_at_once(autojump_clock):
    client = await talk(App(), b"\x00\x01 garbage\r\n\r\n")
    assert client.received.startswith(b"HTTP/1.1 400 ")
    assert client.over_at == 0.0


async def test_who_only_closes_the_sending_side_still_gets_every_answer(autojump_clock):
    """As `nc -N` does, and some clients of one request."""
    app = App()
    client = await talk(app, GET + GET, shut_after_s=0.5)
    assert (client.answers, client.over_at) == (2, 2 * ANSWER_S)
    assert app.ends == ["answered", "answered"]


async def test_an_answer_goes_out_in_one_piece_with_its_head(autojump_clock):
    """Each piece costs a turn of the loop, a call of the system, and the client's waking up."""
    client = await talk(App(), GET, shut_after_s=0.5)
    assert (client.answers, client.reads) == (1, 1)


async def test_an_answer_in_pieces_goes_out_as_they_come_the_head_with_the_first(autojump_clock):
    client = await talk(App(pieces=3), GET, shut_after_s=0.5)
    assert (client.answers, client.reads, client.over_at) == (1, 3, ANSWER_S + 2)


async def test_an_answer_without_a_body_goes_out_at_once(autojump_clock):
    client = await talk(App(), GET.replace(b"GET", b"HEAD"), shut_after_s=0.5)
    assert client.received.startswith(b"HTTP/1.1 200 ")
    assert client.received.endswith(b"\r\n\r\n")
    assert client.over_at == ANSWER_S


async def test_who_asks_first_whether_it_may_send_a_body_is_told_before_the_answer(autojump_clock):
    asking = UPLOAD.replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n")
    client = await talk(App(), asking + b"123456789", shut_after_s=0.5)
    assert client.received.startswith(b"HTTP/1.1 100 ")
    assert (client.answers, client.reads) == (1, 2)


async def test_who_went_while_the_answer_was_made_ends_it_with_its_first_piece(autojump_clock):
    """Whether somebody closed one side or both shows only where something is sent."""
    app = App(pieces=3)
    client = await talk(app, GET, close_after_s=0.5)
    assert (client.answers, client.over_at, app.ends) == (0, ANSWER_S, ["gone"])


async def test_a_request_behind_the_last_answer_keeps_no_connection(autojump_clock):
    """The protocol waits for its turn to read it, which never comes."""
    client = await talk(App(closing=True), GET + GET)
    assert (client.answers, client.over_at) == (1, ANSWER_S)


async def test_who_says_nothing_is_let_go_after_the_keep_alive_time(autojump_clock):
    assert (await talk(App(), b"")).over_at == KEEP_ALIVE_S
    assert (await talk(App(), GET)).over_at == ANSWER_S + KEEP_ALIVE_S
