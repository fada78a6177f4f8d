"""The store: the journal and the buffer under one set of rules. The one room that knows both.

1. A number goes nowhere before its line is fsynced, so no number is ever given to two predictions.
2. A segment is deleted only when all its rows are in SQLite, synced and out of its write-ahead log; hence SQLite may
   run with `synchronous=NORMAL`.
3. Rows move to SQLite in larger strokes. One that was confirmed by then is written once, as sent (or not at all with
   `cleanup_days=0`).
4. Losing a 'sent' mark is harmless, since the cloud knows the number; losing an accepted row is not.
5. While the journal can't be written, a group is committed in SQLite, with an fsync of its own. A database that turns
   out to be damaged is set aside while running, and a new one is filled from what reads of it and from the journal.
6. On opening, what earlier sessions left in segments, and behind the end of SQLite's log, is replayed; what can't be
   read is set aside and counted.
"""

from collections.abc import Callable, Sequence

from actors.messages import Books, Entry, Fate, Outcome, Stream
from actors.ports.aside import Aside
from actors.ports.behind import take_log
from actors.ports.buffer import Buffer
from actors.ports.front import Front
from actors.ports.journal import Journal, orphans, scan, session
from actors.ports.names import Names
from actors.ports.opening import DiskTrouble, StoreOptions, lock, says_full, unlock
from actors.ports.pages import Changed, PayloadsChanged
from actors.ports.portions import portions
from actors.ports.replay import BAD_SECTOR, Recovered, replay
from actors.ports.reserve import Reserve
from actors.ports.rot import give_up
from actors.ports.rows import Row
from actors.ports.salvage import mark_damaged, open_stream, replace
from actors.ports.sqlite import BufferDamaged, BufferUnwritable
from actors.seqs import Payloads, Stored
from actors.tasks import Done
from cloud.wire import LOSSES_MAX, Loss

FLUSH_RECORDS, FLUSH_AGE_S = 1_000, 15.0
"""The age: longer than the default batch timeout, so that on a good link most rows are written once, as sent."""
STROKE_ROWS = 512
"""Rows that one stroke of clean-up or eviction touches: a few milliseconds."""
SHRINK_PAGES, WAL_BYTES_MAX = 256, 1024 * 1024
RECLAIM_FRACTION = 0.9
"""From here on sent rows are given up for space."""
DAY_S, CLEANUP_EVERY_S = 86_400.0, 3_600.0


