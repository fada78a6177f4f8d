"""The logger with a bug planted in it, named by the environment: what a chaos scenario must find.

PLANTED=journal_writes_nothing python -m tests.chaos.planted NAME --tasks 2
"""

import os
import sys
from collections.abc import Callable

import attrs

from actors.messages import Fate
from actors.ports.journal import Journal
from actors.ports.store import Store
from chaos import logger


def journal_writes_nothing() -> None:
    """Every receipt is given for nothing; a stop in order hides it, a kill does not."""

    def append(journal: Journal, first_seq: int, payloads: list[bytes]) -> None:
        journal._last_seq = first_seq + len(payloads) - 1

    Journal.append = append  # type: ignore[method-assign, assignment]


def released_is_sent() -> None:
    """What could not be delivered is written down as delivered."""
    settle_one = Store._settle_one

    def forgetful(store: Store, outcome, now) -> None:
        fate = Fate.SENT if outcome.fate is Fate.RELEASED else outcome.fate
        settle_one(store, attrs.evolve(outcome, fate=fate), now)

    Store._settle_one = forgetful  # type: ignore[method-assign, assignment]


BUGS: dict[str, Callable[[], None]] = {bug.__name__: bug for bug in (journal_writes_nothing, released_is_sent)}

if __name__ == "__main__":
    BUGS[os.environ["PLANTED"]]()
    logger.main(sys.argv[1:])
