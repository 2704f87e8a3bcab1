"""A stream over all its connections, on an event loop: asyncio's or Trio's."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from inspect import isawaitable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import anyio

from .._core import EventTooLarge
from .on_async import CLOSE_TIMEOUT
from .reading import ErrorEvent
from .requesting import NONE
from .responses import AsyncResponseBytes, NotAnEventStream
from .source_reader import SourceReader

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from .._core import MessageEvent
    from .requesting import SourceOptions

T = TypeVar("T")


class EventSource(SourceReader, Generic[T]):
    """An async iterator over the events of a stream. It reconnects with the last event ID when a
    connection breaks or ends.

        async with EventSource(client, "https://example.com/rooms/lobby") as source:
            async for event in source:
                ...

    Leaving the context closes the connection, but not the client. Use it in one task at a time. It
    works on asyncio and Trio. If a read is cancelled, the connection is closed, and the next read
    opens a new one. While it cannot connect, it logs the reason as a warning of the logger
    `sserpent`, once for each reason in a row.

    Args:
        client: An `AsyncClient` of httpx2 or httpx. Its read timeout is replaced by
            `silence_timeout` for these requests; redirects, authentication and the other timeouts
            are the client's.
        url: The URL of the stream.
        method: The method of the request. Any method but GET and HEAD is sent again only if the
            server has not handled the request (no connection, 429, 503), if there is a last event
            ID, or if `repeat` is set.
        headers: The headers of the request: a mapping, or a function that returns one. The function
            is called for each connection, for tokens that expire, and may be async. If it raises
            the client's error for a failed connection, or for a 408, 425, 429 or 5xx
            (`raise_for_status`), that counts as a failure. Any other exception ends the iteration.
        params, json: As for the client's own requests.
        last_event_id: The id to resume from, if the stream was read before.
        type, until, until_event, raise_on, max_event_size: As in `aiter_events`.
        silence_timeout: Seconds without a byte, not even a keep-alive, after which it reconnects.
            The default is 45.
        retry: Seconds to wait before the first reconnection, unless the stream has sent a `retry`.
            The default is 3. The wait doubles with each failure in a row. Each wait is random,
            between one and two times its length.
        max_delay: Up to how many seconds the wait doubles. The default is 60, which makes waits
            of 60 to 120 s. A longer `retry` or `Retry-After` of the server wins.
        max_failures: How many failures in a row end the iteration. None, the default, sets no
            limit.
        repeat: Whether a POST, or another request with effects, may always be sent again. The
            default is False.

    Attributes:
        last_event_id: The id to resume from, after the events that were returned so far.
        connected: Whether there is a connection, from its headers to its end.
        failures: How many connections failed in a row; 0 when an event is handed out.

    Iterating raises:
        NotAnEventStream: the response is neither an event stream nor a 204. A 408, 425, 429 or 5xx
            raises only after `max_failures` in a row, or if the request must not be sent again.
        IncompleteStream: the stream has ended for good, by a 204 or because the request must not be
            sent again, without the event that `until` or `until_event` names.
        ErrorEvent, EventTooLarge, pydantic.ValidationError: As in `aiter_events`. After a
            `ValidationError` the iteration can go on.
        Exception: the HTTP client's error, if `max_failures` connections in a row failed, or if a
            connection broke whose request must not be sent again; or an exception of the `headers`
            function.

    Raises:
        TypeError: an argument has the wrong type; the message names it.
        ValueError: an argument breaks a rule; the message names it.
    """

    __slots__ = ()
    __module__ = "sserpent.client"

    _is_async = True

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: EventSource[MessageEvent],
            client: Any,
            url: Any,
            *,
            type: None = None,
            **options: Unpack[SourceOptions],
        ) -> None: ...
        @overload
        def __init__(
            self,
            client: Any,
            url: Any,
            *,
            type: builtins.type[T] | Mapping[str, builtins.type[T]],
            **options: Unpack[SourceOptions],
        ) -> None: ...
        @overload
        def __init__(
            self: EventSource[Any],
            client: Any,
            url: Any,
            *,
            type: Any,
            **options: Unpack[SourceOptions],
        ) -> None: ...
        def __init__(self, *arguments: Any, **options: Any) -> None: ...

    def __aiter__(self) -> EventSource[T]:
        return self

    async def __anext__(self) -> T:
        source = self._source
        while True:
            try:
                item: T = source.next_item()
            except (ErrorEvent, EventTooLarge):
                await self.aclose()
                raise
            if item is not NONE:
                return item
            if source.is_over:
                await self.aclose()
                raise StopAsyncIteration
            try:
                await (self._connect() if self._response is None else self._read())
            except Exception:
                await self.aclose()
                raise
            except BaseException:
                await self._disconnect()
                source.cancelled()
                raise

    async def _connect(self) -> None:
        source = self._source
        if source.waits:
            await anyio.sleep_until(source.waits_until(anyio.current_time()))
            source.waited()
        try:
            given: Any = source.headers()
            headers = await given if isawaitable(given) else given
        except Exception as error:
            source.failed(source.without_headers(error))
            return
        request = source.request(headers)
        try:
            self._response = await self._client.send(request, stream=True)
        except Exception as error:
            source.failed(source.failure_of(error))
            return
        response = AsyncResponseBytes(self._response)
        try:
            failure = source.opened(response)
        except NotAnEventStream as error:
            error.body = await response.beginning()
            raise
        if source.connected:
            self._chunks = aiter(self._response.aiter_bytes())
        if failure is not None:
            try:
                source.failed(failure)  # before its body is read, which may be cancelled
            finally:
                failure.error.body = await response.beginning()
                await self._disconnect()

    async def _read(self) -> None:
        source = self._source
        try:
            chunk = await anext(self._chunks, NONE)
        except Exception as error:
            failure = source.failure_of(error)
            await self._disconnect(error)
            source.failed(failure)
            return
        source.reading.feed(b"" if chunk is NONE else chunk)
        if chunk is NONE:
            await self._disconnect()
            source.ended_whole()

    async def _disconnect(self, error: Exception | None = None) -> None:
        self._source.closed(error)
        response, chunks = self._response, self._chunks
        self._response = self._chunks = None
        with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
            for each in (chunks, response):
                if each is not None:
                    await each.aclose()

    async def aclose(self) -> None:
        """Ends the iteration, and closes its connection."""
        self._source.end()
        await self._disconnect()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: builtins.type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
