"""Which numbers go out under which name. Pure."""

from collections.abc import Sequence
from itertools import pairwise

import attrs

from actors.messages import Stream
from actors.seqs import Payloads, payloads_of
from cloud.wire import SEQ_MAX, Loss

OTHER_STREAM = "numbered in another stream"
"""The reason that the cloud hears for the numbers below a stream's first."""


@attrs.frozen
class Part:
    """What of a batch goes out under one name."""

    stream: Stream
    records: Payloads
    losses: tuple[Loss, ...]


def parts_of(streams: Sequence[Stream], records: Payloads, losses: Sequence[Loss]) -> list[Part]:
    """A batch by its streams, the oldest first; what has no number goes with the latest.

    A range of losses that reaches over a border is told to either side: neither may miss a number for it.
    """
    if len(streams) == 1:
        return [Part(streams[0], records, tuple(losses))]
    ends = [after.first_seq - 1 for _, after in pairwise(streams)] + [SEQ_MAX]
    parts = []
    for stream, end in zip(streams, ends, strict=True):
        latest = stream is streams[-1]
        mine = payloads_of(one for one in records if stream.first_seq <= one.seq <= end or (latest and one.seq < 1))
        told = tuple(loss for loss in losses if loss.to_seq >= stream.first_seq and loss.from_seq <= end)
        if mine or told:
            parts.append(Part(stream, mine, told))
    return parts


def stream_of(streams: Sequence[Stream], seq: int) -> Stream:
    """The stream that a number belongs to; what has none goes with the latest."""
    return next((stream for stream in reversed(streams) if seq >= stream.first_seq), streams[-1])


def below(stream: Stream) -> tuple[Loss, ...]:
    """What the cloud must hear once, so that a stream that does not begin at 1 has no hole."""
    return (Loss(1, stream.first_seq - 1, OTHER_STREAM),) if stream.first_seq > 1 else ()
