"""What asks the cloud: devices with prebuilt bodies, readers, a crowd that waits, and clients that send garbage."""

import contextlib
import http.client
import itertools
import json
import os
import random
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import cast
from urllib.parse import urlsplit

import msgspec
import zstandard

from bench.load import predictions
from bench.table import percentile
from cloud.wire import compress, encode_prediction, frame_batch, join_payloads, number_payload

HEADERS = {"content-type": "application/json", "content-encoding": "zstd"}
GOOD_EVERY_S = 0.05
BOMBS = tuple(zstandard.compress(b" " * mib * 1024 * 1024) for mib in (1, 7, 9, 100))
"""Far more than a thousand to one; some keep the limit of a body, and some do not."""


def bodies(device: str, count: int, size: int, *, first: int = 1) -> list[bytes]:
    """POSTs of one device, as it sends them: numbered, framed, compressed; captured just now, 30 a second."""
    start = time.time() - count / 30
    payloads = [
        number_payload(first + n, encode_prediction(msgspec.structs.replace(one, timestamp=start + n / 30)))
        for n, one in enumerate(predictions(count))
    ]
    frames = (
        frame_batch(device, "bench", join_payloads(payloads[at : at + size]), sent_at=start, pending=0)
        for at in range(0, count, size)
    )
    return [compress(frame, "zstd") for frame in frames]


@contextlib.contextmanager
def connected(endpoint: str) -> Iterator[Callable[..., int]]:
    """One connection: a call (method, path, body) that asks and says the status."""
    url = urlsplit(endpoint)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=60)

    def ask(method: str, path: str, body: bytes = b"") -> int:
        connection.request(method, path, body or None, HEADERS if body else {})
        answer = connection.getresponse()
        answer.read()
        return answer.status

    try:
        yield ask
    finally:
        connection.close()


def post(endpoint: str, count: int, size: int, connections: int) -> dict[str, float]:
    """Predictions a second from so many devices, each as fast as it is answered.

    Requests are built beforehand and sent by one thread: `http.client` costs a fifth of what the service does, on the
    same processors.
    """
    url = urlsplit(endpoint)
    each = count // connections // size * size
    loads = [iter([_request(body) for body in bodies(f"camera-{n}", each, size)]) for n in range(connections)]
    with contextlib.ExitStack() as stack:
        ready = stack.enter_context(selectors.DefaultSelector())
        sockets = [socket.create_connection((url.hostname or "", url.port or 0), timeout=60) for _ in loads]
        for connection, load in zip(sockets, loads, strict=True):
            stack.enter_context(connection)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ready.register(connection, selectors.EVENT_READ, load)
        began = time.perf_counter()
        for connection, load in zip(sockets, loads, strict=True):
            connection.sendall(next(load))
        while ready.get_map():
            for key, _ in ready.select():
                connection = cast("socket.socket", key.fileobj)
                assert _status(connection) == 200
                request = next(key.data, None)
                if request is None:
                    ready.unregister(connection)
                else:
                    connection.sendall(request)
    return {"per_s": each * connections / (time.perf_counter() - began)}


def latency(endpoint: str, per_s: float, size: int, connections: int, seconds: float) -> dict[str, float]:
    """ms from when a POST was due, at a fixed rate of predictions, to its answer."""
    every_s = size * connections / per_s
    each = max(1, int(seconds / every_s))
    loads = [bodies(f"steady-{n}", each * size, size) for n in range(connections)]
    took: list[float] = []
    began = time.perf_counter() + 0.1

    def feed(number: int) -> None:
        due = began + number * every_s / connections
        with connected(endpoint) as ask:
            for body in loads[number]:
                time.sleep(max(0.0, due - time.perf_counter()))
                assert ask("POST", "/log", body) == 200
                took.append((time.perf_counter() - due) * 1e3)
                due += every_s

    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(feed, range(connections)))
    return {"p50": percentile(took, 0.5), "p99": percentile(took, 0.99), "requests": len(took)}


def read(endpoints: list[str], paths: list[str], count: int) -> list[dict[str, float]]:
    """ms of a GET of each, in turn, so that a slow moment of the machine hits all alike."""
    took: list[list[float]] = [[] for _ in paths]
    with contextlib.ExitStack() as stack:
        asks = [stack.enter_context(connected(endpoint)) for endpoint in endpoints]
        pairs = list(zip(took, asks, paths, strict=True))
        for number in range(count):
            # Whoever is asked second finds the processor's caches full of the first.
            for seen, ask, path in pairs if number % 2 else pairs[::-1]:
                began = time.perf_counter()
                assert ask("GET", path) == 200
                seen.append((time.perf_counter() - began) * 1e3)
    return [{"p50": percentile(seen, 0.5), "p99": percentile(seen, 0.99)} for seen in took]


