"""What becomes durable together: who waits makes a group, and each of a group gets its answer."""

import contextlib
from collections.abc import Sequence

import trio

from actors.messages import Accept, Entry, Receipt
from actors.seqs import Stored
from actors.tail import json_bytes

GROUP_ENTRIES_MAX = 4_096
GROUP_BYTES_MAX = 1 << 20
"""Callers that pile up before a full disk must not become a group larger than all the room there can ever be."""


async def gather(
    first: Accept, accepts: trio.MemoryReceiveChannel[Accept], group_min: int, group_wait_s: float
) -> tuple[list[Accept], list[Entry]]:
    """All that waits, and if that is fewer than `group_min` predictions, what comes within `group_wait_s`; and the
    predictions of them all.
    """
    group, entries = [first], list(first.entries)
    size = json_bytes(entries)
    with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
        while len(entries) < GROUP_ENTRIES_MAX and size < GROUP_BYTES_MAX:
            accept = accepts.receive_nowait()
            group.append(accept)
            for entry in accept.entries:
                entries.append(entry)
                size += len(entry.body)
    if len(entries) < group_min:
        with trio.move_on_after(group_wait_s):
            while len(entries) < group_min:
                try:
                    group.append(await accepts.receive())
                except trio.EndOfChannel:
                    break
                entries += group[-1].entries
    return group, entries


def answer(group: Sequence[Accept], records: Sequence[Stored], stream_id: str) -> None:
    """A receipt for every entry, in order. `records` is all of the group, or nothing where a policy turned it away."""
    receipts = tuple([receipt(stream_id, record) for record in records])
    start = 0
    for accept in group:
        count = len(accept.entries)
        if accept.reply is not None:
            mine = receipts[start : start + count] if receipts else (receipt(stream_id, None),) * count
            accept.reply.put(mine)
        start += count


def receipt(stream_id: str, record: Stored | None) -> Receipt:
    """What is told of one prediction: durable under a number, kept in memory, or turned away."""
    if record is None:
        return Receipt(stream_id, None, durable=False, accepted=False)
    if record.seq < 0:
        return Receipt(stream_id, None, durable=False)
    return Receipt(stream_id, record.seq, durable=True)
