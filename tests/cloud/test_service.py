"""The routes: what a device, a curl user and an attacker get, and what is stored afterwards."""

import gzip
import json

import pytest
import structlog
import trio
import zstandard

from cloud import wire
from cloud.keys import Keys, Verdict
from cloud.ledger.sqlite import _open
from tests.cloud.world import NOON, envelope, payload, service


async def test_curl_with_device_and_predictions_alone_is_stored_and_found():
    """The oldest contract: no stream, no numbers; at least once, and the answer says so."""
    async with service() as cloud:
        answer = await cloud.post(payload(), stream=None)
        assert answer.status_code == 200
        assert answer.json() == {
            "accepted": 1, "duplicates": 0, "conflicts": 0, "rejected": [], "delivery": "at-least-once",
        }  # fmt: skip
        (found,) = (await cloud.get("/predictions"))["predictions"]
        assert found == json.loads(payload()) | {
            "edge_device_id": "cam", "stream_id": None, "received_at": NOON, "late": False,
            "clock_wrong": False,
        }  # fmt: skip


@pytest.mark.parametrize(
    ("stream", "record", "delivery"),
    [("s1", payload(1), "exactly-once"), ("s1", payload(), "at-least-once"), (None, payload(1), "at-least-once")],
)
async def test_the_answer_promises_exactly_once_only_with_a_stream_and_a_number(stream, record, delivery):
    async with service() as cloud:
        for _ in range(2):
            answer = (await cloud.post(record, stream=stream)).json()
            assert answer["delivery"] == delivery
        stored = (await cloud.get("/stats"))["total_predictions"]
        assert stored == (1 if delivery == "exactly-once" else 2)


async def test_a_repeated_post_stores_nothing_twice():
    async with service() as cloud:
        first = (await cloud.post(payload(1), payload(2))).json()
        again = (await cloud.post(payload(1), payload(2), payload(3))).json()
        assert (first["accepted"], again["accepted"], again["duplicates"]) == (2, 1, 2)
        audit = await cloud.audit()
        assert (audit["stored"], audit["duplicates"], audit["missing"]) == (3, 2, 0)
        assert (await cloud.get("/stats"))["total_predictions"] == 3


async def test_a_number_twice_in_one_batch_is_stored_once():
    async with service() as cloud:
        answer = (await cloud.post(payload(1), payload(1), payload(1, image_id="other"))).json()
        assert (answer["accepted"], answer["duplicates"], answer["conflicts"]) == (1, 1, 1)
        assert len((await cloud.get("/predictions"))["predictions"]) == 1


async def test_the_same_number_of_another_stream_or_device_is_another_prediction():
    async with service() as cloud:
        for where in ({}, {"stream": "s2"}, {"device": "cam2"}):
            assert (await cloud.post(payload(1), **where)).json()["accepted"] == 1
        assert [s["stream_id"] for s in (await cloud.audit())["streams"]] == ["s1", "s2"]


async def test_a_number_with_another_payload_is_a_conflict_that_is_kept_and_shown():
    async with service() as cloud:
        await cloud.post(payload(1))
        for _ in range(2):
            answer = (await cloud.post(payload(1, image_id="other"))).json()
            assert (answer["accepted"], answer["duplicates"], answer["conflicts"]) == (0, 0, 1)
        assert (await cloud.audit())["conflicts"] == 1
        (kept,) = cloud.ledger._files.reading.execute("SELECT payload FROM conflicts").fetchall()
        assert b"other" in kept[0].encode()
        (stored,) = (await cloud.get("/predictions"))["predictions"]
        assert stored["image_id"] == "frame_1"


async def test_one_bad_record_never_refuses_its_neighbours_and_its_number_is_explained():
    async with service() as cloud:
        bad = payload(2, detections=[{"class": "x", "confidence": 7, "bbox": [1, 1, 2, 2]}])
        answer = (await cloud.post(payload(1), bad, payload(3), b'{"image_id":"no number"}', b"7")).json()
        assert answer["accepted"] == 2
        assert [(r["index"], r.get("seq")) for r in answer["rejected"]] == [(1, 2), (3, None), (4, None)]
        assert answer["rejected"][0]["error"].startswith("detections[0].confidence: ")
        (stream,) = (await cloud.audit())["streams"]
        assert (stream["missing"], stream["explained"], stream["unexplained"]) == (1, 1, 0)
        (gap,) = stream["gaps"]
        assert (gap["from_seq"], gap["to_seq"]) == (2, 2)
        assert gap["reason"].startswith("rejected: detections[0].confidence")


