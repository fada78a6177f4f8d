"""Rot: what has changed at rest in the buffer is set aside and explained, so that what stands beside it can go on."""

from collections.abc import Sequence

import structlog

from actors.ports.aside import Aside
from actors.ports.buffer import Buffer
from actors.ports.journal import encode_line
from actors.ports.pages import Changed
from actors.ports.replay import BAD_SECTOR

log = structlog.get_logger()


def give_up(changed: Sequence[Changed], buffer: Buffer, aside: Aside, now: float) -> int:
    """Set the payloads aside and bury their numbers; says how many were pending. `BufferUnwritable`.

    The copy is made of journal lines, with the checksums that the payloads should have.
    """
    seqs = [row.seq for row in changed]
    lines = b"".join([encode_line(row.seq, row.payload, row.crc32c & 0xFFFFFFFF) for row in changed])
    path = aside.keep(f"payloads-{int(now)}-{seqs[0]}.jsonl.bad", lines)
    gone = buffer.give_up(seqs, BAD_SECTOR, now)
    log.error("payloads_damaged", predictions=gone, seqs=seqs[:10], set_aside=str(path or ""), reason=BAD_SECTOR)
    return gone
