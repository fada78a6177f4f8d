"""A store that fails or hangs: what a device, a probe and an operator are told meanwhile."""

import math
from typing import Any, cast

import structlog
import trio

from cloud.ledger.desk import ANSWER_S_MAX, CHECK_S_MAX
from tests.cloud.world import payload, service


async def test_a_store_that_fails_is_503_and_not_ready_but_the_process_is_healthy():
    async with service() as cloud:
        cloud.ledger._files.writing.execute("PRAGMA query_only = ON")
        answer = await cloud.post(payload(1))
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert (await cloud.client.get("/ready")).status_code == 503
        assert (await cloud.client.head("/health")).status_code == 200
        cloud.ledger._files.writing.execute("PRAGMA query_only = OFF")
        assert (await cloud.client.get("/ready")).status_code == 200
        assert (await cloud.post(payload(1))).json()["accepted"] == 1


async def test_a_store_that_hangs_is_503_in_bounded_time_and_the_process_is_healthy(autojump_clock):
    hangs = False

    async def lane(function, /, *args, **kwargs):
        await trio.sleep(math.inf if hangs else 0)
        return function(*args, **kwargs)

    async with service(run_sync=lane) as cloud:
        assert (await cloud.client.get("/ready")).status_code == 200
        hangs = True
        for method, path, bound_s in (("GET", "/ready", CHECK_S_MAX), ("GET", "/stats", ANSWER_S_MAX)):
            began = trio.current_time()
            answer = await cloud.client.request(method, path)
            assert (answer.status_code, "not answered" in answer.json()["detail"]) == (503, True)
            assert trio.current_time() - began == bound_s
        began = trio.current_time()
        answer = await cloud.post(payload(1))
        assert (answer.status_code, trio.current_time() - began) == (503, ANSWER_S_MAX)
        assert int(answer.headers["Retry-After"]) > 0
        assert (await cloud.client.head("/health")).status_code == 200
        hangs = False
        assert (await cloud.client.get("/ready")).status_code == 200
        assert (await cloud.post(payload(1))).json()["accepted"] == 1


async def test_a_defect_of_ours_is_a_500_without_its_entrails():
    async with service() as cloud:
        cloud.ledger._files.writing.execute("DROP TABLE rollups")
        cloud.ledger._reading = cast("Any", None)
        with structlog.testing.capture_logs() as logs:
            answer = await cloud.client.get("/stats")
    assert answer.status_code == 500
    assert answer.json()["detail"] == "internal error"
    assert logs[0]["event"] == "request_failed"
