"""The stage of a chaos scenario: real processes, a wire that can be cut, independent books, and the verdict.

The books are the receipts that the device printed. A scenario passes only if every one of them is in the cloud exactly
once with its own image, or lost for a reason that the scenario allows and the cloud's audit names; if the audit has no
unexplained gap and no conflict; and if the device's own books agree with the cloud's, number by number.
"""

import contextlib
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import httpx
import trio

from actors.audit import compare
from actors.ports.account import read_account
from chaos.proxy import Proxy

ROOT = Path(__file__).resolve().parent.parent
DEVICE = "chaos"
START_S_MAX = 60.0
"""How long a process may take to say its first word on a busy machine."""
STOP_S_MAX = 20.0
COMMAND_S_MAX = 60.0
CONVERGE_S_MAX = 120.0
LOOK_EVERY_S = 0.1
PER_SECOND = 40.0
"""How fast each of a device's two sources logs unless the scenario says otherwise."""

Given = tuple[str, int]
"""(stream, seq) of a durable receipt."""


class Failed(Exception):
    """A guarantee did not hold, or a process did not do its part in time; the text says which and what."""


@attrs.define(eq=False)
class Child:
    """A process of ours, and the lines that it has printed so far."""

    name: str
    process: trio.Process
    log: Path
    log_from: int = 0
    """Where in the log its own words begin; those before are of lives before it."""
    lines: list[str] = attrs.Factory(list)
    closed: bool = False
    _moved: trio.Event = attrs.Factory(trio.Event)

    async def listen(self) -> None:
        """Take what it prints until it ends."""
        held = b""
        assert self.process.stdout is not None
        async for data in self.process.stdout:
            *whole, held = (held + data).split(b"\n")
            self.lines += [line.decode() for line in whole]
            self._move()
        self.closed = True
        self._move()

    def _move(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    async def says(self, what: Callable[[str], object], within_s: float) -> str:
        """The first line of which `what` is true, from the first one on. `Failed` if it does not come in time."""
        seen = 0
        with trio.move_on_after(within_s):
            while True:
                for line in self.lines[seen:]:
                    if what(line):
                        return line
                seen = len(self.lines)
                if self.closed:
                    break
                await self._moved.wait()
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-12:])
        raise Failed(f"{self.name} did not say what it should within {within_s:.0f} s; its log ends:\n{tail}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it and to what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    async def end(self, number: signal.Signals = signal.SIGTERM, *, within_s: float = STOP_S_MAX) -> int:
        """Signal it, and wait for its end and its last line; the exit code. `Failed` if it does not end in time."""
        self.send(number)
        with trio.move_on_after(within_s):
            code = await self.process.wait()
            while not self.closed:
                await self._moved.wait()
            return code
        raise Failed(f"{self.name} did not end within {within_s:.0f} s of {number.name}")


@attrs.define(eq=False)
class Stage:
    """One scenario's world. Everything that is chance comes from `rng`."""

    folder: Path
    rng: random.Random
    short: bool
    nursery: trio.Nursery
    proxy: Proxy
    began: float = attrs.Factory(time.monotonic)
    cloud_port: int = 0
    database: str = ""
    """`CLOUD_DATABASE_URL`; empty for a SQLite file in the folder."""
    books: dict[Given, str] = attrs.Factory(dict)
    wrappers: tuple[str, ...] = ()
    """What the command line that starts the device begins with, as `env` and a preloaded library."""
    hours: float = 0.0
    """How long a soak goes on."""
    lives: int = 0
    figures: dict[str, int] = attrs.Factory(dict)

    def tell(self, line: str) -> None:
        """One line of the timeline."""
        print(f"{time.monotonic() - self.began:7.1f} s  {line}", flush=True)

    def rounds(self, full: int, short: int) -> int:
        """How often, in the form that was asked for."""
        return short if self.short else full

    async def pass_time(self, full_s: float, short_s: float) -> None:
        """Let the world go on for a while."""
        await trio.sleep(short_s if self.short else full_s)

    @property
    def buffer(self) -> Path:
        """The device's buffer; its journal and quarantine lie beside it."""
        return self.folder / "device" / "buffer.db"

    @property
    def cloud_url(self) -> str:
        """The cloud, past the wire."""
        return f"http://127.0.0.1:{self.cloud_port}"

    # --- processes

    @asynccontextmanager
    async def child(self, name: str, *command: str, env: Mapping[str, str] | None = None) -> AsyncIterator[Child]:
        """A process in a group of its own, which is gone at the end whatever happened."""
        log = self.folder / f"{name}.log"
        begun = log.stat().st_size if log.exists() else 0
        with log.open("ab") as errors:
            start = partial(trio.lowlevel.open_process, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
            process = await start(list(command), cwd=ROOT, env=os.environ | (env or {}), start_new_session=True)
        child = Child(name, process, log, begun)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child.listen)
                yield child
                nursery.cancel_scope.cancel()
        finally:
            child.send(signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await process.wait()
            self.enter(child)

    @asynccontextmanager
    async def cloud(self, name: str = "cloud", **env: str) -> AsyncIterator[Child]:
        """`python -m cloud`; the first one's port is kept for all that follow, and the wire leads to it."""
        database = self.database or str(self.folder / "cloud.db")
        bind = f"127.0.0.1:{self.cloud_port}"
        command = (sys.executable, "-m", "cloud", "--bind", bind)
        async with self.child(name, *command, env={"CLOUD_DATABASE_URL": database} | env) as child:
            line = await child.says(lambda line: "http://127.0.0.1:" in line, START_S_MAX)
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            assert found
            self.cloud_port = int(found[1])
            if self.proxy.target_port != self.cloud_port:
                self.proxy.turn_to(self.cloud_port)
            yield child

    @asynccontextmanager
    async def device(
        self, *, tasks: int = 2, per_second: float = PER_SECOND, module: str = "chaos.logger", **env: object
    ) -> AsyncIterator[Child]:
        """The next life of the device, ready to log; `env` are settings by their names in lower case."""
        self.lives += 1
        name = f"life{self.lives}"
        settings: dict[str, object] = {
            "cloud_logging_endpoint": f"http://127.0.0.1:{self.proxy.port}/log",
            "edge_device_id": DEVICE,
            "buffer_db_path": self.buffer,
            "batch_timeout_seconds": 0.2,
            "timeout_seconds": 2,
            "max_retries": 1,
            "connectivity_interval_seconds": 1,
            "connectivity_timeout_seconds": 1,
            "shutdown_grace_seconds": 5,
        }
        rate = ("--per-second", str(per_second))
        command = (*self.wrappers, sys.executable, "-m", module, name, "--tasks", str(tasks), *rate)
        text = {key.upper(): str(value) for key, value in (settings | env).items()}
        async with self.child("device", *command, env=text) as child:
            await child.says(lambda line: line == "ready", START_S_MAX)
            yield child

    def enter(self, child: Child) -> None:
        """Take what a device printed into the books; each number is given out once."""
        for line in child.lines:
            if line.count(" ") != 2 or child.name != "device":
                continue
            stream, seq, image = line.split()
            if self.books.setdefault((stream, int(seq)), image) != image:
                raise Failed(f"number {seq} of {stream} was given out twice: {self.books[stream, int(seq)]}, {image}")
        child.lines.clear()

    # --- the end

    async def finish(self, device: Child, *, lost_allowed: tuple[str, ...] = ()) -> None:
        """Everything is healed: the device logs no more, drains, stops in order, and the verdict is given."""
        await self.converge(device)
        code = await device.end()
        if code:
            raise Failed(f"the device ended with exit code {code}")
        self.enter(device)
        await self.check(lost_allowed=lost_allowed)

    async def converge(self, device: Child, within_s: float = CONVERGE_S_MAX) -> None:
        """The device logs no more; everything that it accepted must come home in time, or be told as lost.

        A loss may show as late as while the last batch's outcome is written down.
        """
        began = trio.current_time()
        device.send(signal.SIGUSR1)
        await device.says(lambda line: line == "drained", within_s)
        with trio.move_on_at(began + within_s):
            while True:
                if not untold(self.buffer):
                    self.tell(f"drained within {trio.current_time() - began:.1f} s")
                    return
                await trio.sleep(LOOK_EVERY_S)
        raise Failed(f"the device did not tell what it lost within {within_s:.0f} s")

    async def come_home(self, device: Child, within_s: float) -> float:
        """Wait until the cloud has every number that the device had a receipt for just now; how long that took.

        `Failed` if it takes longer than `within_s`.
        """
        began = trio.current_time()
        last = max((int(line.split()[1]) for line in device.lines if line.count(" ") == 2), default=0)
        async with httpx.AsyncClient(base_url=self.cloud_url, timeout=30.0, trust_env=False) as client:
            with trio.move_on_after(within_s):
                while True:
                    answer = await client.get(f"/devices/{DEVICE}/audit")  # 404 until the first one has arrived
                    for stream in answer.json()["streams"] if answer.status_code == 200 else ():
                        if stream["last_seq"] >= last and all(gap["from_seq"] > last for gap in stream["gaps"]):
                            return trio.current_time() - began
                    await trio.sleep(LOOK_EVERY_S)
        raise Failed(f"number {last} and all below it were not home within {within_s:.0f} s")

    async def check(self, buffers: Mapping[str, Path] | None = None, *, lost_allowed: tuple[str, ...] = ()) -> None:
        """The verdict: `Failed` with what is wrong, or the figures.

        `buffers` are the devices and their buffers (by default the stage's only one); `lost_allowed` are reasons to
        lose what a receipt was given for.
        """
        if not self.books:
            raise Failed("no receipt was given: nothing was tried")
        buffers = buffers or {DEVICE: self.buffer}
        async with httpx.AsyncClient(base_url=self.cloud_url, timeout=30.0, trust_env=False) as client:
            stored = await _stored(client)
            audits = {
                device: (await client.get(f"/devices/{device}/audit")).raise_for_status().json() for device in buffers
            }
        streams = [stream for audit in audits.values() for stream in audit["streams"]]
        reasons = {
            (stream["stream_id"], seq): gap["reason"]
            for stream in streams
            for gap in stream["gaps"]
            for seq in range(gap["from_seq"], gap["to_seq"] + 1)
        }
        wrong = {
            given: (image, stored.get(given), reasons.get(given))
            for given, image in self.books.items()
            if stored.get(given) != [image] and not (given not in stored and reasons.get(given) in lost_allowed)
        }
        if wrong:
            raise Failed(f"{len(wrong)} of {len(self.books)} receipts are not kept: {dict(list(wrong.items())[:3])}")
        images = [image for found in stored.values() for image in found]
        if len(images) != len(set(images)):
            raise Failed(f"{len(images) - len(set(images))} images are stored under two numbers")
        if open_ends := [stream for stream in streams if stream["unexplained"] or stream["conflicts"]]:
            raise Failed(f"the cloud's audit: {json.dumps(open_ends)[:400]}")
        for device, buffer in buffers.items():
            finding = compare(read_account(buffer), {device: audits[device]})
            if not finding.good or finding.waiting:
                raise Failed(f"the books of {device} against the cloud's: {finding.sentence()}")
            if len(buffers) == 1:
                self.tell(f"audit: {finding.sentence()}")
        self.figures = {
            "receipts": len(self.books),
            "stored": len(images),
            "duplicates": sum(stream["duplicates"] for stream in streams),
            "explained": sum(given not in stored for given in self.books),
        }


def untold(buffer: Path) -> bool:
    """Whether the cloud has yet to be told of a loss; also while the database is being replaced by another one."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{buffer}?mode=ro", uri=True)) as connection:
            losses = "SELECT count(*) FROM buffer_losses WHERE confirmed_at IS NULL"
            return bool(connection.execute(losses).fetchone()[0])
    except sqlite3.Error:
        return True


async def _stored(client: httpx.AsyncClient) -> dict[Given, list[str]]:
    """Everything that the cloud has: number -> the images stored under it."""
    stored: dict[Given, list[str]] = {}
    params: dict[str, str] = {"limit": "1000"}
    while True:
        page = (await client.get("/predictions", params=params)).raise_for_status().json()
        for item in page["predictions"]:
            if item.get("seq"):  # what memory alone kept while the disk took nothing travels without a number
                stored.setdefault((item["stream_id"], item["seq"]), []).append(item["image_id"])
        if not page.get("next_cursor"):
            return stored
        params["cursor"] = page["next_cursor"]


async def run(*command: str, codes: Sequence[int] = (0,)) -> str:
    """What a command prints that has to end with one of `codes`; `Failed` with its own words if it does not."""
    call = partial(subprocess.run, command, check=False, capture_output=True, text=True, timeout=COMMAND_S_MAX)
    done = await trio.to_thread.run_sync(call)
    if done.returncode not in codes:
        raise Failed(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()}")
    return str(done.stdout)


@asynccontextmanager
async def open_stage(folder: Path, seed: int, *, short: bool) -> AsyncIterator[Stage]:
    """A stage with its wire up; all processes are gone when it closes."""
    async with trio.open_nursery() as nursery:
        proxy = Proxy("127.0.0.1", 0)
        await nursery.start(proxy.serve)
        (folder / "device").mkdir()
        yield Stage(folder, random.Random(seed), short, nursery, proxy)  # noqa: S311 - reproducible on purpose
        nursery.cancel_scope.cancel()
