"""The demo: a device, a cloud and the wire between them; cut the wire, kill the device, heal, and count."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import click
import httpx
import trio
from rich.console import Console
from rich.live import Live
from rich.table import Table

from actors.audit import Finding, compare
from actors.ports.account import read_account
from chaos.proxy import Mode, Proxy

ROOT = Path(__file__).resolve().parent.parent
DEVICE = "demo-camera"
START_S = 30.0
"""How long the model may take to load on a slow machine."""
ONLINE_S = 4.0
CUT_BEFORE_KILL_S = 6.0
CUT_AFTER_START_S = 4.0
DRAIN_S = 20.0
LOOK_EVERY_S = 0.5
STOP_S = 15.0


@attrs.define
class Scene:
    """What the audience sees; every number is asked of the processes, none is made up here."""

    began: float
    cloud_url: str = ""
    device_url: str = ""
    act: str = "starting"
    wire: str = "up"
    device: dict[str, Any] = attrs.Factory(dict)
    stored: int = 0
    lines: list[str] = attrs.Factory(list)
    plain: bool = False

    def tell(self, line: str) -> None:
        """One line of the story, with the seconds since the start."""
        self.act = line
        self.lines.append(f"{time.monotonic() - self.began:5.1f} s  {line}")
        if self.plain:
            print(self.lines[-1], flush=True)

    def table(self) -> Table:
        """The live view."""
        view = Table(title="Holdfast demo", show_header=False, expand=False, min_width=64)
        view.add_row("now", self.act)
        view.add_row("wire", self.wire)
        view.add_row("device", self._device_row())
        view.add_row("cloud", f"{self.stored} predictions stored")
        for line in self.lines[-8:]:
            view.add_row("", line)
        return view

    def _device_row(self) -> str:
        if not self.device:
            return "not running"
        return (
            f"{self.device['frames']} frames seen, {self.device['inference_ms']:.1f} ms each;"
            f" {self.device['pending']} waiting on disk; link {self.device['link']['state']}"
        )

    def figures(self) -> str:
        """The same, in one plain line."""
        return f"device: {self._device_row()} | cloud: {self.stored} stored"


@click.command()
@click.option("--keep", is_flag=True, help="Leave cloud and device running afterwards, and say where to look.")
def demo(*, keep: bool) -> None:
    """Show it all in a minute: an outage, a kill -9, a recovery, and the audit that proves nothing was lost.

    Starts a cloud on a free loopback port and a device on the sample frames, in a temporary folder. Exit code 0 only
    if nothing is missing.
    """
    exit_code = 2
    try:
        exit_code = trio.run(run_demo, keep)
    except* KeyboardInterrupt:
        print("interrupted; cloud and device are stopped", file=sys.stderr)
    sys.exit(exit_code)


async def run_demo(keep: bool) -> int:
    """The whole play. Returns the exit code: 0 only if nothing is missing."""
    terminal = Console()
    scene = Scene(time.monotonic(), plain=not terminal.is_terminal)
    with tempfile.TemporaryDirectory(prefix="holdfast-demo-") as folder:
        home = Path(folder)
        live: Any = contextlib.nullcontext() if scene.plain else Live(get_renderable=scene.table, refresh_per_second=4)
        try:
            with live:
                audit = await play(home, scene, keep=keep)
        except DemoFailed as exc:
            print(f"error: {exc}\n{logs_of(home)}", file=sys.stderr)
            return 1
    show(audit, terminal)
    return 0 if audit.good and audit.accepted and not audit.waiting else 1


class DemoFailed(Exception):
    """A process did not do its part in time; the text says which and what."""


async def play(home: Path, scene: Scene, *, keep: bool) -> Finding:
    """Start, cut, kill, start again, heal, drain, stop, count."""
    async with running(
        home / "cloud.log", ["-m", "cloud", "--bind", "127.0.0.1:0", "--database", str(home / "cloud.db")]
    ):
        scene.cloud_url = await cloud_url(scene, home / "cloud.log")
        scene.tell(f"cloud listens on {scene.cloud_url}")
        async with trio.open_nursery() as nursery, httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
            proxy = Proxy("127.0.0.1", int(scene.cloud_url.rpartition(":")[2]))
            port = await nursery.start(proxy.serve)
            nursery.start_soon(watch, scene, client, proxy)
            device = partial(running_device, home, scene, f"http://127.0.0.1:{port}/log")
            async with device() as process:
                scene.tell("device started on the sample frames; its model is loading")
                await until(scene, lambda: scene.stored > 0, START_S, "no prediction reached the cloud")
                scene.tell("predictions arrive")
                await trio.sleep(ONLINE_S)
                proxy.sever()
                scene.tell("the network is cut; the device works on")
                await trio.sleep(CUT_BEFORE_KILL_S)
                waiting = scene.device.get("pending", 0)
                process.kill()
                await process.wait()
                scene.tell(f"kill -9 on the device, with {waiting} predictions that only its disk has")
            async with device():
                await until(scene, lambda: bool(scene.device), START_S, "the device did not come back")
                scene.tell(f"device started again: {recovered(home)}")
                await trio.sleep(CUT_AFTER_START_S)
                proxy.heal()
                scene.tell(f"the network is back; {scene.device.get('pending', 0)} predictions wait to go home")
                await until(scene, lambda: scene.device.get("pending", 1) < 10, DRAIN_S, "the backlog did not drain")
                scene.tell("the backlog is drained")
                if keep:
                    await stay(scene)
                scene.tell("stopping the device: the last batch is offered, everything is flushed")
            audit = await find(home, scene.cloud_url, client)
            nursery.cancel_scope.cancel()
    return audit


@contextlib.asynccontextmanager
async def running(log: Path, command: list[str], env: dict[str, str] | None = None) -> AsyncIterator[trio.Process]:
    """A Python process of ours; SIGTERM at the end, SIGKILL if that does not help."""
    with log.open("ab") as output:
        process = await trio.lowlevel.open_process(
            [sys.executable, *command],
            cwd=ROOT,
            env=os.environ | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a Ctrl-C in the terminal is for the demo, which then stops the others in order
        )
    try:
        yield process
        if process.poll() is None:
            process.terminate()
        with trio.move_on_after(STOP_S):
            await process.wait()
    finally:
        if process.poll() is None:
            process.kill()


@contextlib.asynccontextmanager
async def running_device(home: Path, scene: Scene, endpoint: str) -> AsyncIterator[trio.Process]:
    """`python app.py` with the settings of the demo."""
    log = home / "device.log"
    begins_at = log.stat().st_size if log.exists() else 0
    settings = {
        "CLOUD_LOGGING_ENDPOINT": endpoint,
        "EDGE_DEVICE_ID": DEVICE,
        "BUFFER_DB_PATH": str(home / "buffer.db"),
        "BATCH_TIMEOUT_SECONDS": "1",
        "SOURCES": "samples",
        "STATUS_BIND": "127.0.0.1:0",
    }
    async with running(log, ["app.py"], settings) as process, trio.open_nursery() as nursery:
        nursery.start_soon(find_device, scene, log, begins_at)
        try:
            yield process
        finally:
            nursery.cancel_scope.cancel()
            scene.device_url, scene.device = "", {}


async def find_device(scene: Scene, log: Path, begins_at: int) -> None:
    """Learn from the device's log where it answers."""
    while not scene.device_url:
        await trio.sleep(0.1)
        for event in events(log, begins_at):
            if event.get("event") == "status_endpoint":
                scene.device_url = event["url"]