async def test_a_refusal_that_is_repeated_counts_once_and_a_number_that_comes_after_all_is_stored():
    async with service() as cloud:
        bad = payload(1, inference_time_ms=-1)
        await cloud.post(bad)
        await cloud.post(bad)
        assert (await cloud.audit())["rejected"] == 1
        await cloud.post(payload(1))
        audit = await cloud.audit()
        assert (audit["stored"], audit["missing"]) == (1, 0)
        assert audit["streams"][0]["gaps"] == []


async def test_losses_explain_gaps_and_what_nobody_explains_stays_visible():
    async with service() as cloud:
        await cloud.post(payload(10), losses=[(3, 5, "evicted"), (6, 6, "expired")])
        (stream,) = (await cloud.audit())["streams"]
        assert stream["gaps"] == [
            {"from_seq": 1, "to_seq": 2, "reason": None},
            {"from_seq": 3, "to_seq": 5, "reason": "evicted"},
            {"from_seq": 6, "to_seq": 6, "reason": "expired"},
            {"from_seq": 7, "to_seq": 9, "reason": None},
        ]
        assert (stream["first_seq"], stream["last_seq"], stream["stored"]) == (1, 10, 1)
        assert (stream["missing"], stream["explained"], stream["unexplained"]) == (9, 4, 5)
        await cloud.post(*(payload(n) for n in (1, 2, 4, 7, 8, 9)))
        (stream,) = (await cloud.audit())["streams"]
        assert [(g["from_seq"], g["to_seq"]) for g in stream["gaps"]] == [(3, 3), (5, 5), (6, 6)]
        assert stream["unexplained"] == 0


async def test_losses_may_come_without_any_prediction():
    async with service() as cloud:
        assert (await cloud.post(losses=[(1, 7, "evicted")])).json()["accepted"] == 0
        assert (await cloud.audit())["explained"] == 7


async def test_what_a_newer_device_adds_is_kept():
    async with service() as cloud:
        odd = payload(1, extra={"deep": [1e300, "é"], "received_at": "mine"})
        await cloud.post(odd)
        (raw,) = cloud.ledger._files.reading.execute("SELECT payload FROM predictions").fetchone()
        assert raw.encode() == odd
        (found,) = (await cloud.get("/predictions"))["predictions"]
        assert found["extra"] == {"deep": [1e300, "é"], "received_at": "mine"}
        assert found["received_at"] == NOON


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "body"),
        (b"{", 400, "body"),
        (b"\xff\xfe", 400, "body"),
        (b'{"edge_device_id":"c","predictions":[' + b"[" * 200_000, 400, "nested"),
        (b"[]", 422, "body"),
        (b"{}", 422, "edge_device_id"),
        (b'{"edge_device_id":"","predictions":[]}', 422, "edge_device_id"),
        (b'{"edge_device_id":"c"}', 422, "predictions"),
        (b'{"edge_device_id":"c","predictions":{}}', 422, "predictions"),
        (b'{"edge_device_id":"c","predictions":[],"pending":-1}', 422, "pending"),
        (envelope(losses=[(1, 2, "x")], stream=None), 422, "losses"),
        (envelope().replace(b'"losses":[]', b'"losses":[{"from_seq":3,"to_seq":1,"reason":"x"}]'), 422, "losses[0]"),
        (envelope(*[b"0"] * (wire.RECORDS_TAKEN_MAX + 1)), 413, "predictions"),
        (b"x" * (wire.BODY_BYTES_MAX + 1), 413, "body"),
    ],
)
async def test_an_unusable_body_gets_a_clear_error_and_stores_nothing(body, status, says):
    async with service() as cloud:
        answer = await cloud.client.post("/log", content=body)
        assert answer.status_code == status, answer.text
        assert says in answer.json()["detail"]
        assert (await cloud.get("/devices"))["devices"] == []


