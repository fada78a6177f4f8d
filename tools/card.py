"""The model card: what the built-in model is, how it was made, and the figures it reached."""

import datetime as dt
from dataclasses import dataclass

from tools.calibrate import CONFIDENCE
from tools.dataset import SIZE_PX
from tools.measure import NMS_IOU, Alarms, Precision, Stored
from tools.surfaces import CLASSES


@dataclass(frozen=True, slots=True)
class Run:
    """One training and what came of it."""

    date: dt.date
    command: str
    counts: dict[str, int]
    epochs: int
    took_s: float
    processor_s: float
    step: float
    threads: int
    versions: dict[str, str]
    precision: Precision
    alarms: Alarms
    stored: Stored


@dataclass(frozen=True, slots=True)
class Goal:
    """One thing that the built-in model is to reach, and what it reached."""

    name: str
    wanted: str
    reached: str
    met: bool


MAP50_MIN, CLASS_AP50_MIN = 0.85, 0.75
BYTES_MAX = 1_000_000
TOOK_MAX_S = 20 * 60
ALARM_SHARE_MAX = 1 / 50


def goals(run: Run) -> list[Goal]:
    """What the model is held to, in the order of the card."""
    found = {name: run.precision.ap50.get(name, 0.0) for name in CLASSES}
    weakest = min(found, key=lambda name: found[name])
    least, alarmed = found[weakest], run.alarms.alarmed[CONFIDENCE]
    share, size = alarmed / run.alarms.frames, run.stored.size_bytes
    return [
        Goal("mAP50", f">= {MAP50_MIN}", f"{run.precision.map50:.3f}", run.precision.map50 >= MAP50_MIN),
        Goal("the weakest class", f"> {CLASS_AP50_MIN}", f"{least:.3f} ({weakest})", least > CLASS_AP50_MIN),
        Goal(
            f"clean frames with a false alarm at {CONFIDENCE}",
            f"<= {ALARM_SHARE_MAX:.0%}",
            f"{alarmed} of {run.alarms.frames} ({share:.1%})",
            share <= ALARM_SHARE_MAX,
        ),
        Goal("size", f"<= {BYTES_MAX:,} bytes", f"{size:,} bytes", size <= BYTES_MAX),
        Goal(
            f"from nothing to the card, {run.threads} threads",
            f"<= {TOOK_MAX_S / 60:.0f} minutes",
            f"{run.took_s / 60:.1f} minutes",
            run.took_s <= TOOK_MAX_S,
        ),
    ]


CARD = """\
# surface-defects.onnx

The built-in model finds four kinds of defect on synthetic surfaces. It ships with the source so that Holdfast makes
real predictions from a fresh checkout; for real work, give Holdfast a model of your own.

| | |
|---|---|
| Task | object detection; input {size_px} x {size_px} px, to which a frame of any size is scaled |
| Classes | {classes} |
| Network | Ultralytics YOLO26 at depth 0.5 and width 0.125, trained from random weights |
| File | ONNX, half precision; its graph drops double boxes (IoU {nms_iou}) and all below confidence 0.01 |
| Size | {size_bytes:,} bytes |
| SHA-256 | `{sha256}` |
| Made on | {date} |
| Licence | AGPL-3.0: it was made with Ultralytics, and the weights carry that licence |

## Figures

Measured on this file, on frames whose seeds neither the training nor the choice of the best epoch used.

| {test} held-out frames | AP at IoU 0.5 |
|---|---|
{ap50_rows}
| **all classes (mAP50)** | **{map50:.3f}** |

Averaged over IoU 0.5 to 0.95 it is {map50_95:.3f} (mAP50-95).

| Least confidence | clean frames with a false alarm, of {clean} |
|---|---|
{alarm_rows}

| Goal | wanted | reached | met |
|---|---|---|---|
{goal_rows}

## Data

Every frame is drawn by `tools/surfaces.py` from its seed: one of five textures (brushed metal, painted sheet, woven
cloth, cast concrete, leather), light from one side, zero to four defects, sensor noise, sometimes a little blur, then
JPEG. No photograph is among them. {train} frames to train on, {val} to choose the best epoch, {tune} clean ones to set
the scale of the confidences, {test} held out, {clean} clean ones held out for false alarms. The boxes of scratches and
cracks are padded to at least 12 px on each side.

## How it was made

```
pip install '.[train]'
{command}
```

{epochs} epochs. Drawing, training, exporting and measuring took {minutes:.1f} minutes of wall clock and {processor:.1f}
of processor time with {threads} threads, without a GPU and without the network. Before it was measured, the logits of
all scores were lowered by {step:.2f}, which keeps the order of the boxes, until 1 % of the clean frames set aside for
that had a false alarm at the default confidence (`tools/calibrate.py`). Made with:

{versions}

The same command draws the same frames. Another kind of processor or other versions may give slightly other weights.

## Good for

- trying Holdfast and testing it: on the frames in `frames/` the predictions mean something;
- measuring throughput and delivery on a device before the model for the job exists.

## Not good for

- inspecting real parts: it has never seen a photograph, and on other scenes its boxes mean nothing;
- defects hardly stronger than the texture, and short thin scratches;
- frames much larger than {size_px} px: scaled to the input size, their small defects vanish.
"""


def row_of(goal: Goal) -> str:
    """A goal's line of the card's table."""
    return f"| {goal.name} | {goal.wanted} | {goal.reached} | {'yes' if goal.met else '**no**'} |"


def render(run: Run) -> str:
    """The card as Markdown."""
    return CARD.format(
        size_px=SIZE_PX,
        classes=", ".join(CLASSES),
        nms_iou=NMS_IOU,
        size_bytes=run.stored.size_bytes,
        sha256=run.stored.sha256,
        date=run.date.isoformat(),
        ap50_rows="\n".join(f"| {name} | {ap:.3f} |" for name, ap in run.precision.ap50.items()),
        map50=run.precision.map50,
        map50_95=run.precision.map50_95,
        clean=run.alarms.frames,
        alarm_rows="\n".join(f"| {least} | {alarmed} |" for least, alarmed in run.alarms.alarmed.items()),
        command=run.command,
        epochs=run.epochs,
        goal_rows="\n".join(map(row_of, goals(run))),
        minutes=run.took_s / 60,
        processor=run.processor_s / 60,
        step=run.step,
        threads=run.threads,
        versions="\n".join(f"- {name} {version}" for name, version in run.versions.items()),
        **{name: str(count) for name, count in run.counts.items()},
    )
