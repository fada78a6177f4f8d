"""What a seed decides before anything runs: topology, durations, workload, sizes, and which faults are turned on."""

import enum
import random

import attrs

from actors.settings import WhenFull


class Fault(enum.Enum):
    """Everything that can go wrong. A seed turns on a random part of them: some bugs show only where others rest."""

    # the link, for a while
    OUTAGE = "outage"
    # the link, for one request
    LOSE_REQUEST = "lose request"
    LOSE_REPLY = "lose reply"
    DOUBLE = "double"
    LATE_DOUBLE = "late double"
    BLACKHOLE = "blackhole"
    SLOW_LINK = "slow link"
    BUSY = "busy"
    ERROR = "error"
    PORTAL = "portal"
    CORRUPT = "corrupt"
    REDIRECT = "redirect"
    KEY_REFUSED = "key refused"
    TOO_LARGE = "too large"
    # the device's process
    KILL = "kill"
    KILL_AT_CALL = "kill at a call"
    KILL_IN_START = "kill in start"
    KILL_IN_STOP = "kill in stop"
    POWER_CUT = "power cut"
    SECOND_SIGNAL = "second signal"
    # the device's disk
    DISK_FULL = "disk full"
    DISK_READ_ONLY = "disk read-only"
    DISK_NO_SYNC = "disk does not sync"
    JOURNAL_FAILS = "journal unwritable"
    DISK_SLOW = "disk slow"
    FLIP_SEGMENT = "flipped bit in a segment"
    FLIP_DATABASE = "flipped bit in the database"
    FLIP_LOG = "flipped bit in the write-ahead log"
    # the device's clock
    CLOCK_JUMP = "clock jumps"
    CLOCK_DRIFT = "clock drifts"
    CLOCK_1970 = "1970 at boot"
    # the cloud
    REPLICA_KILL = "replica killed"
    CLOUD_POWER_CUT = "cloud loses power"
    CLOUD_DISK_FULL = "cloud disk full"
    # what is sent
    REFUSED_RECORD = "refused record"
    POISON = "poison record"
    # the past
    UPGRADED = "upgraded"
    CLOUD_UPGRADED = "cloud upgraded"
    OLD_DEVICE = "device of the last release"


PAST = (Fault.UPGRADED, Fault.CLOUD_UPGRADED, Fault.OLD_DEVICE)
APART = (*PAST, Fault.FLIP_LOG)
"""Drawn with dice of their own: a seed's other faults are what they were before there were these."""
PER_REQUEST = (
    *(Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.DOUBLE, Fault.LATE_DOUBLE, Fault.BLACKHOLE, Fault.SLOW_LINK),
    *(Fault.BUSY, Fault.ERROR, Fault.PORTAL, Fault.CORRUPT, Fault.REDIRECT, Fault.KEY_REFUSED, Fault.TOO_LARGE),
)
DEATHS = (Fault.KILL, Fault.KILL_AT_CALL, Fault.KILL_IN_START, Fault.KILL_IN_STOP)
DISK_WEATHER = (*(Fault.DISK_FULL, Fault.DISK_READ_ONLY, Fault.DISK_NO_SYNC, Fault.JOURNAL_FAILS, Fault.DISK_SLOW),)
MIB = 1 << 20


@attrs.frozen(kw_only=True)
class Plan:
    """One run, decided. The same plan always runs the same; `shrink.py` tries smaller ones."""

    seed: int
    devices: int
    replicas: int
    faults: frozenset[Fault]
    faults_s: float
    """How long faults go on, in virtual seconds; after that everything heals."""
    fault_rate: float
    """Of the requests, those that something befalls."""
    capacity_bytes: int
    """BUFFER_MAX_SIZE_MB of every device, in bytes: the smallest setting is too large to be filled here."""
    when_full: WhenFull
    big_bytes: int
    """A large prediction; 0 where all are small."""
    calm_s: float
    """The average pause between two log() calls of one caller."""
    segment_bytes: int
    tidy_every_s: float

    @classmethod
    def of(cls, seed: int) -> "Plan":
        """The plan of a seed."""
        rng = chance(seed, "plan")
        faults = frozenset[Fault](fault for fault in Fault if fault not in APART and rng.random() < 0.3)
        if Fault.POWER_CUT in faults and not faults & set(DEATHS):
            faults |= {Fault.KILL_AT_CALL}  # the moment at which the power goes
        past = chance(seed, "past")
        faults |= {fault for fault in PAST if past.random() < 0.3}
        if chance(seed, "log").random() < 0.3:
            faults |= {Fault.FLIP_LOG}
        small = rng.random() < 0.25
        if small and rng.random() < 0.6:
            faults |= {Fault.OUTAGE}  # what fills a buffer
        calm_s = 2.0 if small else rng.choice((3.0, 12.0, 50.0))
        return cls(
            seed=seed,
            devices=1 if small else rng.choice((1,) * 7 + (2, 2, 3, 5)),
            replicas=rng.choice((1, 2)),
            faults=faults,
            faults_s=calm_s * (40 if small else rng.choice((12, 24))),
            fault_rate=rng.choice((0.1, 0.2, 0.4)),
            capacity_bytes=MIB // 2 if small else 16 * MIB,
            when_full=rng.choice(tuple(WhenFull)),
            big_bytes=12_000 if small else rng.choice((0, 0, 2_000)),
            calm_s=calm_s,
            segment_bytes=rng.choice((1_500, 6_000, 60_000)),
            tidy_every_s=max(1.0, rng.choice((0.3, 1.0)) * calm_s),
        )

    def command(self) -> str:
        """How to run it again: the seed, and what differs from that seed's own plan."""
        usual = Plan.of(self.seed)
        words = ["python -m chaos.simulate", f"--seed {self.seed}"]
        if self.faults != usual.faults:
            words.append("--faults '" + ",".join(sorted(fault.value for fault in self.faults)) + "'")
        names = ("devices", "replicas", "faults_s")
        differ = (name for name in names if getattr(self, name) != getattr(usual, name))
        return " ".join([*words, *(f"--{name.replace('_', '-')} {getattr(self, name):g}" for name in differ)])


def chance(seed: int, *names: object) -> random.Random:
    """The dice of one part of the world: taking a fault away does not change what befalls the other parts."""
    return random.Random("/".join(str(name) for name in (seed, *names)))  # noqa: S311 - reproducible on purpose
