"""`python -m cloud keys`: make, list and revoke the keys of a running service."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import click
import msgspec

from cloud.keyring import Entry, KeysWrong, changing, new_secret, read_entries
from cloud.keys import Scope, digest_of
from cloud.settings import API_KEYS_FILE

NAME_CHARS_MAX = 256


@click.group()
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path),
    envvar=API_KEYS_FILE,
    show_envvar=True,
    help="The file of keys that the service reads.",
)
@click.pass_context
def keys(ctx: click.Context, path: Path | None) -> None:
    """Make, list and revoke keys; a running service follows within a second or two."""
    ctx.obj = path


@keys.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice([scope.value for scope in Scope]),
    multiple=True,
    default=(Scope.INGEST.value,),
    show_default=True,
    help="What it is good for: to send predictions, to read everything. May be given twice.",
)
@click.option("--device", metavar="ID", help="The only device that it may speak for.")
@click.pass_obj
def add(path: Path | None, name: str, scopes: tuple[str, ...], device: str | None) -> None:
    """Make a key called NAME; its secret is printed once and kept nowhere."""
    path = _named(path)
    wanted = tuple(dict.fromkeys(Scope(scope) for scope in scopes))
    for option, text in (("NAME", name), ("--device", device)):
        if text is not None and not (0 < len(text) <= NAME_CHARS_MAX and text.isprintable()):
            _fail(f"{option}: takes 1 to {NAME_CHARS_MAX} printable characters")
    if device is not None and Scope.READ in wanted:
        _fail("--device: a key for reading reads every device; make a second key for that")
    secret = new_secret()
    with _changing(path) as lines:
        if name in {entry.name for entry in read_entries("\n".join(lines)) if isinstance(entry, Entry)}:
            _fail(f"NAME: {name!r} is taken; revoke it first, or take another name")
        made = Entry(
            name=name,
            sha256=digest_of(secret).hex(),
            scopes=wanted,
            device=device,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        lines.append(msgspec.json.encode(made).decode())
    click.echo(f"{name}: {_terms(made)}, in {path}; the secret is shown this once:", err=True)
    click.echo(secret)


@keys.command("list")
@click.pass_obj
def list_(path: Path | None) -> None:
    """List the keys, without their secrets."""
    path = _named(path)
    if not path.exists():
        _fail(f"{path}: no keys yet; make one: python -m cloud keys add NAME")
    try:
        entries = read_entries(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, KeysWrong) as exc:
        _fail(f"{path}: {exc}")
    for entry in entries:
        if isinstance(entry, Entry):
            click.echo(f"{entry.name}: {_terms(entry)}, made {entry.created_at or 'at an unknown time'}")
        elif entry is not None:
            click.echo(f"{entry.name}: ingest and read, in plain text")


@keys.command()
@click.argument("name")
@click.pass_obj
def revoke(path: Path | None, name: str) -> None:
    """Revoke the key called NAME."""
    path = _named(path)
    with _changing(path) as lines:
        for index, entry in enumerate(read_entries("\n".join(lines))):
            if isinstance(entry, Entry) and entry.name == name:
                del lines[index]
                break
        else:
            _fail(f"NAME: no key is called {name!r}; python -m cloud keys list shows them")
    click.echo(f"{name}: revoked", err=True)


def _named(path: Path | None) -> Path:
    """The file, asked for only here, so that `--help` needs none."""
    if path is None:
        _fail(f"{API_KEYS_FILE}: not set; takes the file of keys that the service reads (or give --file)")
    return path.expanduser()


def _terms(entry: Entry) -> str:
    return f"{' and '.join(entry.scopes)}{f', for {entry.device!r} alone' if entry.device else ''}"


@contextmanager
def _changing(path: Path) -> Iterator[list[str]]:
    try:
        with changing(path) as lines:
            yield lines
    except (OSError, KeysWrong) as exc:
        _fail(f"{path}: {exc}")


def _fail(message: str) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(2)
