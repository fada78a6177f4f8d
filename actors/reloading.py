"""What SIGHUP changes in a running device, and what waits for a restart. Pure."""

import attrs

from actors.settings import FIELDS, LIVE, Settings


@attrs.frozen
class Reload:
    """The settings in force from now on, and the names (upper case) of those that differ from before."""

    settings: Settings
    changed: tuple[str, ...]
    """In force at once."""
    restart: tuple[str, ...]
    """Read, but in force only after a restart: what they name is open and in use."""


def reload(running: Settings, read: Settings) -> Reload:
    """Of what was read anew, the part that may change while the device runs; the buffer is never touched."""
    differ = [name for name in FIELDS if getattr(running, name) != getattr(read, name)]
    live = [name for name in differ if name in LIVE]
    return Reload(
        attrs.evolve(running, **{name: getattr(read, name) for name in live}, origins=read.origins),
        tuple(name.upper() for name in live),
        tuple(name.upper() for name in differ if name not in LIVE),
    )
