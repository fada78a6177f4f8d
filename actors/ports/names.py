"""Under which names the numbers of a buffer go out: a small file beside the database, written before it is needed.

It is also the second witness of the stream that the buffer began with, should the database forget it.

A buffer begins with one stream. It goes on under another one when the cloud turns out to have other predictions under
its numbers (the buffer was copied, or restored from a backup), and when the device was given another id. Numbers run
on; a name holds from a number up to the next name's.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from actors.messages import Stream
from actors.ports.buffer import Buffer
from actors.ports.journal import Header
from actors.ports.opening import StoreOptions
from actors.ports.private import sync_folder
from actors.tasks import Done

log = structlog.get_logger()


def names_file(db_path: Path) -> Path:
    """Where the names lie."""
    return db_path.with_name(db_path.name + ".streams")


def first_name(db_path: Path) -> str | None:
    """The stream that the buffer at `db_path` began with, by this file; None where it can't be read."""
    names = _read(db_path)
    return names[0].stream_id if names else None


def read_names(db_path: Path, first: Stream) -> tuple[Stream, ...]:
    """All names, `first` being the one that the database was made with; that one alone where the file can't be read.

    Numbers that then go out under a wrong name are found by the cloud, and numbered anew.
    """
    return _of(_read(db_path), first)


def _of(names: Sequence[Stream], first: Stream) -> tuple[Stream, ...]:
    # Beside another database (the one before was set aside and could not be read) they mean nothing.
    return tuple(names) if names and names[0].stream_id == first.stream_id else (first,)


def _read(db_path: Path) -> list[Stream]:
    try:
        return msgspec.json.decode(names_file(db_path).read_bytes(), type=list[Stream])
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as exc:
        log.error("streams_unreadable", file=str(names_file(db_path)), error=str(exc))  # noqa: TRY400
        return []


def keep_owner(buffer: Buffer, stream_id: str, headers: Sequence[Header]) -> None:
    """Until there are names, the database alone says whose its numbers are, and that has no checksum. The header of a
    segment has one. `BufferDamaged`, `BufferUnwritable`.
    """
    owners = [header.device_id for header in headers if header.stream_id == stream_id]
    if owners and owners[-1] != buffer.device() and not names_file(buffer.path).exists():
        change = "UPDATE buffer_metadata SET device_id = ?"
        buffer.amend(lambda connection: Done(changed=connection.execute(change, owners[-1:]).rowcount))


class Names:
    """The names of one open buffer. **Synopsis:** `names.begin(next_seq, device_id)`, durable when it returns."""

    def __init__(self, options: StoreOptions, first: Stream) -> None:
        self._options = options
        self._written = _read(options.db_path)
        self.streams = _of(self._written, first)

    def keep_to(self, device_id: str, next_seq: int) -> None:
        """Numbers from `next_seq` on belong to this device; what was accepted under another id keeps that one.

        `OSError` where the names can't be written down.
        """
        if self._written != list(self.streams):
            self._write(self.streams)
        if device_id != self.streams[-1].device_id:
            self.begin(next_seq, device_id)

    def begin(self, first_seq: int, device_id: str) -> None:
        """Numbers from `first_seq` on have a new name. `OSError`: then nothing has changed."""
        # By the first one these names are known for this database's own, also where no number was given out under it.
        before = [self.streams[0], *(stream for stream in self.streams[1:] if stream.first_seq < first_seq)]
        streams = (*before, Stream(self._options.new_id(self._options.now()), device_id, first_seq))
        self._write(streams)
        log.warning("stream_begun", stream_id=streams[-1].stream_id, device_id=device_id, first_seq=first_seq)

    def _write(self, streams: tuple[Stream, ...]) -> None:
        path = names_file(self._options.db_path)
        fresh = path.with_name(path.name + ".new")
        with fresh.open("wb") as file:
            fresh.chmod(0o600)
            file.write(msgspec.json.encode(streams))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        sync_folder(path.parent)
        self.streams, self._written = streams, list(streams)
