"""The running device in the hands of whoever opened it: what a program, a door or a command may ask of it."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import attrs
import trio
from trio_util import AsyncValue

from actors import fitting, inference
from actors.inference import ImageRequest, ImageResult
from actors.messages import (
    Accept,
    Entry,
    Knobs,
    Outcome,
    PageRequest,
    PipelineClosed,
    Receipt,
)
from actors.ports.annotate import picture
from actors.ports.client import CloudClient
from actors.ports.frames import ImageGiven
from actors.ports.lane import RunSync
from actors.ports.replay import Recovered
from actors.readiness import Bounds
from actors.reply import Reply
from actors.settings import Settings
from actors.status import Cells, Status, status_of
from actors.tasks import Chore, Done, Task, TaskRefused
from cloud.wire import Prediction, encode_prediction, encode_predictions

Control: TypeAlias = PageRequest | Outcome | Chore
"""What reaches the owner of the disk beside what asks to be made durable."""


CALL_PART = 8
"""One call may take an eighth of BUFFER_MAX_SIZE_MB: on its way into SQLite a prediction lies on the disk three times,
and a group of other callers may come with it."""


class CallTooLarge(ValueError):
    """So many predictions in one call may never find room; nothing of it was accepted."""


@attrs.define(eq=False, kw_only=True)
class Pipeline:
    """A running device. Made by `open_pipeline`."""

    device_id: str
    recovered: Recovered
    """What the last start saved from earlier sessions."""
    cells: Cells
    bounds: Bounds
    stopping: trio.Event
    settings: Settings
    """Those in force; `apply` replaces them."""
    exchanges: AsyncValue[int] = attrs.field(factory=lambda: AsyncValue(0), init=False)
    knobs: AsyncValue[Knobs] = attrs.field(init=False)
    _client: CloudClient
    _accepts: trio.MemorySendChannel[Accept]
    _requests: trio.MemorySendChannel[ImageRequest]
    _control: trio.MemorySendChannel[Control]
    _now: Callable[[], float]
    _draw: RunSync
    _waiting: dict[Reply[Any], object] = attrs.field(factory=dict, init=False)
    """Who still waits for an answer, and what is answered if the end comes first."""
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    async def log(self, prediction: Prediction) -> Receipt:
        """Make a prediction durable. When this returns, it has been written and fsynced (`Receipt.durable`).

        Raises `WireError` for a prediction that does not keep the contract, naming the field, and `PipelineClosed`.
        A caller that is cancelled while it waits can't know whether the prediction was accepted.
        """
        body = encode_prediction(prediction)
        entry = Entry(prediction.image_id, prediction.timestamp, body)
        return (await self._make_durable((entry,), len(body)))[0]

    async def log_many(self, predictions: Sequence[Prediction]) -> tuple[Receipt, ...]:
        """`log` of several predictions, which share one fsync; all are checked before any is accepted.

        Raises `CallTooLarge` beside what `log` raises: their JSON may be an eighth of BUFFER_MAX_SIZE_MB at most.
        """
        if not predictions:
            return ()
        bodies = encode_predictions(predictions)
        entries = [Entry(one.image_id, one.timestamp, body) for one, body in zip(predictions, bodies, strict=True)]
        return await self._make_durable(tuple(entries), sum(map(len, bodies)))

    async def _make_durable(self, entries: tuple[Entry, ...], size_bytes: int) -> tuple[Receipt, ...]:
        mib_max = self.settings.buffer_max_size_mb
        if size_bytes > mib_max * 2**20 // CALL_PART:
            raise CallTooLarge(
                f"log_many: {size_bytes} bytes in one call; no more than an eighth of BUFFER_MAX_SIZE_MB={mib_max} is"
                " sure to find room: log them in several calls, or set more"
            )
        reply: Reply[tuple[Receipt, ...]] = Reply()  # an alias that is called costs more than the reply
        self._waiting[reply] = ()
        try:
            try:
                # The reply is waited for in any case: a checkpoint here would only be one turn of the loop more.
                self._accepts.send_nowait(Accept(entries, reply))
            except trio.WouldBlock:
                await self._accepts.send(Accept(entries, reply))
            receipts = await reply.wait()
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise PipelineClosed from None
        finally:
            self._waiting.pop(reply, None)
        if not receipts:
            raise PipelineClosed
        return receipts

    async def process_image(self, image: ImageGiven, *, image_id: str | None = None) -> ImageResult:
        """What the model says of an image (a path, the bytes of a file, or a BGR array), made durable.

        Raises `FrameUnreadable`, `DetectorError` or `LibraryMissing`, each naming the thing and the remedy, and
        `PipelineClosed`.
        """
        reply = Reply[ImageResult | inference.ImageRefused]()
        self._waiting[reply] = PipelineClosed()
        try:
            await self._requests.send(ImageRequest(image, reply, image_id))
            result = await reply.wait()
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise PipelineClosed from None
        finally:
            self._waiting.pop(reply, None)
        if isinstance(result, Exception):
            raise result
        return result

    async def picture(self) -> bytes | None:
        """The last frame that the model saw, with its boxes drawn, as a JPEG; None before the first one."""
        look = self.cells.vision.value.last
        if look is None:
            return None
        return await self._draw(picture, look.image, look.detections) or None

    async def perform(self, task: Task) -> Done:
        """An operator's work on the rows at rest (`app.py buffer …`). `TaskRefused`, `PipelineClosed`."""
        reply = Reply[Done | TaskRefused]()
        self._waiting[reply] = TaskRefused("the device has ended; nothing was done")
        try:
            await self._control.send(Chore(task, reply))
            done = await reply.wait()
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise PipelineClosed from None
        finally:
            self._waiting.pop(reply, None)
        if isinstance(done, TaskRefused):
            raise done
        return done

    def status(self) -> Status:
        """The device at a glance."""
        return status_of(self.device_id, self.cells, now=self._now(), monotonic=trio.current_time(), bounds=self.bounds)

    def __attrs_post_init__(self) -> None:
        self.knobs = AsyncValue(fitting.knobs(self.settings))

    def apply(self, settings: Settings) -> None:
        """Take over what may change in a running device: batching, pace, key and model (`reloading.py` says what)."""
        before, self.settings = self.settings, settings
        self.knobs.value = fitting.knobs(settings)
        if fitting.api_key(settings) != fitting.api_key(before):
            self._client.change_key(fitting.api_key(settings))
        self.reload_model()

    def reload_model(self) -> None:
        """Load MODEL_PATH anew while the model before goes on, then use it; no frame is lost. The status says which."""
        self.exchanges.value += 1

    def stop(self) -> None:
        """Begin to stop: sources end, what was accepted is flushed, the last batch is offered once."""
        self.stopping.set()
        self._requests.close()
        self._control.close()
        self._accepts.close()

    def skip_network(self) -> None:
        """Stop without waiting for the network any longer; what is accepted is still flushed to the disk."""
        self.stop()
        self._scope.cancel()

    def _close(self) -> None:
        for reply, farewell in self._waiting.items():
            if not reply.given:  # its asker may only not have run yet
                reply.put(farewell)