async def cloud_url(scene: Scene, log: Path) -> str:
    """Learn from the cloud's first line where it listens."""

    def found() -> list[str]:
        return [word for word in log.read_text().split() if word.startswith("http://127.0.0.1:")]

    await until(scene, found, START_S, "the cloud did not start")
    return found()[0]


async def watch(scene: Scene, client: httpx.AsyncClient, proxy: Proxy) -> None:
    """Ask cloud and device how they are, for ever."""
    told = 0.0
    while True:
        scene.wire = "up" if proxy.mode is Mode.UP else "CUT"
        scene.stored = (await ask(client, f"{scene.cloud_url}/stats")).get("total_predictions", scene.stored)
        if scene.device_url:
            scene.device = await ask(client, scene.device_url)
        if scene.plain and time.monotonic() - told >= 2.0:
            told = time.monotonic()
            print(f"         {scene.figures()}", flush=True)
        await trio.sleep(LOOK_EVERY_S)


async def ask(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """A GET; nothing where nobody answers."""
    try:
        return dict((await client.get(url)).json())
    except httpx.TransportError:
        return {}


async def until(scene: Scene, reached: Callable[[], object], within_s: float, otherwise: str) -> None:
    """Wait for the scene to get there."""
    with trio.move_on_after(within_s):
        while not reached():  # noqa: ASYNC110 - it asks other processes, which set no event
            await trio.sleep(0.1)
        return
    raise DemoFailed(f"{otherwise} within {within_s:.0f} s ({scene.figures()})")


async def stay(scene: Scene) -> None:
    """Until Ctrl-C."""
    scene.tell(f"left running: {scene.cloud_url}/predictions, {scene.cloud_url}/devices/{DEVICE}/audit,")
    scene.tell(f"the device itself: {scene.device_url}   (Ctrl-C ends it)")
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            break


async def find(home: Path, cloud: str, client: httpx.AsyncClient) -> Finding:
    """The device's books against the cloud's, number by number: what `app.py audit` does."""
    account = read_account(home / "buffer.db")
    return compare(account, {DEVICE: (await client.get(f"{cloud}/devices/{DEVICE}/audit")).json()})


def show(finding: Finding, terminal: Console) -> None:
    """The proof, in numbers."""
    if terminal.is_terminal:
        table = Table(title="Audit: the device's books against the cloud's", show_header=False)
        for name, value in attrs.asdict(finding).items():
            table.add_row(name.replace("_", " "), str(value or 0))
        terminal.print(table)
    print(f"audit: {finding.sentence()}", flush=True)


def recovered(home: Path) -> str:
    """What the device's last start said of its recovery."""
    found = [event["summary"] for event in events(home / "device.log", 0) if event.get("event") == "recovered"]
    return str(found[-1]) if found else "nothing to recover"


def events(log: Path, begins_at: int) -> Iterator[dict[str, Any]]:
    """The JSON lines of a log."""
    for line in log.read_bytes()[begins_at:].decode(errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            event = json.loads(line)
            if isinstance(event, dict):
                yield event


def logs_of(home: Path) -> str:
    """The last lines of both processes, for whoever must find out why."""
    return "\n".join(
        "\n".join((f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-15:]))
        for log in sorted(home.glob("*.log"))
    )
