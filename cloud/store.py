"""The ledger of the settings: one file of SQLite, or a PostgreSQL server."""

import importlib.util
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from cloud.ledger import Ledger, LedgerUnusable
from cloud.ledger.sqlite import open_ledger
from cloud.settings import PostgresUrl


def open_store(database: Path | PostgresUrl, *, retention_s: float) -> AbstractAsyncContextManager[Ledger]:
    """Opens and closes it. `LedgerUnusable` where it can't be opened, or what speaks to it is not installed."""
    if isinstance(database, Path):
        return open_ledger(str(database), retention_s=retention_s)
    if importlib.util.find_spec("psycopg") is None or importlib.util.find_spec("psycopg_pool") is None:
        raise LedgerUnusable(f"{database}: PostgreSQL needs more packages: pip install 'holdfast[postgres]'")
    from cloud.ledger.postgres import open_postgres  # noqa: PLC0415  (an extra)

    return open_postgres(database.secret, shown=str(database), retention_s=retention_s)
