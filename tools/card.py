"""The model card: what the built-in model is, how it was made, and the figures it reached."""

import datetime as dt
from dataclasses import dataclass

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
    trained_s: float
    processor_s: float
    step: float
    threads: int
    versions: dict[str, str]
    precision: Precision
    alarms: Alarms
    stored: Stored


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

{epochs} epochs. Drawing the frames and training took {minutes:.0f} minutes of wall clock and {processor:.0f} of
processor time with {threads} threads, without a GPU and without the network. Then the logits of all scores were lowered
by {step:.2f}, which keeps the order of the boxes, until 1 % of the clean frames set aside for that had a false alarm at
the default confidence (`tools/calibrate.py`). Made with:

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
        minutes=run.trained_s / 60,
        processor=run.processor_s / 60,
        step=run.step,
        threads=run.threads,
        versions="\n".join(f"- {name} {version}" for name, version in run.versions.items()),
        **{name: str(count) for name, count in run.counts.items()},
    )