async def test_as_many_as_every_answer_says_are_taken_at_once():
    async with service() as cloud:
        most = int((await cloud.client.get("/health")).headers["Holdfast-Batch-Max"])
        answer = await cloud.client.post("/log", content=envelope(*[payload(seq) for seq in range(1, most + 1)]))
        assert answer.json()["accepted"] == most == wire.RECORDS_TAKEN_MAX
        assert answer.headers["Holdfast-Batch-Max"] == str(most)


HOSTILE = {
    "pending beyond 64 bits": envelope(payload(1), pending=2**70),
    "invalid UTF-8 in an unknown field": envelope(payload(1, x="@").replace(b"@", b"\xff")),
    "a number out of range in an unknown field": envelope(payload(1, x="@").replace(b'"@"', b"1e999")),
    "a zero byte in a name": envelope(payload(1, model_name="\0"), device="\0"),
    "half a surrogate": envelope(payload(1).replace(b"frame", b"\\ud800")),
    "a record that is too large": envelope(payload(1, image_id="x", pad="y" * wire.RECORD_BYTES_MAX)),
    "a quotation of 100 kB": envelope(payload(1, timestamp="z" * 100_000)),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
async def test_hostile_records_neither_break_the_service_nor_the_reading_of_it(body):
    async with service() as cloud:
        answer = await cloud.client.post("/log", content=body)
        assert answer.status_code in (200, 400), answer.text
        assert len(answer.content) < 1_000
        assert (await cloud.post(payload(5), device="good")).json()["accepted"] == 1
        for path in ("/predictions", "/stats", "/devices", "/devices/good/audit"):
            assert (await cloud.client.get(path)).content
        assert len((await cloud.client.get("/predictions")).content) < 5_000


UNSIZED = zstandard.ZstdCompressor(write_content_size=False)
"""As who compresses piece by piece, which does not know beforehand how much it will be."""
_SIZED = zstandard.compress(b" " * 70_000)
LYING = _SIZED.replace((70_000).to_bytes(4, "little"), (1_000).to_bytes(4, "little"), 1)


async def test_a_body_that_does_not_say_how_large_it_was_is_taken():
    async with service() as cloud:
        body = UNSIZED.compress(envelope(payload(1)))
        answer = await cloud.client.post("/log", content=body, headers={"Content-Encoding": "zstd"})
        assert answer.json()["accepted"] == 1


@pytest.mark.parametrize("encoding", ["zstd", "gzip", "identity", "GZIP"])
async def test_every_encoding_that_is_advertised_is_taken(encoding):
    async with service() as cloud:
        body = wire.compress(envelope(payload(1)), encoding.lower())
        answer = await cloud.client.post("/log", content=body, headers={"Content-Encoding": encoding})
        assert answer.json()["accepted"] == 1


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("br", b"whatever", 415),
        ("gzip", b"not gzip", 400),
        ("zstd", b"not zstd", 400),
        ("gzip", gzip.compress(envelope(payload(1)))[:-20], 400),
        ("zstd", zstandard.compress(envelope(payload(1)))[:-20], 400),
        ("zstd", UNSIZED.compress(envelope(payload(1)))[:-20], 400),
        ("gzip", gzip.compress(b" " * (100 * 1024 * 1024)), 413),
        ("zstd", zstandard.compress(b" " * (100 * 1024 * 1024)), 413),
        ("zstd", UNSIZED.compress(b" " * (100 * 1024 * 1024)), 413),
        ("zstd", LYING, 400),
    ],
    ids=[
        "unknown",
        "no gzip",
        "no zstd",
        "half gzip",
        "half zstd",
        "half zstd of no told size",
        "gzip bomb",
        "zstd bomb",
        "zstd bomb of no told size",
        "zstd of less than there is",
    ],
)
async def test_bombs_and_damaged_or_unknown_encodings_are_refused_before_they_cost_anything(encoding, body, status):
    async with service() as cloud:
        answer = await cloud.client.post("/log", content=body, headers={"Content-Encoding": encoding})
        assert answer.status_code == status, answer.text
        assert answer.json()["detail"]
        assert answer.headers["Accept-Encoding"] == "zstd, gzip"


