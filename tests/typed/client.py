"""What type checkers make of readers. `make typecheck` reads it."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import Mapping

import httpx2
from pydantic import BaseModel
from typing_extensions import assert_type

from sserpent.client import (
    AsyncEventIterator,
    EventIterator,
    EventSource,
    MessageEvent,
    SyncEventSource,
    aiter_events,
    iter_events,
)


class Item(BaseModel):
    name: str


class Sold(BaseModel):
    price: int


# For mypy, which makes one class of the values of a dict: their common base.
TYPES: dict[str, type[Item | Sold]] = {"created": Item, "sold": Sold}
WITH_ERRORS: dict[str, type[Item | MessageEvent]] = {"created": Item, "error": MessageEvent}


async def headers() -> Mapping[str, str]:
    return {}


async def events(client: httpx2.AsyncClient) -> None:
    source = EventSource(client, "/", headers=headers, until_event=["end", "error"])
    assert_type(source, EventSource[MessageEvent])
    async with EventSource(client, "/") as left_open:
        assert_type(left_open, EventSource[MessageEvent])
        async for event in left_open:
            assert_type(event, MessageEvent)


async def items(client: httpx2.AsyncClient) -> None:
    async with EventSource(client, "/", type=Item) as source:
        assert_type(source, EventSource[Item])
        async for item in source:
            assert_type(item, Item)
    assert_type(EventSource(client, "/", type=TYPES), EventSource[Item | Sold])
    assert_type(EventSource(client, "/", type=WITH_ERRORS), EventSource[Item | MessageEvent])
    typed: EventSource[Item | Sold] = EventSource(client, "/", type=Item | Sold)
    assert_type(typed, EventSource[Item | Sold])
    EventSource(client, "/", headers=1)  # type: ignore[call-overload]
    EventSource(client, "/", timeout=5)  # type: ignore[call-overload]


def events_without_a_loop(client: httpx2.Client) -> None:
    with SyncEventSource(client, "/", retry=1) as source:
        assert_type(source, SyncEventSource[MessageEvent])
        for event in source:
            assert_type(event, MessageEvent)
    assert_type(SyncEventSource(client, "/", type=Item), SyncEventSource[Item])
    assert_type(SyncEventSource(client, "/", type=TYPES), SyncEventSource[Item | Sold])


def iterators(response: httpx2.Response) -> None:
    assert_type(aiter_events(response), AsyncEventIterator[MessageEvent])
    assert_type(aiter_events(response, type=Item, until="[DONE]"), AsyncEventIterator[Item])
    assert_type(aiter_events(response, type=TYPES), AsyncEventIterator[Item | Sold])
    assert_type(iter_events(response), EventIterator[MessageEvent])
    assert_type(iter_events(response, type=WITH_ERRORS), EventIterator[Item | MessageEvent])


class Told(EventSource[MessageEvent]):
    """A subclass, which has a type of its own."""


def subclasses(client: httpx2.AsyncClient) -> None:
    assert_type(Told(client, "/"), Told)
