"""What a device stands on: its disk, clock and link, the books of its callers, and the chance that is its own."""

import random
from collections.abc import Callable

import attrs
import trio

from actors.ports.held import WAY_COPIES
from chaos.sim.books import Books
from chaos.sim.clock import Clock
from chaos.sim.coverage import Coverage
from chaos.sim.drive import Drive
from chaos.sim.link import Link
from chaos.sim.plan import Fault, Plan, chance
from chaos.sim.scale import GROUP_BYTES_MAX


@attrs.define(eq=False)
class Host:
    """One machine."""

    number: int
    plan: Plan
    drive: Drive
    link: Link
    coverage: Coverage
    say: Callable[[str], None]
    healing: trio.Event
    clock: Clock = attrs.Factory(Clock)
    books: Books = attrs.field(init=False)
    lives: int = 0
    """How many lives of the device's process are over."""
    images: int = 0
    call_bytes_max: int = 0
    """The JSON of the largest call that was taken so far."""
    _unwell_at: float = -1.0

    def __attrs_post_init__(self) -> None:
        self.books = Books(self.name)
        if Fault.CLOCK_DRIFT in self.plan.faults:
            self.clock.rate = self.dice("clock").choice((0.9, 0.999, 1.001, 1.2))
            self.met(Fault.CLOCK_DRIFT)

    @property
    def name(self) -> str:
        """EDGE_DEVICE_ID."""
        return f"device-{self.number}"

    def dice(self, *names: object) -> random.Random:
        """The chance of one part of it."""
        return chance(self.plan.seed, self.name, *names)

    def tell(self, event: str) -> None:
        """One line of the story."""
        self.say(f"{self.name}: {event}")

    def met(self, fault: Fault) -> None:
        """It has really happened."""
        self.coverage(f"fault: {fault.value}")

    def faces(self, fault: Fault) -> bool:
        """Whether this may still happen."""
        return fault in self.plan.faults and not self.healing.is_set()

    def heal(self) -> None:
        """No more faults."""
        self.drive.heal()
        self.drive.spare()
        self.clock.set_right()
        self.link.heal()
        self.tell("healed")

    # --- the oracle's view of the disk

    @property
    def nearly_full(self) -> bool:
        """Whether the buffer may be near its cap, so that log() may wait for room."""
        # One call asks for much of a scaled cap, and comes into a group that was nearly full without it.
        room = 0.9 * self.plan.capacity_bytes - (1 + WAY_COPIES) * (GROUP_BYTES_MAX + self.call_bytes_max)
        return self.drive.used_bytes > min(0.4 * self.plan.capacity_bytes, room)

    def well_since(self, time: float) -> bool:
        """Whether nothing has been wrong with the disk since then."""
        self.note_health()
        return self._unwell_at < time

    def note_health(self) -> None:
        """Remember it if something is wrong with the disk now."""
        if not self.drive.well:
            self._unwell_at = trio.current_time()