async def test_every_answer_says_what_the_service_takes_and_that_it_is_ours():
    """A device learns the encodings from it, and tells us from a captive portal."""
    async with service(keys=Keys.of(["right"])) as cloud:
        for method, path in (("GET", "/health"), ("HEAD", "/health"), ("GET", "/nowhere"), ("GET", "/stats")):
            answer = await cloud.client.request(method, path)
            assert answer.headers["Accept-Encoding"] == wire.ENCODINGS_TAKEN, path
            assert answer.headers["Holdfast-Wire"] == "1"


@pytest.mark.parametrize(
    ("header", "status"),
    [(None, 401), ("Basic cmlnaHQ=", 401), ("Bearer", 401), ("Bearer wrong", 403), ("Bearer right", 200),
     ("bearer  second ", 200), ("Bearer righ", 403), ("Bearer r\xefght", 403)],
)  # fmt: skip
async def test_only_a_known_key_gets_in_or_out(header, status):
    async with service(keys=Keys.of(["right", "second"])) as cloud:
        headers = {"Authorization": header.encode("latin-1")} if header else {}
        answers = [await cloud.client.post("/log", content=envelope(payload(1)), headers=headers)]
        answers += [await cloud.client.get(p, headers=headers) for p in ("/stats", "/predictions", "/devices")]
        assert {answer.status_code for answer in answers} == {status}
        for answer in answers:
            assert ("WWW-Authenticate" in answer.headers) == (status == 401)
        assert (await cloud.ledger.stats()).total.total_predictions == (status == 200)
        assert (await cloud.client.get("/health")).status_code == 200
        assert (await cloud.client.get("/ready")).status_code == 200


async def test_a_key_is_neither_answered_nor_logged():
    keys = Keys.of(["right"])
    assert "right" not in repr(keys)
    with structlog.testing.capture_logs() as logs:
        async with service(keys=keys) as cloud:
            answer = await cloud.client.get("/stats", headers={"Authorization": "Bearer mistyped-secret"})
    assert answer.status_code == 403
    assert "mistyped" not in answer.text + str(logs)


def test_keys_without_any_key_admit_everybody():
    assert Keys().judge(None).verdict is Verdict.ADMITTED
    assert not Keys()


async def test_overload_is_answered_at_once_with_when_to_come_back():
    opened = trio.Event()

    async def slow_disk(function, /, *args, **kwargs):
        if function is not _open:
            await opened.wait()
        return function(*args, **kwargs)

    async with service(waiting_max=2, run_sync=slow_disk) as cloud:
        async with trio.open_nursery() as nursery:
            for n in (1, 2):
                nursery.start_soon(cloud.post, payload(n))
            while not cloud.ledger.busy:
                await trio.lowlevel.checkpoint()
            answer = await cloud.post(payload(3))
            opened.set()
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert (await cloud.audit())["stored"] == 2


async def test_stats_count_by_device_and_model_and_never_a_repeat():
    async with service() as cloud:
        good = [payload(n, classes=()) for n in (1, 2, 3)]
        for _ in range(2):
            await cloud.post(*good, payload(4))
            await cloud.post(payload(1, model_name="other"), device="cam2")
        stats = await cloud.get("/stats")
        assert (stats["total_predictions"], stats["defects_detected"], stats["defect_rate"]) == (5, 2, 0.4)
        assert stats["by_edge_device"]["cam"] == {
            "total_predictions": 4, "defects_detected": 1, "defect_rate": 0.25,
        }  # fmt: skip
        assert {name: tally["total_predictions"] for name, tally in stats["by_model"].items()} == {
            "other": 1, "yolov8-defect": 4,
        }  # fmt: skip


async def test_stats_of_a_stretch_of_time_and_the_same_over_time():
    async with service() as cloud:
        await cloud.post(payload(1), payload(100), late=True)
        await cloud.post(payload(7, model_name="m2", inference_time_ms=90.0), device="cam2")
        stats = await cloud.get("/stats", since=NOON + 60, until=NOON + 120)
        assert (stats["total_predictions"], stats["late"], list(stats["by_model"])) == (1, 1, ["yolov8-defect"])
        assert (await cloud.get("/stats", edge_device_id="cam2"))["inference_ms"]["mean"] == 90.0
        inference = (await cloud.get("/stats"))["inference_ms"]
        assert sum(inference["counts"]) == 3
        assert len(inference["counts"]) == len(inference["up_to"]) + 1
        series = await cloud.get("/series", until=NOON + 120)
        assert (series["bucket_s"], len(series["buckets"])) == (900, 97)
        assert sum(bucket["predictions"] for bucket in series["buckets"]) == 3
        series = await cloud.get("/series", since=NOON, until=NOON + 120, bucket_s=60, edge_device_id="cam")
        assert [bucket["predictions"] for bucket in series["buckets"]] == [1, 0, 1]
        assert (await cloud.get("/series", since=NOON - 90 * 86_400))["bucket_s"] == 86_400


