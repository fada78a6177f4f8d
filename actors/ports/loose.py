"""Find predictions in a database whose tree is broken: the page that leads to them is lost, and they still stand there.

A payload says its number, and its checksum stands behind it in the same record. One that lies across two pages is lost.
"""

import json
import mmap
import re
from collections.abc import Generator, Iterator
from pathlib import Path

import google_crc32c

PAGE_BYTES = 4096
_HEAD = re.compile(rb'\{"seq":([0-9]{1,19}),')
_decoder = json.JSONDecoder()


def loose_payloads(path: Path) -> Generator[bytes]:
    """Every payload in the database that stands whole on its page, with its checksum; also of rows that are long gone.

    `OSError`.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield from payloads_in(data)


def payloads_in(
    data: bytes | mmap.mmap, *, head_bytes: int = 0, step_bytes: int = PAGE_BYTES, above: int = 0
) -> Iterator[bytes]:
    """The payloads with numbers above `above` that stand whole on a page; one ends every `step_bytes` after a head."""
    for found in _HEAD.finditer(data):
        if int(found[1]) <= above:
            continue
        start = found.start()
        page = data[start : head_bytes + ((start - head_bytes) // step_bytes + 1) * step_bytes]
        # In this encoding each character is a byte, so the parser's position is a place in the file.
        try:
            _, size = _decoder.raw_decode(page.decode("latin-1"))
        except ValueError:
            continue
        payload, behind = page[:size], page[size:]
        if google_crc32c.value(payload).to_bytes(4, "big").lstrip(b"\0") in behind:
            yield payload
