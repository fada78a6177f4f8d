"""`watch`: the running device live in the terminal, in 80x24 or less; without a terminal a line a second."""

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from actors.commands.options import fail, with_settings
from actors.commands.status import ask, last_error_of, no_model
from actors.commands.words import bar, count, duration, size
from actors.settings import Settings

LOOK_EVERY_S = 1.0
BAR_CHARS = 18
BAR_CHARS_NARROW = 10
NARROW_CHARS = 72
NAME_CHARS = 10
GAP_CHARS = 2
GONE_S = 3.0
"""So long a device may be silent (it starts again, say) before the view says so."""
LINK_STYLES = {"up": "green", "down": "bold red", "refused": "bold red", "suspect": "yellow", "unknown": "yellow"}
Found = dict[str, Any]


@attrs.frozen
class View:
    """What is on the screen: the last answer, how old it is, and how much waited when the drain began."""

    found: Found
    age_s: float = 0.0
    drain_from: int = 0


def follow(before: View | None, found: Found | None, passed_s: float) -> View | None:
    """The view after a look: of a device that does not answer the last answer stays, and ages. Pure."""
    if found is None:
        return None if before is None else attrs.evolve(before, age_s=before.age_s + passed_s)
    backlog = found["pending"] + found["recovery_sent"]
    drain_from = max(before.drain_from, backlog) if before and found["recovery_active"] else backlog
    return View(found, 0.0, drain_from)


@click.command()
@click.option("--once", is_flag=True, help="Show it once and end.")
@with_settings("buffer_db_path", "status_bind")
def watch(settings: Settings, *, once: bool) -> None:
    """Watch the running device live; q or Ctrl-C ends it.

    Fits into 80x24, over ssh too. Where the output is no terminal, it writes a line a second instead.
    """
    console = Console(highlight=False)
    view = follow(None, ask(settings), 0.0)
    if view is None:
        fail(
            f"no device runs on {settings.buffer_db_path}, and none answers on STATUS_BIND {settings.status_bind};"
            " start it, or see what its buffer holds with `status`"
        )
    with contextlib.suppress(KeyboardInterrupt):
        if once:
            console.print(screen(view, console.width, console.height, live=False))
        elif console.is_terminal:
            _live(console, settings, view)
        else:
            _lines(settings, view)


def _live(console: Console, settings: Settings, view: View) -> None:
    with (
        keys() as pressed,
        Live(screen(view, console.width, console.height), console=console, screen=True, auto_refresh=False) as live,
    ):
        while True:
            looked_at = time.monotonic()
            if pressed(LOOK_EVERY_S) in ("q", "Q", "\x03", "\x04"):
                return
            view = follow(view, ask(settings), time.monotonic() - looked_at) or view
            live.update(screen(view, console.width, console.height), refresh=True)


def _lines(settings: Settings, view: View) -> None:
    while True:
        click.echo(line(view))
        sys.stdout.flush()
        looked_at = time.monotonic()
        time.sleep(LOOK_EVERY_S)
        view = follow(view, ask(settings), time.monotonic() - looked_at) or view


@contextlib.contextmanager
def keys() -> Iterator[Callable[[float], str]]:
    """A function that waits so many seconds for a key, and says which one came; restores the terminal at the end."""
    if not sys.stdin.isatty():
        yield _no_key
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        # Ctrl-C is a key like q: as a signal in the middle of a repaint it would leave the other screen on, without
        # its cursor.
        ours = termios.tcgetattr(descriptor)
        ours[6][termios.VINTR] = b"\x00"
        termios.tcsetattr(descriptor, termios.TCSADRAIN, ours)

        def pressed(seconds: float) -> str:
            ready, _, _ = select.select([descriptor], [], [], seconds)
            return os.read(descriptor, 1).decode("latin-1") if ready else ""

        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _no_key(seconds: float) -> str:
    time.sleep(seconds)
    return ""


def line(view: View) -> str:
    """The view in one line, for a file or a pipe."""
    found = view.found
    if view.age_s > GONE_S:
        return f"{found['edge_device_id']}: no answer for {duration(view.age_s)}"
    parts = [
        f"link {found['link']['state']}",
        _frames(found),
        f"{found['inference_ms']:.1f} ms",
        f"{count(found['pending'])} waiting",
        f"{count(found['sent'])} sent",
        f"disk {found['capacity_percent']:.0f} %",
        *(f"ALERT {name}" for name in found["alerts"]),
    ]
    return f"{found['edge_device_id']}: {', '.join(parts)}"


