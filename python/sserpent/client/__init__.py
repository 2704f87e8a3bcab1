"""Event streams, read: a parser of their bytes, iterators over their events, and clients that
reconnect.

    from sserpent.client import EventSource, aiter_events

Responses and clients are those of httpx2 and httpx; iterators read aiohttp's and requests' too, and
anything else that yields bytes.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING
from typing import Any as _Any

from .._core import EventStreamParser, EventTooLarge, MessageEvent
from .on_sync import EventIterator, iter_events
from .reading import ErrorEvent, IncompleteStream
from .responses import NotAnEventStream

if TYPE_CHECKING:
    from .on_async import AsyncEventIterator, aiter_events
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

# The module that has a name of which a reader without an event loop, or without a client that
# reconnects, has no use. Those of event loops load anyio.
_MODULES = {
    "AsyncEventIterator": ".on_async",
    "EventSource": ".source_on_async",
    "SyncEventSource": ".source_on_sync",
    "aiter_events": ".on_async",
}


def __getattr__(name: str) -> _Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(_import_module(_MODULES[name], __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
