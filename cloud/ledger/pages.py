"""Everything that a question finds, one page after the other."""

from collections.abc import AsyncGenerator, Awaitable, Callable

import attrs

from cloud.ledger import Page, Query, StoredPrediction


async def pages(
    read: Callable[[Query], Awaitable[Page]], query: Query
) -> AsyncGenerator[tuple[StoredPrediction, ...], None]:
    """The items of every page from the query's cursor on, newest first."""
    while True:
        page = await read(query)
        if page.items:
            yield page.items
        if page.next_cursor is None:
            return
        query = attrs.evolve(query, cursor=page.next_cursor)
