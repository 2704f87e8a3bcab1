"""The last event ID of a client, as a parameter of a route.

FastAPI takes a quarter of a connect to read and validate a header and a query parameter. The last
event ID needs no validation, so the function reads both from the request. The parameters are there
for the OpenAPI document, and FastAPI skips them in routes of our response classes.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from fastapi import Depends, Header, Query
from starlette.requests import HTTPConnection


async def last_event_id(
    connection: HTTPConnection,
    header: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
    query: Annotated[str | None, Query(alias="last_event_id")] = None,
) -> str | None:
    """Returns the `Last-Event-ID` header, else the query parameter `last_event_id`, because an
    `EventSource` cannot set headers on its first request."""
    # Async although it waits for nothing: FastAPI runs a plain function in the pool of threads that
    # sync routes share, where a subscriber would wait for a free one.
    from_header = connection.headers.get("last-event-id")
    return from_header or connection.query_params.get("last_event_id") or None


#: A parameter of a path operation: `last_event_id: LastEventID = None`.
LastEventID = Annotated[str | None, Depends(last_event_id)]


def without_parameters(dependant: Any) -> Any:
    """Returns a dependant of FastAPI's whose `last_event_id`, at any depth, has no parameters left
    to be read and validated. It is to be solved; the OpenAPI document is made of the other."""
    if dependant.call is last_event_id:
        return dataclasses.replace(dependant, header_params=[], query_params=[])
    dependencies = [without_parameters(each) for each in dependant.dependencies]
    return dataclasses.replace(dependant, dependencies=dependencies)
