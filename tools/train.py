"""Train, export and measure the built-in model, offline and from nothing: `python -m tools.train`.

It draws the dataset, trains a narrow YOLO26 from random weights, exports it to ONNX with the suppression of double
boxes inside the graph, measures that file on frames it never saw, and writes the file and its card into `--out`.
"""

import argparse
import ctypes
import datetime as dt
import importlib.metadata
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.calibrate import lower, step_for
from tools.card import Run, goals, render
from tools.dataset import SIZE_PX, TEST, TRAIN, TUNE, VAL, write_dataset
from tools.measure import CONFIDENCE_FLOOR, NMS_IOU, measure_alarms, measure_file, measure_precision, strongest_on_clean
from tools.offline import stay_offline
from tools.surfaces import CLASSES

ASSETS_DIR = Path(__file__).resolve().parent.parent / "actors" / "assets"
"""Where the shipped model lives."""

MODEL_NAME = "surface-defects.onnx"

SCALE = (0.5, 0.125, 512)
"""Depth, width and most channels of the network; half as wide as the smallest that Ultralytics ships."""

BATCH = 16

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of the C library's knobs, as <malloc.h> numbers them."""

BLOCK_BYTES_KEPT = 1 << 30

MAKERS = ("ultralytics-opencv-headless", "torch", "onnx", "onnxslim", "onnxruntime", "opencv-python-headless", "numpy")
"""The packages whose versions the card names."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for: the folders, the length of the training, the frames in each split."""

    out: Path
    epochs: int
    train: int
    val: int
    test: int
    clean: int
    tune: int
    threads: int
    seed: int
    date: dt.date


def parse_options() -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=ASSETS_DIR, help="folder for the model and its card")
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--train", type=int, default=1600, help="frames to train on")
    parser.add_argument("--val", type=int, default=200, help="frames that choose the best epoch")
    parser.add_argument("--test", type=int, default=400, help="held-out frames to measure on")
    parser.add_argument("--clean", type=int, default=1000, help="clean frames to count false alarms on")
    parser.add_argument("--tune", type=int, default=1000, help="clean frames that set the scale of the confidences")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="processor threads to train with")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and of the order of frames")
    parser.add_argument(
        "--date", type=dt.date.fromisoformat, default=dt.datetime.now(dt.UTC).date(),
        help="the date to put on the card and in the file, as YYYY-MM-DD",
    )  # fmt: skip
    return Options(**vars(parser.parse_args()))


def write_network(folder: Path) -> Path:
    """Write the description of the network: YOLO26 as shipped, but at `SCALE`, for our classes and with one head.

    Its second head needs no suppression of double boxes, but many more epochs than a processor has time for.
    """
    import ultralytics  # noqa: PLC0415  reads its environment when imported; see tools.offline
    from ultralytics.utils import YAML  # noqa: PLC0415

    shipped = Path(ultralytics.__file__).parent / "cfg" / "models" / "26" / "yolo26.yaml"
    yaml: Any = YAML
    network = yaml.load(shipped) | {"nc": len(CLASSES), "scales": {"n": list(SCALE)}, "end2end": False}
    path = folder / "yolo26n.yaml"
    yaml.save(path, network)
    return path


