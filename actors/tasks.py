"""What an operator asks of the rows at rest, and what is answered: the messages behind `app.py buffer …`."""

import enum

import attrs

from actors.reply import Reply


class TaskKind(enum.Enum):
    """The work that `app.py buffer …` asks the owner of the disk to do."""

    FLUSH = "flush"
    """What only the journal holds comes into the database, where whoever reads it sees what became of it."""
    RESET_FAILED = "reset-failed"
    """Quarantined predictions in `spans` are pending again."""
    REPLAY = "replay"
    """Sent predictions in `spans` are pending again; the cloud knows their numbers."""
    DISCARD = "discard"
    """Pending and quarantined predictions in `spans` are given up; a tombstone explains each number."""
    RESTORE = "restore"
    """`rows` that were exported from this stream are pending again under their own numbers."""
    CLEAN_UP = "clean-up"
    """A stroke: the oldest sent predictions that were confirmed before `sent_before` are deleted."""
    SHRINK = "shrink"
    """A stroke: free pages go back to the file system."""
    REBUILD = "rebuild"
    """The database is set aside, and a new one filled from what reads of it and from the journal."""


@attrs.frozen
class Saved:
    """An exported prediction: its number, its payload byte for byte, and when it was accepted."""

    seq: int
    payload: str
    buffered_at: float


@attrs.frozen(kw_only=True)
class Task:
    """One piece of work, small enough that no accept waits long for it."""

    kind: TaskKind
    spans: tuple[tuple[int, int], ...] = ()
    """Ranges of numbers, both ends included."""
    rows: tuple[Saved, ...] = ()
    sent_before: float = 0.0
    """Seconds since 1970."""


@attrs.frozen(kw_only=True)
class Done:
    """What a task did. Counts are predictions (pages, for SHRINK)."""

    changed: int = 0
    in_flight: int = 0
    """Left alone, since they are on their way to the cloud at this moment."""
    refused: int = 0
    """Rows to restore whose number this buffer has never given out, or that are no prediction."""
    more: bool = False
    """Whether another stroke has something to do."""


@attrs.frozen
class TaskRefused(Exception):
    """The task was not done, and why."""

    reason: str

    def __str__(self) -> str:
        """The reason alone."""
        return self.reason


@attrs.frozen
class Chore:
    """control door -> buffer_writer: do this when nothing else has the disk, then answer."""

    task: Task
    reply: Reply[Done | TaskRefused]
