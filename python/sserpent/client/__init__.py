"""Event streams, read: a parser of their bytes, and iterators over their events.

    from sserpent.client import aiter_events

Bytes come from anything that yields them: httpx, httpx2, aiohttp, requests, a file.
"""

from .._core import EventStreamParser, EventTooLarge, MessageEvent
from .on_async import AsyncEventIterator, aiter_events
from .on_sync import EventIterator, iter_events
from .reading import IncompleteStream

__all__ = [
    "AsyncEventIterator",
    "EventIterator",
    "EventStreamParser",
    "EventTooLarge",
    "IncompleteStream",
    "MessageEvent",
    "aiter_events",
    "iter_events",
]
