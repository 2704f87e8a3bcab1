"""A stream over all its connections, without an event loop."""

from __future__ import annotations

import builtins
import time
from collections.abc import Coroutine, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from .._core import EventTooLarge
from .reading import ErrorEvent
from .requesting import NONE
from .responses import NotAnEventStream, ResponseBytes
from .source_reader import SourceReader

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from .._core import MessageEvent
    from .requesting import SourceOptions

T = TypeVar("T")


class SyncEventSource(SourceReader, Generic[T]):
    """An iterator over the events of a stream, for code without an event loop. It reconnects with
    the last event ID when a connection breaks or ends.

        with SyncEventSource(client, "https://example.com/rooms/lobby") as source:
            for event in source:
                ...

    Leaving the context closes the connection, but not the client. Use it in one thread at a time.
    `client` is a `Client` of httpx2 or httpx, and `headers` must not be async. Everything else is
    as in `EventSource`.
    """

    __slots__ = ()
    __module__ = "sserpent.client"

    _is_async = False

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: SyncEventSource[MessageEvent],
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
            self: SyncEventSource[Any],
            client: Any,
            url: Any,
            *,
            type: Any,
            **options: Unpack[SourceOptions],
        ) -> None: ...
        def __init__(self, *arguments: Any, **options: Any) -> None: ...

    def __iter__(self) -> SyncEventSource[T]:
        return self

    def __next__(self) -> T:
        source = self._source
        while True:
            try:
                item: T = source.next_item()
            except (ErrorEvent, EventTooLarge):
                self.close()
                raise
            if item is not NONE:
                return item
            if source.is_over:
                self.close()
                raise StopIteration
            try:
                self._connect() if self._response is None else self._read()
            except Exception:
                self.close()
                raise
            except BaseException:
                self._disconnect()
                source.cancelled()
                raise

    def _connect(self) -> None:
        source = self._source
        if source.waits:
            now = time.monotonic()
            self._wait(max(0.0, source.waits_until(now) - now))
            source.waited()
        try:
            headers: Any = source.headers()
        except Exception as error:
            source.failed(source.without_headers(error))
            return
        if isinstance(headers, Coroutine):
            headers.close()
            raise TypeError("'headers' must not be an async function: EventSource takes one")
        request = source.request(headers)
        try:
            self._response = self._client.send(request, stream=True)
        except Exception as error:
            source.failed(source.failure_of(error))
            return
        response = ResponseBytes(self._response)
        try:
            failure = source.opened(response)
        except NotAnEventStream as error:
            error.body = response.beginning()
            raise
        if source.connected:
            self._chunks = iter(self._response.iter_bytes())
        if failure is not None:
            try:
                source.failed(failure)  # before its body is read, which may be interrupted
            finally:
                failure.error.body = response.beginning()
                self._disconnect()

    def _wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def _read(self) -> None:
        source = self._source
        try:
            chunk = next(self._chunks, NONE)
        except Exception as error:
            failure = source.failure_of(error)
            self._disconnect(error)
            source.failed(failure)
            return
        source.reading.feed(b"" if chunk is NONE else chunk)
        if chunk is NONE:
            self._disconnect()
            source.ended_whole()

    def _disconnect(self, error: Exception | None = None) -> None:
        self._source.closed(error)
        response, self._response, self._chunks = self._response, None, None
        if response is not None:
            response.close()

    def close(self) -> None:
        """Ends the iteration, and closes its connection."""
        self._source.end()
        self._disconnect()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: builtins.type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