def screen(view: View, width: int, height: int, *, live: bool = True) -> Group:
    """The view, cut to a terminal of that size."""
    found = view.found
    rows = Table.grid(padding=(0, GAP_CHARS))
    rows.add_column(style="dim", no_wrap=True, min_width=NAME_CHARS)
    rows.add_column(no_wrap=True)
    for name, text in _rows(view, BAR_CHARS if width >= NARROW_CHARS else BAR_CHARS_NARROW):
        rows.add_row(name, _cut(text, width - NAME_CHARS - GAP_CHARS))
    parts: list[Any] = [_head(view, width), Text(""), rows, Text("")]
    room = height - len(rows.rows) - 5
    parts += [_cut(text, width) for text in _troubles(found)[: max(room, 1)]]
    if live:
        parts.append(_cut(Text("q or Ctrl-C ends this; the device goes on", style="dim"), width))
    return Group(*parts)


def _cut(text: Text, width: int) -> Text:
    text.truncate(width, overflow="ellipsis")
    return text


def _head(view: View, width: int) -> Text:
    found = view.found
    head = Text(found["edge_device_id"], style="bold")
    if view.age_s > GONE_S:
        head.append(f"  no answer for {duration(view.age_s)}; below is the last one", style="bold red")
    elif not found["healthy"]:
        head.append(f"  failing: {'; '.join(found['failing'])}", style="bold red")
    elif not found["ready"]:
        head.append(f"  not ready: {'; '.join(found['unready'])}", style="yellow")
    else:
        head.append("  ready", style="green")
    return _cut(head, width)


def _rows(view: View, bar_chars: int) -> list[tuple[str, Text]]:
    found = view.found
    link = found["link"]
    said = Text(f"{link['state']}", style=LINK_STYLES.get(link["state"], ""))
    said.append(f" for {duration(link['for_s'])}", style="default")
    if link["reason"] and not found["is_connected"]:
        said.append(f": {link['reason']}", style="dim")
    model = f"{found['model']} {found['model_version']}" if found["model_version"] else no_model(found)
    vision = f"{_frames(found)}   {found['inference_ms']:.1f} ms each   model {model}"
    waiting = count(found["pending"])
    if found["oldest_pending_age_s"] is not None:
        waiting += f", the oldest for {duration(found['oldest_pending_age_s'])}"
    rows = [("link", said), ("vision", Text(vision)), ("waiting", Text(waiting)), ("drain", _drain(view, bar_chars))]
    traffic = f"{count(found['sent'])} ({found['delivered_per_s']:.1f}/s), accepted {count(found['last_seq'])}"
    rows.append(("sent", Text(f"{traffic} ({found['accepted_per_s']:.1f}/s)")))
    refused = f"{count(found['failed'])} quarantined, {count(found['evicted'])} evicted, {count(found['turned_away'])}"
    rows.append(("given up", Text(f"{refused} turned away")))
    rows.append(("disk", _disk(found, bar_chars)))
    rows.append(("last error", Text(last_error_of(found))))
    return rows


def _frames(found: Found) -> str:
    skipped = f", {count(found['skipped'])} skipped" if found["skipped"] else ""
    return f"{found['frames_per_s']:.1f} frames/s{skipped}"


def _drain(view: View, bar_chars: int) -> Text:
    found = view.found
    if not found["recovery_active"]:
        return Text("nothing to catch up with" if not found["pending"] else "not running", style="dim")
    done = found["recovery_sent"] / view.drain_from if view.drain_from else 0.0
    text = Text(bar(done, bar_chars), style="cyan")
    text.append(f" {100 * done:3.0f} %  {found['recovery_per_s']:,.0f}/s", style="default")
    if found["recovery_eta_s"] is not None:
        text.append(f"  {duration(found['recovery_eta_s'])} left", style="default")
    return text


def _disk(found: Found, bar_chars: int) -> Text:
    part = found["capacity_percent"] / 100
    text = Text(bar(part, bar_chars), style="red" if part > 0.9 else "yellow" if part > 0.75 else "green")
    used, cap = (size(found[name] * 2**20) for name in ("size_mb", "capacity_mb"))
    text.append(f" {found['capacity_percent']:3.0f} %", style="default")
    # Where there is no room for both, how long it lasts matters more than how many bytes that is.
    if bar_chars > BAR_CHARS_NARROW or found["full_in_s"] is None:
        text.append(f"  {used} of {cap}", style="default")
    if found["full_in_s"] is not None:
        text.append(f"  full in {duration(found['full_in_s'])}", style="yellow")
    return text


def _troubles(found: Found) -> list[Text]:
    """Alerts first, then what else an operator would ask about."""
    texts = [
        Text(f"! {name} for {duration(alert['for_s'])}: {alert['detail']}", style="bold red")
        for name, alert in found["alert_details"].items()
    ]
    texts += [Text(f"camera down: {name}", style="yellow") for name in found["cameras_down"]]
    texts += [
        Text(f"unreadable: {name}: {reason}", style="yellow") for name, reason in found["unreadable_last"].items()
    ]
    return texts