def fit(network: Path, description: Path, options: Options) -> Path:
    """Train from random weights and give the path of the best epoch's weights."""
    import torch  # noqa: PLC0415
    from ultralytics.models import YOLO  # noqa: PLC0415  reads its environment when imported; see tools.offline

    began = time.monotonic()

    def make_quick(trainer: Any) -> None:
        torch.set_num_threads(options.threads)
        determinism: Any = torch.utils.deterministic
        determinism.fill_uninitialized_memory = False  # it costs time, and nothing reads such memory
        trainer.model.to(memory_format=torch.channels_last)  # a sixth less to compute for such narrow layers

    def report(trainer: Any) -> None:
        reached = trainer.metrics.get("metrics/mAP50(B)", 0.0)
        done, spent_s = trainer.epoch + 1, time.monotonic() - began
        if done > options.epochs:
            label, left = "best weights", ""
        else:
            label, left = (
                f"epoch {done:3d}/{options.epochs}",
                f", {spent_s / done * (options.epochs - done):.0f} s to go",
            )
        print(
            f"{label}  val mAP50 {reached:.3f}  {spent_s:.0f} s, {time.process_time():.0f} s of CPU{left}", flush=True
        )

    model: Any = YOLO(network, task="detect")
    model.add_callback("on_train_start", make_quick)
    model.add_callback("on_fit_epoch_end", report)
    model.train(
        data=str(description), imgsz=SIZE_PX, epochs=options.epochs, batch=BATCH, nbs=BATCH, pretrained=False,
        optimizer="AdamW", lr0=3e-3, warmup_epochs=1.0, cos_lr=True, amp=False, device="cpu", workers=0, cache="ram",
        mosaic=0.5, close_mosaic=max(1, options.epochs // 3), flipud=0.5, fliplr=0.5, scale=0.3,
        seed=options.seed, deterministic=True, plots=False, verbose=False,
        project=str(network.parent / "runs"), name="train",
    )  # fmt: skip
    return Path(model.trainer.best)


def export(weights: Path, path: Path, date: dt.date) -> None:
    """Export the weights as half-precision ONNX, with notes of our own that do not vary from run to run."""
    import onnx  # noqa: PLC0415
    from ultralytics.models import YOLO  # noqa: PLC0415  reads its environment when imported; see tools.offline

    exported = YOLO(weights).export(
        format="onnx", imgsz=SIZE_PX, nms=True, conf=CONFIDENCE_FLOOR, iou=NMS_IOU, quantize=16, verbose=False
    )
    graph = onnx.load(exported)
    notes = {"description": "Holdfast: defects of synthetic surfaces (YOLO26, narrow)", "date": date.isoformat()}
    for entry in graph.metadata_props:
        entry.value = notes.get(entry.key, entry.value)
    onnx.save(graph, path)


def build(options: Options, folder: Path) -> Run:
    """Draw, train, export, measure, and write model and card at last; what does not ship goes into `folder`."""
    began = time.monotonic()
    counts = {TRAIN: options.train, VAL: options.val, TEST: options.test}
    description = write_dataset(folder / "frames", counts)
    print(f"drew {sum(counts.values())} frames in {time.monotonic() - began:.0f} s", flush=True)
    weights = fit(write_network(folder), description, options)
    model = folder / MODEL_NAME
    export(weights, model, options.date)
    step = step_for(strongest_on_clean(model, TUNE, options.tune))
    lower(model, step)
    print(f"exported; scores lowered by {step:.2f} after {time.monotonic() - began:.0f} s; measuring", flush=True)
    precision, alarms = measure_precision(model, description), measure_alarms(model, options.clean)
    run = Run(
        date=options.date,
        command=(
            f"python -m tools.train --epochs {options.epochs} --train {options.train} --val {options.val} "
            f"--test {options.test} --clean {options.clean} --tune {options.tune} "
            f"--seed {options.seed} --date {options.date}"
        ),
        counts={split.name: count for split, count in counts.items()} | {TUNE.name: options.tune},
        epochs=options.epochs,
        took_s=time.monotonic() - began,
        processor_s=time.process_time(),
        step=step,
        threads=options.threads,
        versions={name: importlib.metadata.version(name) for name in MAKERS},
        precision=precision,
        alarms=alarms,
        stored=measure_file(model),
    )
    options.out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model, options.out / MODEL_NAME)
    (options.out / "MODEL_CARD.md").write_text(render(run))
    return run


def tune_process() -> None:
    """What makes training quick on few cores; call it before torch is imported.

    Threads that wait for each other sleep: spinning, as they do by default, they take the cores from one another as
    soon as anything else runs, and training takes five times as long. And the C library keeps what it frees, since
    every step asks for the same large blocks again.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc's
        libc.mallopt(M_MMAP_THRESHOLD, BLOCK_BYTES_KEPT)
        libc.mallopt(M_TRIM_THRESHOLD, BLOCK_BYTES_KEPT)


def main() -> None:
    """Build the model in a folder that is gone afterwards; exit code 1 if it misses a goal."""
    options = parse_options()
    tune_process()
    with tempfile.TemporaryDirectory(prefix="holdfast-train-") as name:
        stay_offline(Path(name) / "settings")
        run = build(options, Path(name))
    missed = [goal for goal in goals(run) if not goal.met]
    for goal in goals(run):
        print(f"{goal.name}: {goal.reached} (goal {goal.wanted}){'' if goal.met else '  MISSED'}")
    print(f"{options.out / MODEL_NAME} and its card are written")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
