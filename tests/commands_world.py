"""What the tests of the commands share: a clean environment, a buffer with something in it, and the runner."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from click.testing import CliRunner, Result

from actors.messages import Entry, Fate, Outcome
from actors.ports.opening import StoreOptions
from actors.ports.store import Store
from app import main
from cloud.wire import encode_prediction
from tests.world import prediction

NOBODY = "http://127.0.0.1:9/log"
"""The discard port: nobody listens there."""
SENT_AT = 1_700_000_000.0


@attrs.define
class Shell:
    """An operator's shell: `run("buffer", "list")`."""

    folder: Path
    settings: dict[str, object] = attrs.Factory(dict)

    @property
    def db_path(self) -> Path:
        return self.folder / "buffer.db"

    def environment(self) -> dict[str, str]:
        """A clean one: nothing of whoever runs the tests."""
        own = {"BUFFER_DB_PATH": self.db_path, "CLOUD_LOGGING_ENDPOINT": NOBODY, "EDGE_DEVICE_ID": "cam"}
        system = {"PATH": os.defpath, "HOME": self.folder, "STATUS_BIND": "127.0.0.1:0", "TZ": "UTC"}
        return {name: str(value) for name, value in (system | own | self.settings).items()}

    def run(self, *words: object) -> Result:
        """Whatever it ends with; a traceback is never an answer."""
        done = CliRunner(env=dict.fromkeys(os.environ) | self.environment()).invoke(main, [str(word) for word in words])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert "Traceback" not in done.output
        return done

    def said(self, *words: object) -> str:
        """What it says when all goes well."""
        done = self.run(*words)
        assert done.exit_code == 0, done.output
        return done.stdout

    def json(self, *words: object) -> Any:
        """The same as JSON."""
        return json.loads(self.said(*words, "--json"))

    def refused(self, *words: object, code: int = 2) -> str:
        """What it says when an operator has something to mend."""
        done = self.run(*words)
        assert done.exit_code == code, done.output
        return done.stderr

    def rows(self) -> dict[int, str]:
        """Number and status of all rows, as the command tells them."""
        return {row["id"]: row["status"] for row in self.json("buffer", "list", "--oldest", "-n", 1_000_000)}


def options(db_path: Path, **changes: Any) -> StoreOptions:
    fields: dict[str, Any] = {
        "db_path": db_path,
        "capacity_bytes": 64 << 20,
        "cleanup_days": 7.0,
        "journal": True,
        "now": lambda: SENT_AT,
        "new_id": lambda _: "stream",
        "sync": lambda _: None,
    }
    return StoreOptions(**fields | changes)


def fill(store: Store, count: int, *, sent: Sequence[int] = (), failed: Sequence[int] = ()) -> None:
    """So many predictions, of which some were confirmed and some refused."""
    store.accept([Entry(f"frame_{n}", SENT_AT + n, encode_prediction(prediction(n))) for n in range(1, count + 1)])
    store.settle([Outcome(Fate.SENT, tuple(sent)), Outcome(Fate.QUARANTINED, tuple(failed), "detections: too many")])


def make_buffer(db_path: Path, count: int, **settled: Sequence[int]) -> None:
    """A buffer that a device has left."""
    store = Store.open("cam", options(db_path))
    fill(store, count, **settled)
    store.close()
