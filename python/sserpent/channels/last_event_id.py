"""The last event ID that a client comes back with, for a path operation."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header, Query


async def last_event_id(
    header: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
    query: Annotated[str | None, Query(alias="last_event_id")] = None,
) -> str | None:
    """Returns the `Last-Event-ID` header, else the query parameter `last_event_id`, because an
    `EventSource` cannot set headers on its first request."""
    # Async although it waits for nothing: FastAPI runs a plain function in the pool of threads that
    # sync routes share, where a subscriber would wait for a free one.
    return header or query or None


#: A parameter of a path operation: `last_event_id: LastEventID = None`.
LastEventID = Annotated[str | None, Depends(last_event_id)]