@pytest.mark.parametrize("timestamp", [0, -1e300, NOON - 400 * 86_400, NOON + 2 * 86_400, 1e300])
async def test_a_capture_time_that_can_not_be_right_is_stored_marked_and_counted(timestamp):
    async with service() as cloud:
        answer = (await cloud.post(payload(1, timestamp=timestamp), payload(2))).json()
        assert (answer["accepted"], answer["rejected"]) == (2, [])
        found = (await cloud.get("/predictions"))["predictions"]
        assert {item["seq"]: item["clock_wrong"] for item in found} == {1: True, 2: False}
        assert (await cloud.get("/stats"))["clock_wrong"] == 1


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"confidence_scores": [0.5, 1.5]}, "confidence_scores[1]"),
        ({"detections": [{"class": "x", "confidence": 0.5, "bbox": [0, 0, 1]}]}, "detections[0].bbox"),
        ({"detections": [{"class": "x", "confidence": 0.5, "bbox": [2, 0, 1, 1]}]}, "detections[0]"),
        ({"detections": [{"class": "", "confidence": 0.5, "bbox": [0, 0, 1, 1]}]}, "detections[0].class"),
        ({"detections": [{"class": "x", "confidence": 0.5, "bbox": [0, 0, 1, 1]}] * 2_001}, "detections"),
        ({"image_id": "x" * 257}, "image_id"),
        ({"model_version": 1}, "model_version"),
        ({"defect_detected": "yes"}, "defect_detected"),
        ({"inference_time_ms": None}, "inference_time_ms"),
        ({"timestamp": "now"}, "timestamp"),
    ],
)
async def test_a_record_that_does_not_keep_the_contract_is_told_by_the_path_of_its_field(changes, path):
    async with service() as cloud:
        (rejected,) = (await cloud.post(payload(1, **changes), payload(2))).json()["rejected"]
        assert rejected["error"].startswith(f"{path}: ")
        assert (await cloud.audit())["stored"] == 1


async def test_stats_of_an_empty_ledger_are_zero():
    async with service() as cloud:
        assert (await cloud.get("/stats"))["defect_rate"] == 0.0


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, [6, 5, 4, 3, 2, 1]),
        ({"limit": 2}, [6, 5]),
        ({"edge_device_id": "cam"}, [4, 3, 2, 1]),
        ({"edge_device_id": "nobody"}, []),
        ({"model_name": "m2"}, [5]),
        ({"model_version": "v9"}, [6]),
        ({"defect_detected": "true"}, [4, 2]),
        ({"defect_detected": "false", "edge_device_id": "cam"}, [3, 1]),
        ({"class": 'a "quoted" one'}, [4]),
        ({"class": "quoted"}, []),
        ({"class": "scratch"}, [4, 2]),
        ({"since": NOON + 2, "until": NOON + 5}, [4, 3, 2]),
        ({"since": "2026-01-28T10:30:45Z"}, [6, 5]),
        ({"since": "2026-01-28T10:30:45", "until": "2026-01-28T11:30:46+01:00"}, [5]),
    ],
)
async def test_each_filter_finds_its_predictions_newest_first(asked, found):
    async with service() as cloud:
        await cloud.post(payload(2, classes=("scratch",)), payload(1, classes=()))
        await cloud.post(payload(4, classes=("scratch", 'a "quoted" one')), payload(3, classes=()))
        await cloud.post(payload(5, classes=(), model_name="m2"), device="cam2", late=True)
        await cloud.post(payload(6, classes=(), model_version="v9"), device="cam2")
        answer = await cloud.get("/predictions", **asked)
        assert [item["seq"] for item in answer["predictions"]] == found
        assert all(item["late"] == (item["seq"] == 5) for item in answer["predictions"])