class Store:
    """One device's disk; every method blocks on it. Only `accept_in_journal` may run in a thread beside all others.

    `open()` may raise `StoreLocked` or `DiskTrouble`; the others say what they raise.
    """

    def __init__(self, buffer: Buffer, *, lock_fd: int, stream_id: str, device_id: str, options: StoreOptions) -> None:
        self.stream_id = stream_id
        self.recovered = Recovered()
        self.needs_rebuild = False
        """Whether the database was found damaged and could not be replaced yet."""
        self._buffer = buffer
        self._device_id = device_id
        self._lock_fd = lock_fd
        self._options = options
        self._reserve, self._aside = Reserve(options.reserve_path, options.reserve_bytes), Aside(options)
        self._cleaned_at = 0.0
        describe = session(stream_id, device_id, options.model, options.now())
        self._journal = Journal(options.journal_folder, describe=describe, sync=options.sync)
        self._front = Front(options, self._journal, self._size_bytes)
        self.mutex = self._front.mutex  # whoever holds it keeps numbers from being given out
        self.names = Names(options, Stream(stream_id, buffer.device()))
        self.failed_count = self.sent_count = self.damaged_count = 0
        """Predictions in quarantine, those confirmed, ever, and those whose bytes went bad at rest, ever."""

    @classmethod
    def open(cls, device_id: str, options: StoreOptions) -> "Store":
        """Open or create the store, replay what earlier sessions left, and be ready to accept."""
        lock_fd = lock(options)
        try:
            log = take_log(options.db_path)
            try:
                return cls._open(device_id, options, lock_fd, log)
            except BufferDamaged:  # this shows only when it is read: now it is set aside from the start
                mark_damaged(options.db_path)
                return cls._open(device_id, options, lock_fd, log)
        except (OSError, BufferDamaged, BufferUnwritable) as exc:
            unlock(lock_fd)
            if says_full(exc):
                Reserve(options.reserve_path, options.reserve_bytes).release()
            raise DiskTrouble(f"{options.db_path}: {exc}") from exc

    @classmethod
    def _open(cls, device_id: str, options: StoreOptions, lock_fd: int, log: bytes) -> "Store":
        found = [scan(path) for path in orphans(options.journal_folder)]
        buffer, stream_id, aside = open_stream(options, device_id, found)
        try:
            store = cls(buffer, lock_fd=lock_fd, stream_id=stream_id, device_id=device_id, options=options)
            replayed = replay(found, buffer, options, stream_id=stream_id, buffer_set_aside=aside, wal=log)
            store.recovered, store._front.next_seq = replayed.recovered, replayed.last_seq + 1
            store._count()
            store.names.keep_to(device_id, store.last_seq + 1)
            store._reserve.make()
            store._aside.keep_within(options.set_aside_bytes_max)
        except (OSError, BufferDamaged, BufferUnwritable):
            buffer.close()
            raise
        return store

    def _count(self) -> None:
        """Count anew what a change from outside has moved; under the mutex, or before anybody accepts."""
        self._front.next_seq = max(self._front.next_seq, self._buffer.highest_seq() + 1)
        self.sent_count = self._buffer.totals().sent
        self._front.pending_count = self._buffer.count("pending") + self._front.held.pending_count
        self.failed_count, self.damaged_count = self._buffer.count("failed"), self._buffer.lost(BAD_SECTOR)

    @property
    def last_seq(self) -> int:
        """The highest number given out."""
        return self._front.next_seq - 1

    @property
    def pending_count(self) -> int:
        """Predictions that the cloud has not confirmed."""
        return self._front.pending_count

    @property
    def journal_trouble(self) -> str:
        """Why groups are committed in SQLite instead of the journal; empty while the journal takes them."""
        return self._front.trouble

    def accept(self, entries: Sequence[Entry]) -> list[Stored]:
        """Make predictions durable and number them, in order, without holes. `BufferFull`, `DiskTrouble`."""
        stored = self.accept_in_journal(entries)
        return self._accept_in_sqlite(entries) if stored is None else stored

    def accept_in_journal(self, entries: Sequence[Entry]) -> list[Stored] | None:
        """`accept` without SQLite's help; None while the journal can't be written. `BufferFull`, `DiskTrouble`."""
        if not self._reserve.held:
            raise DiskTrouble(f"{self._options.db_path.parent}: the disk is full")
        return self._front.accept(entries)

    def _accept_in_sqlite(self, entries: Sequence[Entry]) -> list[Stored]:
        """A commit with an fsync of its own; what the journal alone holds goes with it."""
        try:
            with self._front.mutex:
                self._flush()
                rows = self._front.number(entries)
                self._buffer.insert(rows, last_seq=rows[-1].seq, durable=True)
                stored = self._front.give_out(rows)
        except BufferUnwritable as exc:
            raise DiskTrouble(f"{exc}; {self.journal_trouble}".rstrip("; ")) from exc
        self._if_writable(self._buffer.checkpoint)  # in the WAL, the only copy ends with the first bit that flips there
        return stored

    @property
    def flush_due(self) -> bool:
        """Whether enough rows wait for a stroke to SQLite; better made once the receipts are out than before."""
        return self.held_count >= FLUSH_RECORDS

    @property
    def held_count(self) -> int:
        """Rows that the journal alone holds."""
        return len(self._front.held)

    def pending(self, after: int, records_max: int, bytes_max: int, *, newest: bool = False) -> Payloads:
        """A page of the backlog: the oldest above `after`, or the newest below it (0: from the end). `DiskTrouble`."""
        while True:
            try:
                page = self._buffer.pending(after, records_max, bytes_max, newest=newest)
                if self._front.held and (not page or (newest and not after)):
                    self._flush()
                    page = self._buffer.pending(after, records_max, bytes_max, newest=newest)
                if page or after or not (unfound := self._front.written_pending_count):
                    return page
                raise BufferDamaged(f"none is found of {unfound} pending predictions")
            except PayloadsChanged as exc:
                self._give_up(exc.rows)
            except BufferUnwritable as exc:
                raise DiskTrouble(str(exc)) from exc

    def _give_up(self, changed: Sequence[Changed]) -> None:
        try:
            gone = give_up(changed, self._buffer, self._aside, self._options.now())
        except BufferUnwritable as exc:
            raise self._short_of_room(exc) from exc
        self._front.settled(gone)
        self.damaged_count += gone

    def losses(self) -> list[Loss]:
        """Tombstones that the cloud has not confirmed yet. `BufferUnwritable`."""
        return self._buffer.losses(LOSSES_MAX)

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Write down what became of predictions that were in flight. `DiskTrouble`: then tell it the same again."""
        now, reserve = self._options.now(), self._options.reserve_bytes
        try:
            for portion in portions(outcomes, reserve // 4):
                if self._buffer.wal_bytes() + 2 * portion.payload_bytes > reserve:  # no more than is kept free for this
                    self._buffer.checkpoint()
                self._settle_one(portion, now)
        except BufferUnwritable as exc:
            raise self._short_of_room(exc) from exc

    def _short_of_room(self, error: Exception) -> DiskTrouble:
        """What must be written could not be: on a full disk give up the reserve, so that it can when tried again."""
        if says_full(error):
            self._reserve.release()
        return DiskTrouble(str(error))

    def _settle_one(self, outcome: Outcome, now: float) -> None:
        written, held = self._front.apart(outcome.seqs)
        error = outcome.error or ""
        match outcome.fate:
            case Fate.SENT:
                marked = self._buffer.mark_sent(written, now)
                self._settled("sent", marked, held, now)
                self._buffer.confirm_losses(outcome.losses, now)
            case Fate.QUARANTINED:
                marked = self._buffer.mark_failed(written, error)
                self._settled("failed", marked, held, None, error)
            case Fate.RELEASED if outcome.error is not None:
                self._buffer.mark_retried(written, error)
                for row in held:
                    row.retry_count += 1
                    row.last_error = error

    def _settled(
        self, status: str, marked: int, held: Sequence[Row], sent_at: float | None, error: str | None = None
    ) -> None:
        for row in held:
            row.status, row.sent_at, row.last_error = status, sent_at, error
        self._front.settled(marked + len(held))
        if status == "sent":
            self.sent_count += marked + len(held)
        else:
            self.failed_count += marked + len(held)

    def evict(self) -> int:
        """Drop the oldest pending predictions, leaving tombstones; says how many went. `DiskTrouble`."""
        try:
            self._flush()
            gone = self._buffer.evict(STROKE_ROWS, "evicted", self._options.now())
            self._front.settled(gone)
            self._give_back()
        except BufferUnwritable as exc:
            raise self._short_of_room(exc) from exc
        return gone

    def tidy(self) -> bool:
        """A stroke of what is due: flush, checkpoint, retire, clean up. True if more is due at once. `DiskTrouble`."""
        now = self._options.now()
        self._front.try_again()
        try:
            self._aside.look()
            if self._front.held and now - self._front.held.since >= FLUSH_AGE_S:
                self._flush()
            if self._journal.retirable or self._buffer.wal_bytes() > WAL_BYTES_MAX:
                self._retire()
            size = self.size_bytes() + self._front.held.asked_bytes
            if not self._reserve.make() or size > RECLAIM_FRACTION * self._options.accept_bytes_max:
                return self._reclaim()
            if now - self._cleaned_at >= CLEANUP_EVERY_S:
                return self._clean_up(now)
        except (BufferUnwritable, OSError) as exc:
            raise self._short_of_room(exc) from exc
        return False

    def _reclaim(self) -> bool:
        """Give sent rows up, of any age; where none is left, what was set aside: worth less than what comes."""
        self._flush()
        self._front.end_segment()
        gone = self._buffer.delete_sent(STROKE_ROWS, sent_before=float("inf"))  # the clock may have gone back
        self._give_back()
        return (gone or STROKE_ROWS * self._aside.drop_oldest()) >= STROKE_ROWS

    def _clean_up(self, now: float) -> bool:
        """Give up sent rows that are older than the operator wants to keep them."""
        gone = self._buffer.delete_sent(STROKE_ROWS, sent_before=now - self._options.cleanup_days * DAY_S)
        if gone == STROKE_ROWS:
            return True
        self._cleaned_at = now
        self._buffer.note_cleanup(now)
        self._buffer.shrink(SHRINK_PAGES)
        return False

    def _give_back(self) -> None:
        if self._buffer.wal_bytes() > WAL_BYTES_MAX:  # what was deleted is not to lie beside the pages that are moved
            self._buffer.checkpoint()
        self._buffer.shrink(SHRINK_PAGES)
        self._retire(wait=True)

    def _retire(self, *, wait: bool = False) -> None:
        """Delete the segments whose rows are all in SQLite, once SQLite is synced and its log empty."""
        flushed_up_to = self._flush()
        if self._buffer.checkpoint(wait=wait):
            self._front.retire(flushed_up_to)

    def flush_if_writable(self) -> bool:
        """A flush that may wait: the journal holds the rows. False where SQLite does not take them now."""
        return self._if_writable(self._flush)

    def _if_writable(self, work: Callable[[], object]) -> bool:
        try:
            work()
        except BufferUnwritable:
            return False
        except BufferDamaged:
            self.needs_rebuild = True
        return not self.needs_rebuild

    def _flush(self) -> int:
        """Move what the journal alone holds into SQLite, in one transaction; up to which number all is there then."""
        held, last_seq = self._front.waiting()
        if held:
            kept = [row for row in held if row.status != "sent"] if self._options.cleanup_days == 0 else held
            self._buffer.insert(kept, last_seq=last_seq, unwritten_sent=len(held) - len(kept))
            self._front.flushed(held)
        return last_seq

    def amend(self, change: Callable[[Buffer, float], Done], *, numbers: bool = False) -> Done:
        """Another room's work on rows at rest, which may give out `numbers`: flushed before, counted anew after."""
        try:
            self._flush()
            done = change(self._buffer, self._options.now())
            with self._front.mutex:
                self._front.next_seq += done.changed if numbers else 0  # before anything that may fail
                self._count()
        except BufferUnwritable as exc:
            raise self._short_of_room(exc) from exc
        return done

    def has_room(self) -> bool:
        """Whether as much as the last accept asked for would be taken now: on the disk, and below the cap."""
        return self._reserve.room and self.size_bytes() + self._front.held.asked_bytes <= self._options.accept_bytes_max

    def size_bytes(self) -> int:
        """Every byte of ours in the buffer's folder: database, WAL, journal, reserve, and what lies beside them."""
        with self._front.mutex:
            return self._size_bytes()

    def _size_bytes(self) -> int:
        reserve, aside, journal = self._reserve.size_bytes, self._aside.bytes_beside, self._journal.size_bytes
        return self._buffer.size_bytes() + reserve + aside + journal

    def books(self) -> Books:
        """The account of this moment (`in_flight`, `turned_away` and `trouble` are the writer's to fill in)."""
        oldest = (self._buffer.oldest_pending_at() or self._front.oldest_pending_at()) if self.pending_count else None
        return Books(
            stream_id=self.names.streams[-1].stream_id,
            streams=self.names.streams,
            last_seq=self.last_seq,
            pending=self.pending_count,
            sent=self.sent_count,
            failed=self.failed_count,
            evicted=self._buffer.totals().evicted,
            damaged=self.damaged_count,
            oldest_pending_at=oldest,
            size_bytes=self.size_bytes(),
            capacity_bytes=self._options.capacity_bytes,
            recovered=self.recovered.predictions,
            recovered_first_at=self.recovered.first_at,
            recovered_last_at=self.recovered.last_at,
            set_aside_bytes=self._aside.size_bytes,
            set_aside_dropped=self._aside.dropped,
        )

    def rebuild(self) -> None:
        """Set a damaged database aside while running; the new one gets what reads of it, and what the journal holds.

        A row whose 'sent' mark was lost with it is sent again, and the cloud knows its number. `DiskTrouble` where not
        even that works now: call it again before anything else (`needs_rebuild`); a restart would do the same.
        """
        self.needs_rebuild = True
        names = {"stream_id": self.stream_id, "device_id": self._device_id}
        try:
            with self._front.mutex:  # what is accepted meanwhile could be in a segment that was read, and not yet held
                held = self._front.held.rows
                self._buffer = replace(self._buffer, self._options, **names, last_seq=self.last_seq, held=held)
                self._flush()
                self._buffer.keep_buried()
                self._buffer.recount(self.last_seq)
                self._aside.keep_within(self._options.set_aside_bytes_max)
                self._count()
        except (OSError, BufferDamaged, BufferUnwritable) as exc:
            raise DiskTrouble(f"{self._options.db_path}: {exc}") from exc
        self.needs_rebuild = False

    def close(self) -> None:
        """Bring everything into SQLite, sync it, and remove the segments: the next start has nothing to replay.

        Where the disk does not let it, the journal stays for the next start, which is told of a damaged database.
        """
        try:
            self._front.end_segment()
            if not self.needs_rebuild:
                self._if_writable(lambda: self._retire(wait=True))
            if self.needs_rebuild:
                mark_damaged(self._options.db_path)
        except OSError:
            return
        finally:
            self._buffer.close()
            unlock(self._lock_fd)
