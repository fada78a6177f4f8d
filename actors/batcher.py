"""Group stored predictions into batches; a batch leaves when full, or when it has lingered."""

import trio
from trio_util import AsyncValue

from actors.messages import Batch, Knobs, Lane
from actors.seqs import Stored, payloads_of


async def run(
    stored: trio.MemoryReceiveChannel[Stored],
    batches: trio.MemorySendChannel[Batch],
    *,
    knobs: AsyncValue[Knobs],
    bytes_max: int,
) -> None:
    """Send a batch at `batch_size` predictions, before `bytes_max` bytes of payload, or `batch_timeout_s` after its
    first; each batch keeps the knobs that it was opened under.

    A payload that would not fit any more opens the next batch; one that is larger than `bytes_max` travels alone.
    At the end of the stream what is held leaves at once. A slow receiver is waited for: what then piles up in
    `stored` is the buffer writer's to keep.
    """
    with stored, batches:
        spare: Stored | None = None
        while True:
            try:
                first = spare or await stored.receive()
            except trio.EndOfChannel:
                return
            now = knobs.value
            held, spare = await _gather(
                first, stored, size_max=now.batch_size, bytes_max=bytes_max, linger_s=now.batch_timeout_s
            )
            await batches.send(Batch(payloads_of(held), Lane.LIVE))


async def _gather(
    first: Stored,
    stored: trio.MemoryReceiveChannel[Stored],
    *,
    size_max: int,
    bytes_max: int,
    linger_s: float,
) -> tuple[list[Stored], Stored | None]:
    """The batch that `first` opens, and the prediction that did not fit into it."""
    held = [first]
    size = len(first.payload)
    with trio.move_on_after(linger_s):
        while len(held) < size_max and size < bytes_max:
            try:
                record = await _next(stored)
            except trio.EndOfChannel:
                break
            size += len(record.payload)
            if size > bytes_max:
                return held, record
            held.append(record)
    return held, None


async def _next(stored: trio.MemoryReceiveChannel[Stored]) -> Stored:
    """What lies there is taken without a turn of the loop: one for each prediction adds up."""
    try:
        return stored.receive_nowait()
    except trio.WouldBlock:
        return await stored.receive()
