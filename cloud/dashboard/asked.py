"""What a page's address asks for, and the addresses of the pages beside it."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar, get_args
from urllib.parse import quote, urlencode

import attrs

from cloud.ledger import SeriesQuery
from cloud.presence import PRESENCES, Presence
from cloud.queries import QueryWrong

Order = Literal["attention", "device", "seen", "backlog", "rate", "defects", "missing"]
ORDERS: tuple[Order, ...] = get_args(Order)
RANGES: dict[str, tuple[float, int]] = {
    "1h": (3_600.0, 60),
    "24h": (86_400.0, 1_800),
    "7d": (604_800.0, 10_800),
    "30d": (2_592_000.0, 43_200),
}
"""How far back a plot reaches and the time one of its points spans, in seconds."""
TEXT_CHARS_MAX = 256
PAGE_MAX = 1_000_000
Word = TypeVar("Word", bound=str)


@attrs.frozen
class Asked:
    """The parameters of a page; the defaults are what `/` shows."""

    span: str = "1h"
    text: str = ""
    """Only devices with this in their id, in any case."""
    state: Presence | None = None
    order: Order = "attention"
    page: int = 1

    def link(self, path: str = "/", **changes: object) -> str:
        """The address of the same page with `changes`; whatever changes what is listed goes back to page 1."""
        if changes.keys() - {"span", "page"}:
            changes.setdefault("page", 1)
        wanted = attrs.evolve(self, **changes)  # type: ignore[arg-type]  # names of ours, set by templates of ours
        plain = Asked()
        given = {_NAMES[name]: value for name, value in attrs.asdict(wanted).items() if value != getattr(plain, name)}
        return f"{path}?{urlencode(given)}" if given else path

    def series(self, now: float, device_id: str | None = None) -> SeriesQuery:
        """The stretch of time that the plots show."""
        span_s, bucket_s = RANGES[self.span]
        return SeriesQuery(now - span_s, now, bucket_s, device_id)


_NAMES = {"span": "range", "text": "q", "state": "state", "order": "sort", "page": "page"}


def device_link(device_id: str) -> str:
    """The address of a device's own page."""
    return f"/device/{quote(device_id, safe='')}"


def read_asked(args: Mapping[str, Sequence[str]]) -> Asked:
    """The parameters of an address; `QueryWrong` names one that is not known or not understood."""
    for name, values in args.items():
        if name not in _NAMES.values():
            raise QueryWrong(f"{name[:64]}: no such parameter; takes {', '.join(_NAMES.values())}")
        if len(values) != 1:
            raise QueryWrong(f"{name}: given {len(values)} times; takes one value")
    given = {name: values[0] for name, values in args.items() if values[0]}
    text = given.get("q", "")
    if len(text) > TEXT_CHARS_MAX:
        raise QueryWrong(f"q: {len(text)} characters; takes at most {TEXT_CHARS_MAX}")
    page = given.get("page", "1")
    if not (page.isascii() and page.isdecimal() and len(page) < 8 and 1 <= int(page) <= PAGE_MAX):
        raise QueryWrong(f"page: takes a whole number from 1 to {PAGE_MAX}")
    return Asked(
        span=_one_of("range", given, tuple(RANGES)) or "1h",
        text=text,
        state=_one_of("state", given, PRESENCES),
        order=_one_of("sort", given, ORDERS) or "attention",
        page=int(page),
    )


def _one_of(name: str, given: Mapping[str, str], taken: Sequence[Word]) -> Word | None:
    if name not in given:
        return None
    for value in taken:
        if value == given[name]:
            return value
    raise QueryWrong(f"{name}: takes {', '.join(taken)}")
