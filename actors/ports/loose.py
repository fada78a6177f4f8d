"""Find predictions in a database whose tree is broken: the page that leads to them is lost, and they still stand there.

A payload says its number, and its checksum stands behind it in the same record. One that lies across two pages is lost.
"""

import json
import mmap
import re
from collections.abc import Generator
from pathlib import Path

import google_crc32c

PAGE_BYTES = 4096
_HEAD = re.compile(rb'\{"seq":[0-9]{1,19},')
_decoder = json.JSONDecoder()


def loose_payloads(path: Path) -> Generator[bytes]:
    """Every payload in the file that stands whole on its page, with its checksum; also of rows that are long gone.

    `OSError`.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for found in _HEAD.finditer(data):
                start = found.start()
                page = data[start : start // PAGE_BYTES * PAGE_BYTES + PAGE_BYTES]
                # In this encoding each character is a byte, so the parser's position is a place in the file.
                try:
                    _, size = _decoder.raw_decode(page.decode("latin-1"))
                except ValueError:
                    continue
                payload, behind = page[:size], page[size:]
                if google_crc32c.value(payload).to_bytes(4, "big").lstrip(b"\0") in behind:
                    yield payload
