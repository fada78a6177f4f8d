"""Network cameras over HTTP and RTSP, from the socket to the status: frames, silence, garbage, the way back."""

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import trio

from actors.pipeline import Ports, open_pipeline
from actors.ports import cameras
from actors.ports.cameras import CameraSource
from actors.ports.detectors import CallableDetector
from actors.ports.frames import SourceDown
from actors.settings import Settings
from tests.actors.ports import rtsp
from tests.actors.ports.mjpeg import camera

PATIENCE_S = 60.0
STALL_S = 1.0


def read_on(source: CameraSource) -> None:
    """What was sent before comes first."""
    for _ in range(500):
        source.read()


def test_a_stream_gives_frames_with_ids_of_its_own_and_an_end_that_is_told():
    with camera() as server:
        source = CameraSource("gate", server.address, now=lambda: 1_700_000_000.0)
        source.open()
        frames = [source.read() for _ in range(5)]
        assert [frame.image_id for frame in frames] == [f"gate/1700000000.000-{n:06d}" for n in range(1, 6)]
        assert {frame.image.shape for frame in frames} == {(24, 32, 3)}
        assert abs(int(frames[-1].image.mean()) - 90) <= 2
        server.mode = "shut"
        with pytest.raises(SourceDown, match=r"camera http://127\.0\.0\.1:\d+/stream\.mjpg gives no frames") as caught:
            read_on(source)
        assert "secret" not in str(caught.value)
        source.close()


def test_a_stream_over_rtsp_gives_frames_and_an_end_that_is_told():
    with rtsp.camera() as server:
        source = CameraSource("dock", server.address, now=lambda: 1_700_000_000.0)
        source.open()
        frames = [source.read() for _ in range(3)]
        assert [frame.image_id for frame in frames] == [f"dock/1700000000.000-{n:06d}" for n in range(1, 4)]
        assert {frame.image.shape for frame in frames} == {(rtsp.HEIGHT, rtsp.WIDTH, 3)}
        assert abs(int(frames[-1].image.mean()) - 90) <= 2
        server.shut = True
        with pytest.raises(SourceDown, match=r"camera rtsp://127\.0\.0\.1:\d+/stream gives no frames"):
            read_on(source)
        source.close()


@pytest.mark.parametrize("mode", ["silent", "garbage"])
def test_a_stream_that_falls_silent_or_sends_garbage_is_told_within_the_limit(mode, monkeypatch):
    monkeypatch.setattr(cameras, "STREAM_TIMEOUT_MS", 500)
    with camera() as server:
        source = CameraSource("gate", server.address)
        source.open()
        source.read()
        server.mode = mode
        started = time.monotonic()
        with pytest.raises(SourceDown, match="gives no frames"):
            read_on(source)
        assert time.monotonic() - started < 20, "well before OpenCV's own 30 s"
        source.close()


async def test_a_stream_that_dies_is_opened_again_while_another_source_goes_on(folder: Path):
    """Status and alert name it while it is down; when it is back, its frames are made durable again."""
    belt = folder / "belt"
    belt.mkdir()
    detector = CallableDetector(lambda _: [], name="sees-nothing", version="1")
    with camera() as server:
        settings = Settings(
            buffer_db_path=folder / "buffer.db",
            cloud_logging_enabled=False,
            sources=(f"gate={server.address}", f"belt={belt}"),
            camera_stall_seconds=STALL_S,
        )
        with trio.fail_after(PATIENCE_S):
            async with open_pipeline(settings, Ports(detector=detector)) as pipeline:
                vision = pipeline.cells.vision
                await vision.wait_value(lambda seen: seen.frames >= 5)
                server.mode = "silent"
                await vision.wait_value(lambda seen: seen.cameras_down == ("gate",))
                status = pipeline.status()
                assert status["cameras_down"] == ["gate"]
                assert "camera_down" in status["alerts"]
                frames = vision.value.frames
                assert cv2.imwrite(str(belt / "late.png"), np.zeros((8, 8, 3), np.uint8))
                await vision.wait_value(lambda seen: seen.frames > frames)
                assert vision.value.last is not None
                assert vision.value.last.image_id.startswith("belt/late.png")
                server.mode = "steady"
                await vision.wait_value(lambda seen: seen.cameras_down == () and seen.frames > frames + 3)
                assert "camera_down" not in pipeline.status()["alerts"]
    assert server.viewers >= 2, "it was opened anew"
