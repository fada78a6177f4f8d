"""Log through a device that runs beside you, from any language: one POST, and a receipt once it is durable.

    python app.py run --sources none &
    python examples/http_door.py [http://127.0.0.1:8000]

Nothing of ours is imported here. The same with curl:

    curl --json @prediction.json 127.0.0.1:8000/predictions

201: durable. 202: accepted, but only memory holds it, since the disk refuses. 422: the body names the field that is
wrong. 503: nothing was taken; try again after `Retry-After` seconds. No answer: it may have been taken or not, and if
it was, sending it again stores it twice; an `image_id` that is never given twice tells you so afterwards.
"""

import json
import sys
import time
import urllib.error
import urllib.request

PREDICTION = {
    "image_id": "frame_001",
    "timestamp": time.time(),
    "model_name": "mine",
    "model_version": "1",
    "inference_time_ms": 45.2,
    "detections": [{"class": "scratch", "confidence": 0.95, "bbox": [100, 100, 200, 200]}],
    "defect_detected": True,
    "confidence_scores": [0.95],
}


def log(url: str, body: object) -> tuple[int, dict[str, object]]:
    """The status and what came with it. A list is answered with a list of receipts; all are taken, or none."""
    asked = urllib.request.Request(
        f"{url}/predictions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except urllib.error.URLError as error:
        sys.exit(f"{url}: no device answers ({error.reason}); start one: python app.py run --sources none")


if __name__ == "__main__":
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
    print(*log(url, PREDICTION))
    print(*log(url, [PREDICTION, PREDICTION | {"image_id": "frame_002"}]))
    print(*log(url, PREDICTION | {"inference_time_ms": -1}))
