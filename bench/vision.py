"""What seeing costs: frames a second by runtime and batch, the loop's lag beside it, and what durability adds.

    python -m bench.vision [--pt WEIGHTS] [--seconds S] [--only durability]

Each figure comes from a process of its own. The stock-size model has random weights: its boxes mean nothing, its time
does.
"""

import argparse
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from actors.ports.detector import DetectorError, default_model_path, detect_many
from actors.ports.detectors import make_detector
from actors.ports.lane import RunSync, thread_lane
from actors.settings import DetectorKind
from bench import child, table
from bench.durability import durability
from bench.pictures import FRAME_SIZE, SMALL, STOCK, WARM_UP, images
from bench.table import Line

LAG_P99_MAX_MS = 5.0
RSS_MAX_MB = 150
TICK_S = 0.001
LAG_TURNS = 8
"""So often all three take turns while the ticker's lag is measured."""


# --- in a process of its own


def runtime(*, kind: str, path: str, batch: int, width: int, height: int, seconds: float) -> dict[str, float]:
    """One detector on the sample frames, back to back: milliseconds a frame, its parts, and the memory it takes."""
    started = time.perf_counter()
    detector = make_detector(DetectorKind(kind), Path(path))
    detector.load()
    ready_s = time.perf_counter() - started
    shown = images(width, height, batch)
    inside = _watch_the_graph(detector)
    for _ in range(WARM_UP):
        detect_many(detector, shown)
    inside.clear()
    took: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        before = time.perf_counter()
        answers = detect_many(detector, shown)
        took.append((time.perf_counter() - before) * 1000 / batch)
        assert not any(isinstance(answer, DetectorError) for answer in answers)
    graph = sum(inside) * 1000 / (len(took) * batch)
    mean = statistics.fmean(took)
    return {
        "ms": statistics.median(took),
        "p95_ms": table.percentile(took, 0.95),
        "per_s": 1000 / mean,
        "around": 1 - graph / mean,
        "ready_s": ready_s,
        "rss_mb": _rss_mb(),
    }


def as_it_comes(path: str, width: int, height: int, seconds: float) -> float:
    """Ultralytics' own predictor with its own settings: the median of milliseconds a frame."""
    from actors.ports.detector import _import_yolo  # noqa: PLC0415 - offline, as ours

    model = _import_yolo(None)(path, task="detect" if path.endswith(".onnx") else None)
    (image,) = images(width, height, 1)
    took: list[float] = []
    end = time.perf_counter() + seconds
    while len(took) < WARM_UP or time.perf_counter() < end:
        before = time.perf_counter()
        model.predict(image, verbose=False)
        took.append((time.perf_counter() - before) * 1000)
    return statistics.median(took[WARM_UP:] or took)


def lag(kind: str, path: str, width: int, height: int, seconds: float) -> dict[str, dict[str, float]]:
    """How late a 1 ms ticker wakes, in milliseconds: beside a detector in its lane, beside one in a process, alone.

    Turn about in one loop, so that a busy minute of the machine is in all three. What the lane adds to the process is
    the interpreter's lock; what the process adds to being alone is the processors and caches that all share.
    """
    detector = make_detector(DetectorKind(kind), Path(path))
    (image,) = images(width, height, 1)
    late: dict[str, list[float]] = {"lane": [], "process": [], "alone": []}
    seen = 0

    async def work(lane: RunSync) -> None:
        nonlocal seen
        while True:
            await lane(detector.detect, image)
            seen += 1

    async def tick(into: list[float]) -> None:
        end = time.perf_counter() + seconds / LAG_TURNS
        while (before := time.perf_counter()) < end:
            await trio.sleep(TICK_S)
            into.append((time.perf_counter() - before - TICK_S) * 1000)

    async def main(apart: "subprocess.Popen[str]") -> None:
        detector.load()
        lane = thread_lane()
        for _ in range(LAG_TURNS):
            await tick(late["alone"])
            apart.send_signal(signal.SIGCONT)
            await tick(late["process"])
            apart.send_signal(signal.SIGSTOP)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work, lane)
                await tick(late["lane"])
                nursery.cancel_scope.cancel()

    with child.start("bench.vision:look_on", kind=kind, path=path, width=width, height=height) as apart:
        apart.send_signal(signal.SIGSTOP)
        trio.run(main, apart)
    told = {
        name: {"p50": table.percentile(one, 0.5), "p99": table.percentile(one, 0.99), "max": max(one)}
        for name, one in late.items()
    }
    told["lane"]["per_s"] = seen / seconds
    return told


def look_on(kind: str, path: str, width: int, height: int) -> None:
    """Look at one frame over and over, until killed."""
    detector = make_detector(DetectorKind(kind), Path(path))
    detector.load()
    (image,) = images(width, height, 1)
    detector.detect(image)
    print(child.READY, flush=True)
    while True:
        detector.detect(image)


