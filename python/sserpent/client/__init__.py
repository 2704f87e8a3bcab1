"""Event streams, read: a parser of their bytes, iterators over their events, and clients that
reconnect.

    from sserpent.client import EventSource, aiter_events

Responses and clients are those of httpx2 and httpx; iterators read aiohttp's and requests' too, and
anything else that yields bytes.
"""

from .._core import EventStreamParser, EventTooLarge, MessageEvent
from .on_async import AsyncEventIterator, aiter_events
from .on_sync import EventIterator, iter_events
from .reading import ErrorEvent, IncompleteStream
from .responses import NotAnEventStream
from .source_on_async import EventSource
from .source_on_sync import SyncEventSource

__all__ = [
    "AsyncEventIterator",
    "ErrorEvent",
    "EventIterator",
    "EventSource",
    "EventStreamParser",
    "EventTooLarge",
    "IncompleteStream",
    "MessageEvent",
    "NotAnEventStream",
    "SyncEventSource",
    "aiter_events",
    "iter_events",
]
