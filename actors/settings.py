"""Settings: what the operator may decide, one frozen value; each field with its unit, its bounds and a sentence.

A field's name in upper case is its environment name, in lower case its TOML key (`loading.py` reads them). Bounds hold
however a `Settings` is made, also directly.
"""

# ruff: noqa: RUF009 - the calls below describe fields; none makes a value that instances would share

import enum
import os
import platform
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


class RecoveryOrder(enum.Enum):
    """In which order a backlog is sent."""

    OLDEST = "oldest"
    """As it came: the cloud's picture of the past fills from its beginning."""
    NEWEST = "newest"
    """Latest first: whoever looks after an outage sees the present at once, and the past behind it."""


class LogLevel(enum.Enum):
    """What is logged: this, and all that is worse."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class AfterAccept(enum.Enum):
    """What happens to an image file in a watched folder once its prediction is durable."""

    KEEP = "keep"
    """It stays where it is, and is not read again."""
    MOVE = "move"
    """It moves into the folder `accepted` beside it."""
    DELETE = "delete"
    """It is gone. Right where the image itself is of no use afterwards, and the disk is small."""


_SECONDS = values.number(0, 86_400, above=True)
KEY = values.key(API_KEY_CHARS_MAX)
"""What a bearer key may be, from wherever it comes."""


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
    """`$XDG_STATE_HOME/holdfast/buffer.db`, or the same below `~/.local/state`. `SettingsError`: there is no home."""
    state = Path(environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():  # the XDG rule: a relative one is ignored
        try:
            home = Path(environ.get("HOME") or Path.home())
        except RuntimeError:  # a container's user that no passwd knows
            raise SettingsError(["BUFFER_DB_PATH: not set, and this user has no home folder; set it"]) from None
        state = home / ".local" / "state"
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
        values.optional(KEY, "none"),
        None,
        "",
        "The bearer key that the cloud asks for.",
        secret=True,
        alias="API_KEY",
    )
    cloud_logging_api_key_file: Path | None = _setting(
        values.optional(values.PATH, "none"),
        None,
        "path",
        "A file that holds the key, instead of the key itself.",
    )
    cloud_tls_ca_file: Path | None = _setting(
        values.optional(values.PATH, "system"), None, "path", "Whom to trust for https; the default is the system's."
    )
    cloud_tls_cert_file: Path | None = _setting(
        values.optional(values.PATH, "none"), None, "path", "The client certificate that the cloud asks for (mTLS)."
    )
    cloud_tls_key_file: Path | None = _setting(
        values.optional(values.PATH, "none"), None, "path", "Its key, unencrypted, where it is not in the same file."
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
        values.number(1, 100),
        2.0,
        "",
        "The n-th retry waits at most this number to the power of n, in seconds.",
    )
    timeout_seconds: float = _setting(_SECONDS, 30.0, "seconds", "How long one POST may take from end to end.")
    recovery_max_per_second: float | None = _setting(
        values.optional(values.number(0, 1_000_000, above=True), "none"),
        None,
        "predictions per second",
        "The fastest that a backlog is sent; 'none' leaves it to what the cloud takes.",
    )
    recovery_order: RecoveryOrder = _setting(
        values.choice(RecoveryOrder), RecoveryOrder.OLDEST, "", "Whether a backlog is sent oldest or newest first."
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
        values.optional(values.PATH, "built-in"),
        None,
        "path",
        "The YOLO model; the built-in one ships with us.",
    )
    sources: tuple[str, ...] = _setting(
        values.SOURCES, ("samples",), "", "Where frames come from; 'samples' are the frames that ship with the device."
    )
    confidence: float = _setting(values.number(0, 1), 0.25, "fraction", "Detections below this are not reported.")
    iou: float = _setting(
        values.number(0, 1),
        0.6,
        "fraction",
        "Of boxes of a class that overlap more than this, the best stays.",
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
    model_device: str = _setting(
        values.DEVICE, "auto", "", "Where the model runs; 'auto': on a graphics card if the runtime sees one."
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
        values.BIND,
        "127.0.0.1:8000",
        "host:port",
        "Where the device answers: /health, /ready, /status, /metrics, /predictions and its page.",
    )
    log_level: LogLevel = _setting(
        values.choice(LogLevel), LogLevel.INFO, "", "What is logged: this, and all that is worse."
    )
    alert_webhook_url: str | None = _setting(
        values.optional(values.ADDRESS, "none"),
        None,
        "address",
        "Where each alert is posted when it begins and when it ends; a secret, since many such addresses hold a token.",
        secret=True,
    )
    alert_webhook_url_file: Path | None = _setting(
        values.optional(values.PATH, "none"), None, "path", "A file that holds that address, instead of the address."
    )
    origins: Mapping[str, str] = attrs.field(factory=dict, eq=False, repr=False)
    """Where each value came from, by field name; what is not in it was left at its default."""
    warnings: tuple[str, ...] = attrs.field(default=(), eq=False, repr=False)
    """What looks like a mistake but refuses nothing."""


FIELDS: Mapping[str, values.About] = {
    field.name: field.metadata["about"] for field in attrs.fields(Settings) if "about" in field.metadata
}
"""What is known of every setting, by field name, in the order of the documents."""

LIVE = frozenset(
    {
        "batch_size",
        "batch_timeout_seconds",
        "max_retries",
        "retry_backoff_multiplier",
        "recovery_max_per_second",
        "recovery_order",
        "cloud_logging_api_key",
        "cloud_logging_api_key_file",
        "model_path",
        "detector",
        "model_device",
        "confidence",
        "iou",
        "log_level",
    }
)
"""What SIGHUP changes in a running device; all others are open and in use, and need a restart."""
