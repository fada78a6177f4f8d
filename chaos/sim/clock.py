"""A host's wall clock, which may jump, drift, and think after a boot that it is 1970."""

import attrs
import trio

EPOCH = 1_700_000_000.0
"""What a good clock shows when a simulation begins."""


@attrs.define(eq=False)
class Clock:
    """Seconds since 1970, as one host believes."""

    rate: float = 1.0
    """How many of its seconds go by in a true one."""
    off_s: float = 0.0
    """How far it is ahead."""

    def __call__(self) -> float:
        """The time it shows."""
        return max(0.0, EPOCH + self.off_s + self.rate * trio.current_time())

    def set_right(self) -> None:
        """As a time server does it: one jump."""
        self.off_s = (1.0 - self.rate) * trio.current_time()

    @property
    def forgotten(self) -> bool:
        """Whether it believes that it is 1970."""
        return self.off_s < -EPOCH / 2

    def forget(self) -> None:
        """A board without a battery has booted."""
        self.off_s = -EPOCH - self.rate * trio.current_time() + 5.0
