"""What the settings mean for each port: how the client, the store, the sources and the detector are to be made."""

from collections.abc import Callable, Sequence
from functools import partial

import structlog

from actors.messages import Knobs, Vision
from actors.ports.client import ApiKey, CloudClient
from actors.ports.cursors import recent_ids
from actors.ports.detector import Detector
from actors.ports.detectors import make_detector
from actors.ports.disk import Disk
from actors.ports.frames import Memory, Source, parse_sources
from actors.ports.journal import Model
from actors.ports.lane import RunSync
from actors.ports.opening import DiskTrouble, cursor_folder, store_options
from actors.ports.store import Store
from actors.ports.tls import Tls
from actors.ports.webhook import Webhook
from actors.readiness import STUCK_S, Bounds
from actors.settings import RecoveryOrder, Settings

log = structlog.get_logger()


def knobs(settings: Settings) -> Knobs:
    """What the actors that deliver read anew whenever they need it."""
    return Knobs(
        batch_size=settings.batch_size,
        batch_timeout_s=settings.batch_timeout_seconds,
        retries_max=settings.max_retries,
        retry_multiplier=settings.retry_backoff_multiplier,
        records_per_s_max=settings.recovery_max_per_second,
        newest_first=settings.recovery_order is RecoveryOrder.NEWEST,
    )


def api_key(settings: Settings) -> ApiKey:
    """The key, or the file that holds it."""
    return ApiKey(settings.cloud_logging_api_key or "", settings.cloud_logging_api_key_file)


def client(settings: Settings, run_sync: RunSync) -> CloudClient:
    """The door to the cloud."""
    return CloudClient(
        settings.cloud_logging_endpoint,
        timeout_s=settings.timeout_seconds,
        key=api_key(settings),
        run_sync=run_sync,
        tls=Tls(settings.cloud_tls_ca_file, settings.cloud_tls_cert_file, settings.cloud_tls_key_file),
    )


def detector(settings: Settings) -> Detector:
    """The model; nothing is loaded yet. `DetectorError` if none can run it."""
    return make_detector(
        settings.detector, settings.model_path, settings.confidence, iou=settings.iou, device=settings.model_device
    )


def sources(settings: Settings, now: Callable[[], float]) -> Sequence[Source]:
    """The sources, each with its memory of earlier sessions; none is open yet. `SourcesWrong`."""
    buffer = settings.buffer_db_path
    recent = partial(recent_ids, buffer)
    memory = Memory(folder=cursor_folder(buffer), recent=recent, after=settings.after_accept)
    return parse_sources(",".join(settings.sources), now=now, memory=memory)


def model_in_use(settings: Settings, vision: Vision) -> Model:
    """What the journal says of the model: of one that is not loaded yet, what it was configured as."""
    if not vision.model_version:
        return Model(name=str(settings.model_path or "built-in"))
    return Model(name=vision.model_name, version=vision.model_version, classes=vision.model_classes)


def bounds(settings: Settings, *, watches: bool) -> Bounds:
    """What readiness is measured by: a batch may rightly take its time to close, and its time to be answered."""
    stuck_s = STUCK_S + settings.batch_timeout_seconds + settings.timeout_seconds
    return Bounds(model_wanted=watches, stuck_s=stuck_s)


def webhook(settings: Settings, lane: Callable[[], RunSync]) -> Webhook | None:
    """The door to whoever hears of alerts, if anybody does."""
    url, file = settings.alert_webhook_url, settings.alert_webhook_url_file
    return Webhook(lane(), url or "", file) if url or file else None


async def disk(
    settings: Settings,
    lane: Callable[[], RunSync],
    *,
    now: Callable[[], float],
    new_id: Callable[[float], str],
    sync: Callable[[int], None],
    model: Callable[[], Model],
) -> Disk:
    """The store, open if the disk lets it: a device whose disk is full or gone still starts, and sees."""
    options = store_options(settings, now=now, new_id=new_id, sync=sync, model=model)
    made = Disk(None, partial(Store.open, settings.edge_device_id, options), lane(), lane())
    try:
        await made.open()
    except DiskTrouble as exc:
        log.error("disk_trouble", error=str(exc), then="memory takes the predictions")  # noqa: TRY400
    return made
