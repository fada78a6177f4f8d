"""What became of predictions, in portions that can be written down without passing the cap.

Where a fate is written into the row, SQLite writes the whole row again (numbers that run on are confirmed by a range,
`confirmed.py`, but they need not run on): what many batches confirm at once, after a disk that took nothing for a
while, would be as much of a write-ahead log as all their payloads, and one transaction.
"""

from collections.abc import Iterator, Sequence

import attrs

from actors.messages import Fate, Outcome
from actors.seqs import Seqs


def portions(outcomes: Sequence[Outcome], bytes_max: int) -> Iterator[Outcome]:
    """The same fates, each portion about `bytes_max` of payloads: small confirmations as one, large outcomes apart.

    Confirmations come first, since a transaction each costs more than what it says. An outcome is divided by the count
    of its numbers; how large each payload is, nobody asks.
    """
    gathered: list[Outcome] = []
    for outcome in outcomes:
        if outcome.fate is not Fate.SENT:
            continue
        if gathered and sum(other.payload_bytes for other in (*gathered, outcome)) > bytes_max:
            yield from _apart(_together(gathered), bytes_max)
            gathered = []
        gathered.append(outcome)
    if gathered:
        yield from _apart(_together(gathered), bytes_max)
    for outcome in outcomes:
        if outcome.fate is not Fate.SENT:
            yield from _apart(outcome, bytes_max)


def _together(sent: Sequence[Outcome]) -> Outcome:
    return Outcome(
        Fate.SENT,
        Seqs(span for outcome in sent for span in outcome.seqs.spans),
        losses=tuple(loss for outcome in sent for loss in outcome.losses),
        payload_bytes=sum(outcome.payload_bytes for outcome in sent),
    )


def _apart(outcome: Outcome, bytes_max: int) -> Iterator[Outcome]:
    pieces = min(len(outcome.seqs), -(-outcome.payload_bytes // bytes_max))
    if pieces < 2:
        yield outcome
        return
    count = -(-len(outcome.seqs) // pieces)
    size = -(-outcome.payload_bytes // pieces)
    for start in range(0, len(outcome.seqs), count):
        losses = outcome.losses if start == 0 else ()
        yield attrs.evolve(outcome, seqs=outcome.seqs[start : start + count], losses=losses, payload_bytes=size)