def stock_model(folder: str) -> str:
    """An ONNX file of stock size with random weights, exported as the documents advise."""
    import os  # noqa: PLC0415

    from actors.ports.detector import _import_yolo  # noqa: PLC0415

    os.chdir(folder)
    made = _import_yolo(Path(folder))("yolo11n.yaml").export(
        format="onnx", imgsz=640, nms=True, conf=0.25, iou=0.6, simplify=False
    )
    return str(Path(made).absolute())


def _watch_the_graph(detector: Any) -> list[float]:
    """Seconds of every run of the network itself, from now on."""
    inside: list[float] = []
    holder, name = _network(detector)
    run = getattr(holder, name)

    def watched(*args: Any, **kwargs: Any) -> Any:
        before = time.perf_counter()
        try:
            return run(*args, **kwargs)
        finally:
            inside.append(time.perf_counter() - before)

    try:
        setattr(holder, name, watched)
    except AttributeError:  # a frozen holder
        object.__setattr__(holder, name, watched)
    return inside


def _network(detector: Any) -> tuple[Any, str]:
    if hasattr(detector, "_graph"):
        return detector._graph.session, "run"  # noqa: SLF001 - the benchmark looks inside
    return detector._model.predictor, "inference"  # noqa: SLF001


def _rss_mb() -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


# --- the tables


def runtimes(models: dict[str, str], weights: str | None, seconds: float) -> list[Line]:
    """Milliseconds a frame of each runtime and batch size, beside Ultralytics as it comes."""
    lines = []
    for model, path in models.items():
        width, height = FRAME_SIZE[model]
        table.note(f"{model}: runtimes")
        plain = child.call("bench.vision:as_it_comes", path=path, width=width, height=height, seconds=seconds)
        for kind in ("onnxruntime", "ultralytics"):
            lines += [_runtime_line(model, kind, path, batch, plain=plain, seconds=seconds) for batch in (1, 8)]
        if weights and model == SMALL:
            name = f"{model}, .pt"
            lines += [_runtime_line(name, "ultralytics", weights, n, plain=plain, seconds=seconds) for n in (1, 8)]
    return lines


def _runtime_line(model: str, kind: str, path: str, batch: int, *, plain: float, seconds: float) -> Line:
    width, height = FRAME_SIZE[model.removesuffix(", .pt")]
    got = child.call(
        "bench.vision:runtime", kind=kind, path=path, batch=batch, width=width, height=height, seconds=seconds
    )
    memory = batch == 1 and kind == "onnxruntime" and model == SMALL
    return Line(
        f"{model}, {kind}, batch {batch}",
        f"{got['ms']:.2f} ms a frame (p95 {got['p95_ms']:.2f}), {got['per_s']:.0f}/s, {got['around']:.0%} before and "
        f"after the network, ready in {got['ready_s']:.1f} s, {got['rss_mb']:.0f} MB",
        f"{plain:.2f} ms: Ultralytics' own predictor, its settings, batch 1",
        got["ms"] / plain,
        f"<= {RSS_MAX_MB} MB" if memory else "",
        got["rss_mb"] <= RSS_MAX_MB if memory else None,
    )


def lags(models: dict[str, str], seconds: float) -> list[Line]:
    """The loop's lag beside each runtime in its lane, beside the same in a process of its own, and alone."""
    table.note("lag of the loop")
    ask = partial(child.call, "bench.vision:lag", seconds=seconds)
    lines = []
    for model, path in models.items():
        width, height = FRAME_SIZE[model]
        for kind in ("onnxruntime", "ultralytics"):
            told = ask(kind=kind, path=path, width=width, height=height)
            got, apart, alone = told["lane"], told["process"], told["alone"]
            lines.append(
                Line(
                    f"lag of a 1 ms ticker beside {model}, {kind}",
                    f"{_late(got)} at {got['per_s']:.0f} frames/s",
                    f"{_late(apart)} with the model in a process; alone {_late(alone)}",
                    got["p99"] / apart["p99"],
                    f"p99 < {LAG_P99_MAX_MS:g} ms",
                    got["p99"] < LAG_P99_MAX_MS,
                )
            )
    return lines


def _late(got: dict[str, float]) -> str:
    return f"p50 {got['p50']:.2f}, p99 {got['p99']:.2f}, max {got['max']:.1f} ms"


def main() -> None:
    """Measure, print the table, and write `bench/out/vision.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pt", help="weights (.pt) to measure with torch as well")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each figure is measured")
    parser.add_argument("--only", choices=("runtimes", "lag", "durability"), help="only this part of the table")
    given = parser.parse_args()
    table.OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=table.OUT, prefix="vision-") as folder:
        models = {SMALL: str(default_model_path()), STOCK: child.call("bench.vision:stock_model", folder=folder)}
        parts: dict[str, Callable[[], list[Line]]] = {
            "runtimes": lambda: runtimes(models, given.pt, given.seconds),
            "lag": lambda: lags(models, given.seconds),
            "durability": lambda: durability(models, Path(folder)),
        }
        lines = [line for name, measure in parts.items() if given.only in (None, name) for line in measure()]
    table.show("vision", lines)


if __name__ == "__main__":
    main()