async def test_pages_neither_skip_nor_repeat_while_predictions_arrive():
    async with service() as cloud:
        await cloud.post(*(payload(n, timestamp=NOON + n // 4) for n in range(1, 24)))
        seen: list[int] = []
        cursor: dict[str, str] = {}
        for arriving in range(100, 200):
            page = await cloud.get("/predictions", limit=5, **cursor)
            seen += [item["seq"] for item in page["predictions"]]
            if page["next_cursor"] is None:
                break
            cursor = {"cursor": page["next_cursor"]}
            await cloud.post(payload(arriving, timestamp=NOON + 1000))
        assert sorted(seen) == list(range(1, 24))
        assert len(seen) == 23


async def test_a_page_of_giants_ends_early_and_goes_on():
    async with service() as cloud:
        pad = "x" * 250_000
        for n in range(1, 41, 20):
            await cloud.post(*(payload(k, pad=pad) for k in range(n, n + 20)))
        first = await cloud.get("/predictions", limit=40)
        assert len(first["predictions"]) == 33
        rest = await cloud.get("/predictions", limit=40, cursor=first["next_cursor"])
        assert [item["seq"] for item in rest["predictions"]] == list(range(7, 0, -1))


@pytest.mark.parametrize(
    ("query", "names"),
    [("limit=0", "limit"), ("limit=1001", "limit"), ("limit=x", "limit"), ("limit=²", "limit"), ("clas=x", "clas"),
     ("since=yesterday", "since"), ("until=nan", "until"), ("cursor=zz", "cursor"), ("cursor=nan_1", "cursor"),
     ("cursor=1.0_99999999999999999999", "cursor"), ("defect_detected=maybe", "defect_detected"),
     ("limit=1&limit=2", "limit")],
)  # fmt: skip
async def test_a_filter_that_is_not_understood_is_refused_by_name(query, names):
    async with service() as cloud:
        answer = await cloud.client.get(f"/predictions?{query}")
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith(f"{names}: ")


@pytest.mark.parametrize(
    ("query", "names"),
    [("stats?since=x", "since"), ("stats?limit=3", "limit"), ("stats?until=1e300", "until"),
     ("series?bucket_s=90", "bucket_s"), ("series?since=0&until=1e9&bucket_s=60", "bucket_s"),
     ("series?since=0&bucket_s=3600", "bucket_s"), ("series?bucket_s=0", "bucket_s"), ("series?until=-1e12", "until"),
     (f"series?since={NOON}&until={NOON}", "since"), (f"series?bucket_s={'9' * 30}", "bucket_s")],
)  # fmt: skip
async def test_a_question_about_time_that_is_not_understood_is_refused_by_name(query, names):
    async with service() as cloud:
        answer = await cloud.client.get(f"/{query}")
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith(f"{names}: ")


async def test_devices_show_when_they_were_seen_and_the_backlog_they_reported():
    async with service() as cloud:
        await cloud.post(payload(1), pending=120, late=True)
        cloud.clock.at += 60
        await cloud.post(payload(2))
        (device,) = (await cloud.get("/devices"))["devices"]
        assert device == {
            "edge_device_id": "cam", "state": "live",
            "first_seen_at": NOON, "last_seen_at": NOON + 60, "last_was_late": False,
            "pending": 120, "total_predictions": 2, "defects_detected": 2, "defect_rate": 1.0,
            "last_hour": {"total_predictions": 2, "defects_detected": 2, "defect_rate": 1.0},
            "last_lateness_s": 58.0, "missing": 0, "unexplained": 0,
        }  # fmt: skip


async def test_the_audit_finds_a_device_whose_name_needs_quoting_and_no_stranger():
    async with service() as cloud:
        await cloud.post(payload(1), device="hall 1/cam #2")
        assert (await cloud.audit("hall%201%2Fcam%20%232"))["stored"] == 1
        stranger = await cloud.client.get("/devices/nobody/audit")
        assert stranger.status_code == 404
        assert stranger.json()["remedy"]


async def test_unknown_paths_and_methods_are_json_too():
    async with service() as cloud:
        assert (await cloud.client.get("/nowhere")).json()["detail"] == "no such path"
        wrong = await cloud.client.get("/log")
        assert (wrong.status_code, "POST" in wrong.headers["Allow"]) == (405, True)
        assert "POST /log" in (await cloud.get("/"))["endpoints"]
