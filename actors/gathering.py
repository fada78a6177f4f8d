"""Hand predictions on: one that comes alone at once, those that come in quick succession together, for one fsync."""

import attrs
import trio

from actors.messages import Accept

PERIOD_S = 0.2
"""A group leaves at most so often. A trip to the disk costs as much for one prediction as for fifty, so what durability
takes of the processor, and of a card's writes, does not grow with the speed of the model. The price: of what a camera
showed, so much may not be accepted yet when the power goes."""
GROUP_MAX = 64


@attrs.define(eq=False)
class Gathering:
    """Predictions of sources on their way to the disk. What still waits here when the process dies was not accepted."""

    accepts: trio.MemorySendChannel[Accept]
    _waiting: list[Accept] = attrs.field(factory=list, init=False)
    _due: float = attrs.field(default=0.0, init=False)
    """When the next group may leave."""
    _news: trio.Event = attrs.field(factory=trio.Event, init=False)
    _leaving: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    async def add(self, accept: Accept, *, at_once: bool = False) -> None:
        """Now, if somebody waits for it, if the last group is long gone, or this one full; else with the next group."""
        self._waiting.append(accept)
        if at_once or trio.current_time() >= self._due or len(self._waiting) >= GROUP_MAX:
            await self.flush()
        else:
            self._news.set()

    async def flush(self) -> None:
        """Hand on all that waits; the disk's owner takes what lies in its inbox as one group."""
        async with self._leaving:
            self._due = trio.current_time() + PERIOD_S
            group, self._waiting = self._waiting, []
            for accept in group:
                try:
                    self.accepts.send_nowait(accept)  # no checkpoint between two: they arrive as one group
                except trio.WouldBlock:
                    await self.accepts.send(accept)

    async def run(self) -> None:
        """See to it that nothing waits longer. Runs until cancelled."""
        while True:
            await trio.sleep_until(self._due)
            if not self._waiting:
                self._news = trio.Event()
                await self._news.wait()
            elif trio.current_time() >= self._due:  # else one has left since, at once, and the next group is not due
                await self.flush()
