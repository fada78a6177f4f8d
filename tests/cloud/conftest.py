"""The two stores that the contract of a ledger is held against."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import psycopg
import pytest

from chaos.postgres import Postgres, postgres
from cloud.ledger.lane import run_inline
from cloud.ledger.postgres import open_postgres
from cloud.ledger.sqlite import open_ledger
from tests.places import MEMORY_DISK

Opener = Callable[..., AbstractAsyncContextManager[Any]]
numbers = itertools.count()


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    """One server a session; it fails the tests where it can't start."""
    with postgres("fsync=off", "max_connections=60", "shared_buffers=32MB", folder=MEMORY_DISK) as started:
        yield started


@pytest.fixture
def database(server: Postgres) -> str:
    """The URL of a database that nobody has used yet."""
    name = f"ledger_{next(numbers)}"
    with psycopg.connect(server.url(), autocommit=True) as db:
        db.execute(f"CREATE DATABASE {name}".encode())
    return server.url(name)


@pytest.fixture(params=["sqlite", "postgres"])
def opened(request, folder) -> Opener:
    """Opens an empty ledger with the knobs that both stores take; opened again, it is the same one."""
    if request.param == "postgres":
        return partial(open_postgres, request.getfixturevalue("database"))
    return partial(open_ledger, str(folder / "cloud.db"), run_sync=run_inline, synchronous="OFF")
