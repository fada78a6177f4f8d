"""The service's settings: read from the environment and the command line, and refused all at once if wrong."""

import functools
import ipaddress
import math
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

import attrs

from cloud.keyring import Keyring, KeysWrong, is_sendable
from cloud.keys import Keys
from cloud.limits import Limits

DATABASE = "CLOUD_DATABASE_URL"
DATABASE_FILE = "CLOUD_DATABASE_URL_FILE"
URL_BYTES_MAX = 4_096
API_KEYS = "CLOUD_API_KEYS"
API_KEYS_FILE = "CLOUD_API_KEYS_FILE"
RETENTION = "CLOUD_RETENTION_DAYS"
DEVICE_RATE = "CLOUD_DEVICE_REQUESTS_PER_SECOND"
REQUESTS_MAX = "CLOUD_REQUESTS_MAX"
RETENTION_DAYS = 90.0
RETENTION_DAYS_MAX = 36_500.0
DEVICE_RATE_MAX = 1e6
REQUESTS_MAX_MAX = 10_000
SECONDS_A_DAY = 86_400.0
BIND = "127.0.0.1:8001"


class SettingsWrong(Exception):
    """Every wrong setting, one a line: its name, the value seen (secrets masked), what it takes."""

    def __init__(self, errors: tuple[str, ...]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


@attrs.frozen
class PostgresUrl:
    """Where a PostgreSQL server is; shown without its password."""

    secret: str = attrs.field(repr=False)

    def __str__(self) -> str:
        return mask_url(self.secret)


@attrs.frozen
class Settings:
    """What the service runs with. `repr` shows no secret: keys are hashes and hidden."""

    database: Path | PostgresUrl
    """The SQLite file, or the PostgreSQL server."""
    keyring: Keyring = attrs.field(repr=False, factory=Keyring)
    retention_days: float = RETENTION_DAYS
    limits: Limits = attrs.field(factory=Limits)
    host: str = "127.0.0.1"
    port: int = 8001

    @property
    def retention_s(self) -> float:
        """How long a prediction is kept after its arrival, in seconds."""
        return self.retention_days * SECONDS_A_DAY

    @property
    def bind(self) -> str:
        """Host and port as a server takes them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def default_database(env: Mapping[str, str]) -> Path:
    """`holdfast/cloud.db` in the user's state folder (`XDG_STATE_HOME`, else `~/.local/state`)."""
    state = env.get("XDG_STATE_HOME", "")
    folder = Path(state) if Path(state).is_absolute() else Path(env.get("HOME") or Path.home()) / ".local" / "state"
    return folder / "holdfast" / "cloud.db"


def read_settings(
    env: Mapping[str, str] = os.environ, *, bind: str | None = None, database: str | None = None
) -> Settings:
    """The settings of `env`; `bind` and `database` are the command line's and go first. `SettingsWrong` lists all."""
    errors: list[str] = []
    name, value = ("--database", database) if database else _database_of(env, errors)
    try:
        path = _database(name, value, errors) if value else default_database(env)
    except RuntimeError:  # a container's user that no passwd knows
        errors.append(f"{name}: {value!r}, and this user has no home folder; takes a path that says where")
        path = Path()
    keyring = _keys(env, errors)
    days = _number(env, RETENTION, RETENTION_DAYS, errors, takes="days", high=RETENTION_DAYS_MAX)
    limits = _limits(env, errors)
    host, port = _bind(bind or BIND, errors)
    # A key that could not be read still means that keys were wanted: one error then, not two.
    wanted = bool(env.get(API_KEYS) or env.get(API_KEYS_FILE))
    if not wanted and host and not is_loopback(host):
        errors.append(
            f"--bind: {host!r} is not loopback and no keys are set;"
            f" set {API_KEYS} or {API_KEYS_FILE}, or bind 127.0.0.1"
        )
    if errors:
        raise SettingsWrong(tuple(errors))
    return Settings(database=path, keyring=keyring, retention_days=days, limits=limits, host=host, port=port)


@functools.lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def own_names(bound: str = "") -> frozenset[str]:
    """What this machine calls itself, and what it was told to bind: names that nobody else can make lead here."""
    return frozenset({socket.gethostname().lower(), bound.lower()} - {""})


def mask_url(url: str) -> str:
    """The URL without its password, wherever it stands."""
    _, found, rest = url.partition("://")
    user, at, _ = rest.rpartition("@")
    if found and at and ":" in user:
        name, _, password = user.partition(":")
        url = url.replace(f"{name}:{password}@", f"{name}:***@", 1)
    return re.sub(r"((?:^|[?&])(?:ssl)?password=)[^&]*", r"\1***", url, flags=re.IGNORECASE)


def _database_of(env: Mapping[str, str], errors: list[str]) -> tuple[str, str]:
    """The setting that names the database, and what it says; a file keeps a password out of the environment."""
    source = env.get(DATABASE_FILE, "")
    if not source:
        return DATABASE, env.get(DATABASE, "")
    if env.get(DATABASE):
        errors.append(f"{DATABASE_FILE}: {source!r}, and {DATABASE} is set, too; takes one of them")
        return DATABASE_FILE, ""
    try:
        with Path(source).expanduser().open("rb") as file:
            value = file.read(URL_BYTES_MAX + 1).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        errors.append(f"{DATABASE_FILE}: {source!r} can't be read ({exc}); takes a file with one URL in it")
        return DATABASE_FILE, ""
    if not value or len(value) > URL_BYTES_MAX or len(value.splitlines()) > 1:
        errors.append(f"{DATABASE_FILE}: {source!r} does not hold one line; takes a file with one URL in it")
        return DATABASE_FILE, ""
    return DATABASE_FILE, value


def _database(name: str, value: str, errors: list[str]) -> Path | PostgresUrl:
    takes = (
        "takes sqlite:///relative.db, sqlite:////absolute.db, the path of a file,"
        " or postgresql://user:password@host:port/database"
    )
    scheme, found, rest = value.partition("://")
    if not found:
        if value == ":memory:":
            errors.append(f"{name}: {value!r} would lose everything at the end; {takes}")
        if re.search(r"\b(host|user|password|dbname)\s*=", value):  # libpq's other form, which is no name of a file
            errors.append(f"{name}: *** is no address of a database; {takes}")
        return Path(value).expanduser()
    if scheme in ("postgres", "postgresql"):
        return PostgresUrl(value)
    if scheme != "sqlite" or not rest.startswith("/") or rest in ("/", "//", "/:memory:"):
        errors.append(f"{name}: {mask_url(value)!r} is no database of ours; {takes}")
    return Path(unquote(rest[1:]) or ".")


def _keys(env: Mapping[str, str], errors: list[str]) -> Keyring:
    given = env.get(API_KEYS, "").replace(",", " ").split()
    if env.get(API_KEYS) and not given:
        errors.append(f"{API_KEYS}: *** holds no key; takes keys with commas between")
    errors += [
        f"{API_KEYS}: key {number} (***) has a character that no header can carry; takes printable ASCII"
        for number, secret in enumerate(given, 1)
        if not is_sendable(secret)
    ]
    source = env.get(API_KEYS_FILE, "")
    keyring = Keyring(Keys.of(given), Path(source).expanduser() if source else None)
    try:
        keyring.load()
    except (OSError, KeysWrong) as exc:
        errors.append(f"{API_KEYS_FILE}: {source!r} can't be used ({exc}); takes a file with one key a line")
    else:
        if keyring.current.needed and not keyring.current.known:
            errors.append(f"{API_KEYS_FILE}: {source!r} holds no key; python -m cloud keys add NAME makes one")
    return keyring


def _limits(env: Mapping[str, str], errors: list[str]) -> Limits:
    usual = Limits()
    rate = _number(
        env, DEVICE_RATE, usual.device_requests_per_s, errors, takes="requests a second", high=DEVICE_RATE_MAX
    )
    requests = _number(env, REQUESTS_MAX, usual.requests_max, errors, takes="requests", high=REQUESTS_MAX_MAX)
    if not requests.is_integer():
        errors.append(f"{REQUESTS_MAX}: {requests:g}; takes a whole number")
    return Limits(rate, int(requests))


def _number(env: Mapping[str, str], name: str, usual: float, errors: list[str], *, takes: str, high: float) -> float:
    """The number in `env`, above 0 and at most `high`; `usual` where none or a wrong one is set."""
    value = env.get(name, "")
    if not value:
        return float(usual)
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if 0 < number <= high:
        return number
    errors.append(f"{name}: {value[:40]!r}; takes a number of {takes} above 0, at most {high:.0f}")
    return float(usual)


def _bind(value: str, errors: list[str]) -> tuple[str, int]:
    host, _, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65_535:
        errors.append(f"--bind: {value!r}; takes HOST:PORT, as in {BIND} (port 0: any free one)")
        return "", 0
    return host, int(port)