def oldest(endpoint: str, skip: int) -> str:
    """The cursor of the page that ends the store, `skip` predictions before its oldest one."""
    url = urlsplit(endpoint)
    since = time.time() - 86_400 * 2
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=60)
    low, high = since, time.time()
    with contextlib.closing(connection):
        while True:
            middle = (low + high) / 2
            connection.request("GET", f"/predictions?limit={skip}&until={middle!r}")
            found = json.loads(connection.getresponse().read())
            if found["next_cursor"] is not None and high - low < 600:
                return str(found["next_cursor"])
            low, high = (low, middle) if found["next_cursor"] is not None else (middle, high)


def crowd(endpoint: str, devices: int, in_flight: int, size: int) -> dict[str, float]:
    """So many connections that stay open, each of a device that has sent a batch; then a wave of POSTs at once."""
    url = urlsplit(endpoint)
    sockets: list[socket.socket] = []
    statuses: Counter[int] = Counter()
    for number in range(devices):
        connection = socket.create_connection((url.hostname or "", url.port or 0), timeout=60)
        sockets.append(connection)
        statuses[_exchange(connection, bodies(f"crowd-{number}", size, size)[0])] += 1
    again = [bodies(f"crowd-{number}", size, size, first=size + 1)[0] for number in range(in_flight)]
    for connection, body in zip(sockets, again, strict=False):
        connection.sendall(_request(body))
    for connection in sockets[:in_flight]:
        statuses[_answer(connection)] += 1
    for connection in sockets:
        connection.close()
    return {"ok": statuses[200], "busy": statuses[503], "other": statuses.total() - statuses[200] - statuses[503]}


def _request(body: bytes) -> bytes:
    head = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    return f"POST /log HTTP/1.1\r\nhost: 127.0.0.1\r\n{head}content-length: {len(body)}\r\n\r\n".encode() + body


def _exchange(connection: socket.socket, body: bytes) -> int:
    connection.sendall(_request(body))
    return _answer(connection)


def _answer(connection: socket.socket) -> int:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status


def _status(connection: socket.socket) -> int:
    """Of an answer whose length is told, read whole."""
    answer = b""
    while True:
        piece = connection.recv(64 * 1024)
        assert piece, "the service closed the connection"
        answer += piece
        head, found, body = answer.partition(b"\r\n\r\n")
        if found and len(body) >= int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            return int(head[9:12])


def hostile(endpoint: str, count: int, connections: int) -> dict[str, float]:
    """Garbage of every kind, and a good client beside it: statuses, and how the good one fared."""
    url = urlsplit(endpoint)
    statuses: Counter[int] = Counter()
    good: Counter[int] = Counter()
    waited: list[float] = []
    done = threading.Event()

    def garbage(seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311 - a benchmark's load
        valid = bodies(f"hostile-{seed}", 32, 32)[0]
        for _ in range(count // connections):
            head, body = _garbage(rng, valid)
            connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=60)
            with contextlib.closing(connection):
                try:
                    connection.request("POST", "/log", body, head)
                    statuses[connection.getresponse().status] += 1
                except (http.client.HTTPException, OSError):
                    statuses[0] += 1

    def beside() -> None:
        load = itertools.chain.from_iterable(
            bodies("good", 3_200, 32, first=1 + 3_200 * number) for number in itertools.count()
        )
        with connected(endpoint) as ask:
            for body in load:
                if done.wait(GOOD_EVERY_S):
                    return
                began = time.perf_counter()
                good[ask("POST", "/log", body)] += 1
                waited.append((time.perf_counter() - began) * 1e3)

    client = threading.Thread(target=beside)
    client.start()
    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(garbage, range(connections)))
    done.set()
    client.join()
    return {
        "sent": count // connections * connections,
        "crashed": sum(number for status, number in statuses.items() if status >= 500 and status != 503),
        "cut": statuses[0],
        "good": good[200],
        "good_failed": good.total() - good[200],
        "good_p99": percentile(waited, 0.99),
    }


def _garbage(rng: random.Random, valid: bytes) -> tuple[dict[str, str], bytes]:
    """One request that nobody should send."""
    zstd, gzip = {"content-encoding": "zstd"}, {"content-encoding": "gzip"}
    plain = zstandard.decompress(valid)
    cut, at = rng.randrange(1, len(valid)), rng.randrange(len(plain))
    return rng.choice(
        [
            ({}, os.urandom(rng.randrange(1, 4_000))),
            (zstd, os.urandom(rng.randrange(1, 4_000))),
            (gzip, valid),
            ({"content-encoding": rng.choice(["br", "x" * 200, "zstd, gzip"])}, valid),
            (zstd, valid[:cut]),
            ({}, plain[:at] + os.urandom(rng.randrange(1, 8)) + plain[at:]),
            (zstd, rng.choice(BOMBS)),
            ({}, b'{"edge_device_id":"h","predictions":[' + b"[" * rng.randrange(1, 50_000)),
            ({"authorization": "Bearer " + "k" * rng.randrange(1, 20_000)}, plain),
        ]
    )
