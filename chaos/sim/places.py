"""What lies where in a SQLite file: a bit that may flip anywhere would else almost always meet a payload or nothing."""

from collections.abc import Iterator, Mapping
from itertools import compress

import attrs

FILE_HEADER = 100
INTERIOR_INDEX, INTERIOR_TABLE, LEAF_INDEX, LEAF_TABLE = 2, 5, 10, 13
COLUMNS = {
    "buffer_predictions": {1: "payload", 6: "status"},
    "buffer_confirmed": {},
    "buffer_losses": {},
    "buffer_metadata": {},
}
"""The columns with places of their own, by table; the others are `<table> columns`."""
SIZES = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)
"""How many bytes a value takes, by the smaller serial types of SQLite's record format."""


@attrs.frozen
class Places:
    """What lies where in one file; an offset is only looked for when it is asked for."""

    labels: bytearray
    """For each byte of the file which of `names` it is."""
    names: list[str]

    @property
    def kinds(self) -> list[str]:
        """Those that the file has, in order."""
        return sorted(kind for label, kind in enumerate(self.names) if label in self.labels)

    def of(self, kind: str) -> list[int]:
        """The offsets of the bytes of a kind."""
        label = self.names.index(kind)
        return list(compress(range(len(self.labels)), self.labels.translate(bytes(label) + b"\1" + bytes(255 - label))))

    def nth(self, number: int) -> tuple[str, int]:
        """One byte's kind and offset, counted kind by kind."""
        for kind in self.kinds:
            count = self.labels.count(self.names.index(kind))
            if number < count:
                return kind, self.of(kind)[number]
            number -= count
        raise IndexError(number)


def places(data: bytes, roots: Mapping[str, int]) -> Places:
    """What lies where. `roots`: the first page of each table and index, by its name.

    What can't be followed, because an earlier bit has hit it, is `elsewhere`, as free space is. Format: SQLite's own
    description, https://www.sqlite.org/fileformat2.html.
    """
    chart = _Chart(data, int.from_bytes(data[16:18], "big") or 1)
    chart.mark("file header", 0, FILE_HEADER)
    for name, root in {"sqlite_schema": 1, **roots}.items():
        chart.walk(name, root)
    return Places(chart.labels, chart.kinds)


@attrs.define
class _Chart:
    data: bytes
    page_bytes: int
    labels: bytearray = attrs.field(init=False)
    """For each byte of the file which of `kinds` it is."""
    kinds: list[str] = attrs.field(factory=lambda: ["elsewhere"], init=False)
    seen: set[int] = attrs.field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        self.labels = bytearray(len(self.data))

    def mark(self, kind: str, start: int, end: int) -> None:
        if kind not in self.kinds:
            self.kinds.append(kind)
        end = min(end, len(self.data))
        self.labels[start:end] = bytes([self.kinds.index(kind)]) * max(0, end - start)

    def walk(self, name: str, root: int) -> None:
        """Follow a tree from its first page."""
        todo = [root]
        while todo:
            page = todo.pop()
            whole = 0 < page <= len(self.data) // self.page_bytes
            if whole and page not in self.seen:
                self.seen.add(page)
                todo += self._page(name, (page - 1) * self.page_bytes)

    def _page(self, name: str, start: int) -> Iterator[int]:
        """Mark what is on a page; the pages below it."""
        at = start or FILE_HEADER
        kind = self.data[at]
        if kind not in (INTERIOR_INDEX, INTERIOR_TABLE, LEAF_INDEX, LEAF_TABLE):
            return
        below = kind in (INTERIOR_INDEX, INTERIOR_TABLE)
        pointers = at + (12 if below else 8)
        cells = min(self._number(at + 3, 2), (start + self.page_bytes - pointers) // 2)
        self.mark("page header", at, pointers + 2 * cells)
        if below:
            yield self._number(at + 8, 4)
        for pointer in range(pointers, pointers + 2 * cells, 2):
            cell = start + self._number(pointer, 2)
            if cell + 4 > start + self.page_bytes:
                continue
            if below:
                self.mark("page header", cell, cell + 4)
                yield self._number(cell, 4)
                cell += 4
            self._cell(name, kind, cell, start + self.page_bytes)

    def _cell(self, name: str, kind: int, at: int, page_end: int) -> None:
        begin = at
        payload = 0
        if kind != INTERIOR_TABLE:
            payload, at = self._varint(at)
        if kind in (INTERIOR_TABLE, LEAF_TABLE):
            _, at = self._varint(at)
            self.mark("row number", begin, at)
        if kind == INTERIOR_TABLE:
            return
        size, types = self._varint(at)
        body, page_end = at + size, min(page_end, at + self._here(payload, kind))
        if body > page_end:
            return
        self.mark("record header", at, body)
        column, types_end = 0, body
        while types < types_end:
            serial, types = self._varint(types)
            end = min(body + _bytes_of(serial), page_end)
            which = COLUMNS.get(name, {}).get(column, f"{name} columns" if name in COLUMNS else "index or schema entry")
            self.mark(which, body, end)
            body, column = end, column + 1

    def _here(self, payload: int, kind: int) -> int:
        """How much of a record lies on its own page; the rest is on pages that overflow."""
        usable = self.page_bytes
        most = usable - 35 if kind == LEAF_TABLE else (usable - 12) * 64 // 255 - 23
        least = (usable - 12) * 32 // 255 - 23
        if payload <= most:
            return payload
        fitting = least + (payload - least) % (usable - 4)
        return fitting if fitting <= most else least

    def _number(self, at: int, size: int) -> int:
        return int.from_bytes(self.data[at : at + size], "big")

    def _varint(self, at: int) -> tuple[int, int]:
        """A number of SQLite's variable length, and where the next thing begins."""
        value = 0
        for byte in self.data[at : at + 8]:
            value, at = value << 7 | byte & 127, at + 1
            if byte < 128:
                return value, at
        return value << 8 | int.from_bytes(self.data[at : at + 1], "big"), at + 1


def _bytes_of(serial: int) -> int:
    return SIZES[serial] if serial < len(SIZES) else max(0, serial - 12) // 2
