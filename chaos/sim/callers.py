"""The workload: callers of log() and log_many(), who keep every receipt and watch how long they wait for it."""

import contextlib
import random
from collections.abc import Sequence

import trio

from actors.handle import CallTooLarge
from actors.messages import PipelineClosed, Receipt
from actors.pipeline import Pipeline
from chaos.sim.books import Violation
from chaos.sim.cloud import POISON, REFUSED
from chaos.sim.host import Host
from chaos.sim.plan import Fault
from cloud.wire import Detection, Prediction, encode_prediction

LOG_S_MAX = 2.0
"""How long log() may take on a disk that is well, whatever the network does."""
BURSTS = (1,) * 8 + (3, 12)
"""How many predictions a call may carry."""
BOX_BYTES = 90
UNWANTED_BOXES = 5
"""What the cloud refuses stays until an operator looks, and here is none: large ones could fill a buffer for good."""


async def log_for_ever(host: Host, pipeline: Pipeline, rng: random.Random) -> None:
    """Log single predictions and bursts, until the pipeline closes."""
    with contextlib.suppress(PipelineClosed):
        while True:
            await trio.sleep(rng.expovariate(1 / host.plan.calm_s))
            await log_once(host, pipeline, rng)


async def log_once(host: Host, pipeline: Pipeline, rng: random.Random) -> None:
    """One call and its receipts. `Violation` where the network was waited for, or a receipt can't be true."""
    group = [predict(host, rng) for _ in range(rng.choice(BURSTS))]
    began, full = trio.current_time(), host.nearly_full
    receipts = await _log_many(host, pipeline, group)
    waited_s = trio.current_time() - began
    if waited_s > LOG_S_MAX and host.well_since(began) and not (full or host.nearly_full):
        raise Violation(f"G4: log() took {waited_s:.1f} s, and the disk is well")
    if len(receipts) != len(group):
        raise Violation(f"G1: {len(receipts)} receipts for {len(group)} predictions")
    for prediction, receipt in zip(group, receipts, strict=True):
        host.books.receive(prediction.image_id, receipt)
        if receipt.accepted and not receipt.durable:
            host.coverage("mode: memory takes the predictions")
        if not receipt.accepted:
            host.coverage("full: drop_newest")


async def _log_many(host: Host, pipeline: Pipeline, group: Sequence[Prediction]) -> tuple[Receipt, ...]:
    """In as few calls as the buffer lets it be."""
    try:
        receipts = await pipeline.log_many(group)
    except CallTooLarge:
        host.coverage("call too large")
        half = len(group) // 2
        first = await _log_many(host, pipeline, group[:half])
        return first + await _log_many(host, pipeline, group[half:])
    host.call_bytes_max = max(host.call_bytes_max, sum(len(encode_prediction(one)) for one in group))
    return receipts


def predict(host: Host, rng: random.Random) -> Prediction:
    """A prediction whose image no other one has."""
    host.images += 1
    kind = ""
    if host.faces(Fault.REFUSED_RECORD) and rng.random() < 0.05:
        kind = REFUSED
        host.met(Fault.REFUSED_RECORD)
    elif host.faces(Fault.POISON) and rng.random() < 0.03:
        kind = POISON
        host.met(Fault.POISON)
    boxes = rng.randrange(host.plan.big_bytes // BOX_BYTES + 1)
    if kind:
        boxes = min(boxes, UNWANTED_BOXES)
    prediction = Prediction(
        image_id=f"{kind}{host.name}-{host.images}",
        timestamp=host.clock(),
        model_name="m",
        model_version="1",
        inference_time_ms=round(rng.random() * 50, 2),
        detections=(Detection("scratch", 0.5, (1.0, 2.0, 3.0, rng.random() * 600 + 2)),) * boxes,
        defect_detected=rng.random() < 0.1,
        confidence_scores=(),
    )
    host.books.make(prediction, host.lives, refused=kind == REFUSED, poison=kind == POISON)
    return prediction
