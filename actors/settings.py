"""Settings: one frozen value read from flags, environment and `holdfast.toml`, where all that is wrong is told at once.

A field's name in upper case is its environment name, in lower case its TOML key. A flag beats the environment, the
environment beats TOML, TOML beats the default. Bounds hold however a `Settings` is made, also directly.
"""

# ruff: noqa: RUF009 - the calls below describe fields; none makes a value that instances would share

import difflib
import enum
import os
import platform
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs

from actors import values
from cloud.wire import BATCH_RECORDS_MAX

T = TypeVar("T")

BUFFER_MB_MIN = 16
"""Two journal segments of 8 MiB: one being written, one on its way into SQLite."""
DEVICE_ID_CHARS_MAX = 256
API_KEY_CHARS_MAX = 4_096
TYPO_RATIO = 0.8
"""How alike two names must be before one is taken for a typo of the other (`difflib`'s ratio)."""


class SettingsError(ValueError):
    """Settings can't be used; `problems` has a sentence for each, with its name, its origin and what it takes."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = "1 setting is wrong:" if count == 1 else f"{count} settings are wrong:"
        super().__init__("\n  ".join((head, *self.problems)))


class WhenFull(enum.Enum):
    """What happens to a new prediction when the buffer has reached `BUFFER_MAX_SIZE_MB`."""

    BLOCK = "block"
    """Wait. `log()` returns when space is free again, so inference stands still behind it. Nothing is ever given up;
    right wherever every image counts and the line can be held."""
    DROP_OLDEST = "drop_oldest"
    """Give up the oldest pending predictions to make room. Inference never waits; what was given up is counted, and
    the cloud learns its numbers. Right for live cameras where the latest picture matters most."""
    DROP_NEWEST = "drop_newest"
    """Turn the new prediction away before it gets a number, and count it. Inference never waits; what was accepted
    stays. Right where the beginning of an incident is what will be asked for."""


class DetectorKind(enum.Enum):
    """What runs the model."""

    AUTO = "auto"
    """Ultralytics where it is installed, plain ONNX Runtime where not."""
    ULTRALYTICS = "ultralytics"
    """Any file that Ultralytics can load. Some 6 GB of packages, 600 MB of memory."""
    ONNXRUNTIME = "onnxruntime"
    """`.onnx` files only. Some 150 MB of packages, 100 MB of memory; the same boxes."""


class AfterAccept(enum.Enum):
    """What happens to an image file in a watched folder once its prediction is durable."""

    KEEP = "keep"
    """It stays where it is, and is not read again."""
    MOVE = "move"
    """It moves into the folder `accepted` beside it."""
    DELETE = "delete"
    """It is gone. Right where the image itself is of no use afterwards, and the disk is small."""


_SECONDS = values.number(0, 86_400, above=True)
_KEY = values.key(API_KEY_CHARS_MAX)


def _convert(value: object, field: "attrs.Attribute[Any]") -> object:
    about: values.About = field.metadata["about"]
    try:
        return about.kind.read(value)
    except ValueError:
        raise SettingsError([about.complaint(field.name, "given in code", value)]) from None


def _setting(kind: values.Kind[T], default: T, unit: str, sentence: str, *, secret: bool = False, alias: str = "") -> T:
    return attrs.field(
        default=default,
        converter=attrs.Converter(_convert, takes_field=True),
        repr=lambda value: values.MASK if secret and value is not None else values.mask(repr(value)),
        metadata={"about": values.About(kind, unit, sentence, secret=secret, alias=alias)},
    )


def default_buffer_path(environ: Mapping[str, str]) -> Path:
    """`$XDG_STATE_HOME/holdfast/buffer.db`, or the same below `~/.local/state`."""
    state = Path(environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():  # the XDG rule: a relative one is ignored
        state = (Path(environ["HOME"]) if environ.get("HOME") else Path.home()) / ".local" / "state"
    return state / "holdfast" / "buffer.db"


def _host_name() -> str:
    return platform.node()[:DEVICE_ID_CHARS_MAX] or "edge-device"


@attrs.frozen(kw_only=True)
class Settings:
    """What the operator decided. Durations are seconds unless the name says otherwise; `repr` shows no secret."""

    cloud_logging_endpoint: str = _setting(
        values.ADDRESS, "http://127.0.0.1:8001/log", "address", "Where predictions are posted: the address of /log."
    )
    cloud_logging_api_key: str | None = _setting(
        values.optional(_KEY, "none"), None, "", "The bearer key that the cloud asks for.", secret=True, alias="API_KEY"
    )
    cloud_logging_api_key_file: Path | None = _setting(
        values.optional(values.PATH, "none"), None, "path", "A file that holds the key, instead of the key itself."
    )
    cloud_logging_enabled: bool = _setting(
        values.SWITCH, True, "", "Whether predictions are sent; if not, they are made durable and stay pending."
    )
    edge_device_id: str = _setting(
        values.text(DEVICE_ID_CHARS_MAX),
        attrs.Factory(_host_name),
        "",
        "The name of this device in the cloud; the default is the host name.",
    )
    batch_size: int = _setting(values.whole(1, BATCH_RECORDS_MAX), 32, "predictions", "A batch closes at so many.")
    batch_timeout_seconds: float = _setting(_SECONDS, 10.0, "seconds", "A batch closes so long after its first one.")
    max_retries: int = _setting(values.whole(0, 100), 3, "attempts", "How often a live batch is tried again at once.")
    retry_backoff_multiplier: float = _setting(
        values.number(1, 100), 2.0, "", "The n-th retry waits at most this number to the power of n, in seconds."
    )
    timeout_seconds: float = _setting(_SECONDS, 30.0, "seconds", "How long one POST may take from end to end.")
    recovery_max_per_second: float | None = _setting(
        values.optional(values.number(0, 1_000_000, above=True), "none"),
        None,
        "predictions per second",
        "The fastest that a backlog is sent; 'none' leaves it to what the cloud takes.",
    )
    connectivity_interval_seconds: float = _setting(
        _SECONDS, 30.0, "seconds", "How often the link is probed when nothing else tells whether it is up."
    )
    connectivity_timeout_seconds: float = _setting(_SECONDS, 5.0, "seconds", "How long a probe waits for its answer.")
    buffer_db_path: Path = _setting(
        values.PATH,
        attrs.Factory(lambda: default_buffer_path(os.environ)),
        "path",
        "The buffer's SQLite file; its folder holds the journal and the quarantine too.",
    )
    buffer_max_size_mb: int = _setting(
        values.whole(BUFFER_MB_MIN, 16_000_000), 500, "MiB", "The most disk that buffer, journal and quarantine use."
    )
    buffer_cleanup_days: float = _setting(
        values.number(0, 36_500), 7.0, "days", "How long sent predictions stay in the buffer; 0 keeps none."
    )
    buffer_when_full: WhenFull = _setting(
        values.choice(WhenFull), WhenFull.BLOCK, "", "What happens to a new prediction when the buffer is full."
    )
    enable_session_buffering: bool = _setting(
        values.SWITCH, True, "", "Whether accepted predictions are committed in the journal, or straight in SQLite."
    )
    buffer_flush_interval: int = _setting(
        values.whole(1, 100_000), 1, "predictions", "How many a group waits for before its fsync; receipts wait too."
    )
    buffer_flush_ms: float = _setting(
        values.number(0, 60_000), 100.0, "milliseconds", "The longest that a group waits for BUFFER_FLUSH_INTERVAL."
    )
    model_path: Path | None = _setting(
        values.optional(values.PATH, "built-in"), None, "path", "The YOLO model; the built-in one ships with us."
    )
    sources: tuple[str, ...] = _setting(
        values.SOURCES, ("samples",), "", "Where frames come from; 'samples' are the frames that ship with the device."
    )
    confidence: float = _setting(values.number(0, 1), 0.25, "fraction", "Detections below this are not reported.")
    iou: float = _setting(
        values.number(0, 1), 0.6, "fraction", "Of boxes of a class that overlap more than this, the best stays."
    )
    defect_classes: tuple[str, ...] | None = _setting(
        values.optional(values.NAMES, "all"), None, "", "The classes that make an image defective; 'all' of them."
    )
    detector: DetectorKind = _setting(
        values.choice(DetectorKind),
        DetectorKind.AUTO,
        "",
        "What runs the model; 'auto': Ultralytics if it is there.",
    )
    annotate_dir: Path | None = _setting(
        values.optional(values.PATH, "none"),
        None,
        "path",
        "Where the latest frames with boxes drawn are kept.",
    )
    after_accept: AfterAccept = _setting(
        values.choice(AfterAccept), AfterAccept.KEEP, "", "What becomes of a watched folder's file once it is durable."
    )
    camera_stall_seconds: float = _setting(
        _SECONDS, 15.0, "seconds", "A camera that gives no frame for so long is taken for stuck, and opened again."
    )
    shutdown_grace_seconds: float = _setting(
        _SECONDS, 10.0, "seconds", "How long a stop may take until everything accepted is safe and the rest is cut."
    )
    status_bind: str = _setting(
        values.BIND, "127.0.0.1:8000", "host:port", "Where the device answers GET /health and GET /status."
    )
    origins: Mapping[str, str] = attrs.field(factory=dict, eq=False, repr=False)
    """Where each value came from, by field name; what is not in it was left at its default."""
    warnings: tuple[str, ...] = attrs.field(default=(), eq=False, repr=False)
    """What looks like a mistake but refuses nothing."""


FIELDS: Mapping[str, values.About] = {
    field.name: field.metadata["about"] for field in attrs.fields(Settings) if "about" in field.metadata
}
"""What is known of every setting, by field name, in the order of the documents."""

# Read by the cloud or by other commands, so never a typo of ours.
_OTHERS = ("CLOUD_DATABASE_URL", "CLOUD_API_KEYS", "CLOUD_API_KEYS_FILE", "CLOUD_RETENTION_DAYS")


@attrs.frozen
class _Given:
    value: object
    origin: str


@attrs.frozen
class Row:
    """One line of the effective settings, fit to be shown: `value` holds no secret."""

    name: str
    value: str
    origin: str
    unit: str
    help: str


def describe(settings: Settings) -> tuple[Row, ...]:
    """Every setting by its environment name, with its value as a person may see it and where it came from."""
    return tuple(
        Row(
            name=name.upper(),
            value=about.show(getattr(settings, name)),
            origin=settings.origins.get(name, "default"),
            unit=about.unit,
            help=about.help,
        )
        for name, about in FIELDS.items()
    )


def load_settings(
    environ: Mapping[str, str], toml_path: Path | None = None, flags: Mapping[str, object] | None = None
) -> Settings:
    """The settings of this start; flags are keyed by field name, and None there means not given.

    Raises `SettingsError` with all that is wrong at once: values, TOML that does not parse, keys that don't exist, a
    key file that can't be read, a key given twice.
    """
    problems: list[str] = []
    given = _from_toml(toml_path, problems) | _from_environment(environ) | _from_flags(flags or {}, problems)
    read: dict[str, object] = {}
    for name, about in FIELDS.items():
        if name not in given:
            continue
        try:
            read[name] = about.kind.read(given[name].value)
        except ValueError:
            problems.append(about.complaint(name, given[name].origin, given[name].value))
    problems += _key_problems(read.get("cloud_logging_api_key"), read.get("cloud_logging_api_key_file"))
    if problems:
        raise SettingsError(problems)
    read.setdefault("buffer_db_path", default_buffer_path(environ))
    origins = {name: found.origin for name, found in given.items()}
    return Settings(**read, origins=origins, warnings=_likely_typos(environ))  # type: ignore[arg-type]


def _key_problems(key: object, key_file: object) -> tuple[str, ...]:
    if key and key_file:
        return ("CLOUD_LOGGING_API_KEY (or API_KEY) and CLOUD_LOGGING_API_KEY_FILE are both set: give one of the two",)
    try:
        if isinstance(key_file, Path):
            _check_key_file(key_file)
    except SettingsError as exc:
        return exc.problems
    return ()


def _check_key_file(path: Path) -> None:
    where = f"CLOUD_LOGGING_API_KEY_FILE: {str(path)!r}"
    try:
        with path.open(encoding="ascii") as file:
            _KEY.read(file.read(2 * API_KEY_CHARS_MAX))
    except OSError as exc:
        raise SettingsError([f"{where} can't be read: {exc.strerror}"]) from None
    except ValueError:
        raise SettingsError([f"{where} holds no usable key; it takes {_KEY.takes}"]) from None


def _from_flags(flags: Mapping[str, object], problems: list[str]) -> dict[str, _Given]:
    problems += [f"--{name.replace('_', '-')}: no such setting" for name in flags if name not in FIELDS]
    return {
        name: _Given(value, f"flag --{name.replace('_', '-')}")
        for name, value in flags.items()
        if value is not None and name in FIELDS
    }


def _from_environment(environ: Mapping[str, str]) -> dict[str, _Given]:
    """What the environment says; an empty variable counts as not set, as compose files produce them."""
    given = {}
    for name, about in FIELDS.items():
        for variable in (name.upper(), about.alias):
            if variable and environ.get(variable, "").strip() and name not in given:
                given[name] = _Given(environ[variable], f"environment {variable}" if about.alias else "environment")
    return given


def _from_toml(path: Path | None, problems: list[str]) -> dict[str, _Given]:
    if path is None:
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        problems.append(f"{path}: can't be read: {exc.strerror}")
        return {}
    except ValueError as exc:  # TOML's own error and bytes that are no UTF-8
        problems.append(f"{path}: is not valid TOML: {exc}")
        return {}
    aliases = {about.alias.lower(): name for name, about in FIELDS.items() if about.alias}
    known = {name: name for name in FIELDS} | aliases
    for stranger in sorted(table.keys() - known.keys()):
        close = difflib.get_close_matches(stranger.lower(), known, n=1, cutoff=0.6)
        problems.append(f"{stranger} ({path}): no such setting" + (f"; did you mean {close[0]}?" if close else ""))
    return {known[key]: _Given(value, str(path)) for key, value in table.items() if key in known}


def _likely_typos(environ: Mapping[str, str]) -> tuple[str, ...]:
    """A warning for each variable that reads like one of ours: the same first word, nearly the same name."""
    known = [name.upper() for name in FIELDS]
    prefixes = tuple({f"{name.split('_')[0]}_" for name in known if "_" in name})
    strangers = [n for n in environ if n.startswith(prefixes) and n not in known and n not in _OTHERS]
    close = {name: difflib.get_close_matches(name, known, n=1, cutoff=TYPO_RATIO) for name in sorted(strangers)}
    return tuple(f"{name} is not a setting of ours; did you mean {like[0]}?" for name, like in close.items() if like)
