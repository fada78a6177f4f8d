"""The cloud begins on a ledger of the first release: two replicas at once, killed in the middle, and begun again."""

import re
import signal
import sqlite3
import sys
from contextlib import AbstractAsyncContextManager

import httpx
import trio

from chaos.scenarios.upgrade import PAST, leave_buffer
from chaos.stage import START_S_MAX, Child, Failed, Stage

OTHER = {"stored": 19, "unnumbered": 2, "duplicates": 3, "conflicts": 1, "rejected": 1, "missing": 6, "explained": 3}
"""What the first release said of the device `other` when it was asked for its audit."""
ARRIVED = 26
"""Of the device's own predictions, those that it had stored and not answered for."""
MOMENT_S_MAX = 0.03
FOR_EVER = {"CLOUD_RETENTION_DAYS": "36500"}
"""What the first release stored is older than what is kept by default."""


async def play(stage: Stage) -> None:
    """Each start finds the ledger as the first release left it, and dies of it; the last one serves the device."""
    in_the_middle = 0
    rounds = stage.rounds(30, 3)
    for _ in range(rounds):
        leave_ledger(stage)
        in_the_middle += await die_starting(stage)
    stage.tell(f"{rounds} starts of two replicas killed, {in_the_middle} before the ledger had this release's shape")
    leave_buffer(stage)
    async with replica(stage) as second, stage.cloud(**FOR_EVER), stage.device() as device:
        url = await address(second)
        await stage.pass_time(5, 2)
        await stage.finish(device)
        async with httpx.AsyncClient(base_url=url, timeout=30.0, trust_env=False) as client:
            audit = (await client.get("/devices/other/audit")).raise_for_status().json()
    if {name: audit[name] for name in OTHER} != OTHER:
        raise Failed(f"the first release said {OTHER} of the other device, this one says {audit}")
    if stage.figures["duplicates"] < ARRIVED:
        raise Failed(f"{ARRIVED} were there already, {stage.figures['duplicates']} are counted as repeats")


def leave_ledger(stage: Stage) -> None:
    """A ledger as the first release wrote it."""
    ledger = stage.folder / "cloud.db"
    for end in ("", "-wal", "-shm"):
        ledger.with_name(ledger.name + end).unlink(missing_ok=True)
    connection = sqlite3.connect(ledger)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript((PAST / "ledger-1.sql").read_text())
    connection.close()


def replica(stage: Stage) -> AbstractAsyncContextManager[Child]:
    """A process of the cloud on that ledger, beside the one that the wire leads to."""
    command = (sys.executable, "-m", "cloud", "--bind", "127.0.0.1:0")
    return stage.child("replica", *command, env=FOR_EVER | {"CLOUD_DATABASE_URL": str(stage.folder / "cloud.db")})


async def address(child: Child) -> str:
    """Where it listens."""
    line = await child.says(lambda line: "http://127.0.0.1:" in line, START_S_MAX)
    found = re.search(r"http://127\.0\.0\.1:\d+", line)
    assert found
    return found[0]


async def die_starting(stage: Stage) -> bool:
    """Two replicas at once, killed a moment after the first has opened the ledger; whether that had its old shape."""
    log = stage.folder / "cloud.db-wal"
    async with replica(stage) as one, replica(stage) as two:
        with trio.fail_after(START_S_MAX):
            while not log.exists():  # noqa: ASYNC110 - another process makes it
                await trio.sleep(0.001)
        await trio.sleep(stage.rng.random() * MOMENT_S_MAX)
        one.send(signal.SIGKILL)
        two.send(signal.SIGKILL)
    connection = sqlite3.connect(stage.folder / "cloud.db")
    (steps,) = connection.execute("SELECT count(*) FROM _sqlite_migrations").fetchone()
    connection.close()
    return bool(steps == 1)
