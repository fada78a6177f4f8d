"""The device with its real model on plain ONNX Runtime: images of every form, another model on demand, a folder."""

import hashlib
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import onnx
import pytest
import trio

from actors.pipeline import Pipeline, open_pipeline
from actors.ports.detector import DetectorError, default_model_path
from actors.ports.frames import SAMPLE_FOLDER, decode_image
from actors.ports.journal import orphans, scan
from actors.ports.opening import journal_folder
from actors.settings import DetectorKind, Settings

SAMPLE = SAMPLE_FOLDER / "surface-01.jpg"
PATIENCE_S = 30.0


def settings(folder: Path, **given: Any) -> Settings:
    chosen: dict[str, Any] = {"sources": ("none",), "detector": DetectorKind.ONNXRUNTIME, **given}
    return Settings(buffer_db_path=folder / "buffer.db", cloud_logging_enabled=False, **chosen)


async def test_an_image_is_the_same_as_a_path_as_bytes_and_as_an_array(folder):
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(settings(folder)) as pipeline:
            given: tuple[Any, ...] = (SAMPLE, str(SAMPLE), SAMPLE.read_bytes(), decode_image(SAMPLE))
            results = [await pipeline.process_image(image, image_id=f"{n}") for n, image in enumerate(given)]
    first = results[0]["detections"]
    assert first
    assert [result["detections"] for result in results] == [first] * 4
    assert all(result["logged_to_cloud"] for result in results)
    assert [result["image_id"] for result in results] == ["0", "1", "2", "3"]


async def test_the_last_frame_can_be_looked_at_with_its_boxes_drawn(folder):
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(settings(folder)) as pipeline:
            assert await pipeline.picture() is None
            result = await pipeline.process_image(SAMPLE)
            jpeg = await pipeline.picture()
    assert jpeg is not None
    shown, plain = decode_image(jpeg), decode_image(SAMPLE)
    assert shown.shape == plain.shape
    x1, y1, x2, _ = (round(value) for value in result["detections"][0]["bbox"])
    assert abs(shown[y1, x1:x2].astype(int) - plain[y1, x1:x2]).mean() > 20, "there is a line along the box's top"


async def test_the_journal_says_which_model_wrote_it(folder):
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(settings(folder)) as pipeline:
            await pipeline.process_image(SAMPLE)
            status = pipeline.status()
            (segment,) = orphans(journal_folder(folder / "buffer.db"))
            header = scan(segment).header
    assert header is not None
    assert (header.model, header.model_version) == ("surface-defects", status["model_version"])
    assert header.model_classes == ("scratch", "dent", "stain", "crack")
    assert header.model_version == hashlib.sha256(default_model_path().read_bytes()).hexdigest()[:12]


async def seen(pipeline: Pipeline, count: int) -> None:
    await pipeline.cells.vision.wait_value(lambda vision: vision.frames >= count)


async def test_a_folder_its_drawings_and_another_model_without_a_lost_frame(folder):
    """A new file takes the model's place while frames come; each is judged once, by the one or the other."""
    belt, model, drawn = folder / "belt", folder / "model.onnx", folder / "drawn"
    belt.mkdir()
    shutil.copy(default_model_path(), model)
    for path in SAMPLE_FOLDER.iterdir():
        shutil.copy(path, belt)
    chosen = settings(folder, sources=(f"belt={belt}",), model_path=model, annotate_dir=drawn)
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(chosen) as pipeline:
            await seen(pipeline, 1)
            first = pipeline.cells.vision.value.model_version
            second = folder / "model.new"
            changed = onnx.load(model)
            changed.doc_string = "the same weights in another file"
            onnx.save(changed, second)
            second.replace(model)
            pipeline.reload_model()
            await pipeline.cells.vision.wait_value(lambda vision: vision.model_version != first)
            await seen(pipeline, 12)
            shutil.copy(SAMPLE, belt / "late.jpg")
            await seen(pipeline, 13)
            status = pipeline.status()
    assert status["model_version"] != first
    assert status["model_classes"] == ["scratch", "dent", "stain", "crack"]
    assert "model_not_exchanged" not in status["alerts"]
    with sqlite3.connect(folder / "buffer.db") as connection:
        rows = connection.execute(
            "SELECT image_id, json_extract(prediction_data, '$.model_version') FROM prediction_buffer"
        ).fetchall()
    connection.close()
    names = sorted(name.partition("@")[0] for name, _ in rows)
    assert names == sorted(f"belt/{name}" for name in ("late.jpg", *(path.name for path in SAMPLE_FOLDER.iterdir())))
    assert dict(rows)[next(name for name, _ in rows if "late" in name)] != first
    assert list(drawn.glob("boxes-*.jpg"))


async def test_a_file_that_is_no_model_does_not_take_over_and_the_alert_says_why(folder):
    model = folder / "model.onnx"
    shutil.copy(default_model_path(), model)
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(settings(folder, model_path=model)) as pipeline:
            await pipeline.process_image(SAMPLE)
            model.write_text("no model")
            pipeline.reload_model()
            await pipeline.cells.vision.wait_value(lambda vision: bool(vision.model_trouble))
            assert "model_not_exchanged" in pipeline.status()["alerts"]
            assert (await pipeline.process_image(SAMPLE))["logged_to_cloud"]


async def test_a_class_of_defects_that_the_model_does_not_know_is_refused_by_name(folder):
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(settings(folder, defect_classes=("rust",))) as pipeline:
            with pytest.raises(DetectorError, match="DEFECT_CLASSES: rust: no such class in model surface-defects"):
                await pipeline.process_image(SAMPLE)
