"""The part of a client that reconnects which is alike with and without an event loop."""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from .reading import MAX_EVENT_SIZE, Reading, checked_ends
from .reconnecting import Reconnection, checked_times
from .requesting import RequestArguments, Source, is_async

if TYPE_CHECKING:
    from .requesting import Headers


class SourceReader:
    """The arguments and attributes of `EventSource` and `SyncEventSource`."""

    __slots__ = ("_chunks", "_client", "_response", "_source")

    _is_async: ClassVar[bool]

    def __init__(
        self,
        client: Any,
        url: Any,
        *,
        method: str = "GET",
        headers: Headers | None = None,
        params: Any = None,
        json: Any = None,
        last_event_id: str = "",
        type: Any = None,
        until: str | None = None,
        until_event: str | Iterable[str] | None = None,
        raise_on: str | Iterable[str] = (),
        max_event_size: int = MAX_EVENT_SIZE,
        silence_timeout: float = 45.0,
        retry: float = 3.0,
        max_delay: float = 60.0,
        max_failures: int | None = None,
        repeat: bool = False,
    ) -> None:
        ends = checked_ends(until, until_event, raise_on)
        times = checked_times(silence_timeout, retry, max_delay)
        self._source = Source(
            client,
            RequestArguments(method, url, headers, params, json),
            Reading(ends, type, max_event_size, last_event_id),
            Reconnection(times, method, max_failures, repeat),
        )
        if is_async(client) is not self._is_async:
            other = "SyncEventSource" if self._is_async else "EventSource"
            raise TypeError(
                f"{builtins.type(self).__name__} does not take a client of this kind, but"
                f" {other} does: {builtins.type(client).__name__}"
            )
        self._client = client
        # Of the open connection.
        self._response: Any = None
        self._chunks: Any = None

    # Python's errors name it, of an argument that there is not.
    __init__.__qualname__ = "EventSource or SyncEventSource"

    @property
    def last_event_id(self) -> str:
        """The id to resume from, after the events that were returned so far."""
        return self._source.reading.last_event_id

    @property
    def connected(self) -> bool:
        """Whether there is a connection: from the response's headers to its end."""
        return self._source.connected

    @property
    def failures(self) -> int:
        """How many connections have failed in a row."""
        return self._source.reconnection.failures
