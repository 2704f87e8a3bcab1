"""`connect_sync`: the same client for tests without an event loop, which runs in a thread of its
own."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal
from starlette.types import ASGIApp

from ..client import MessageEvent
from .connected import Client, connect
from .events import Events


class SyncEvents:
    """`Events`, for tests without an event loop."""

    __module__ = "sserpent.testing"

    def __init__(self, events: Events, portal: BlockingPortal) -> None:
        self._events = events
        self._call = portal.call
        self._portal = portal

    @property
    def response(self) -> Any:
        """The response of httpx2 or httpx, with status and headers."""
        return self._events.response

    @property
    def last_event_id(self) -> str:
        """The ID of the last event that was read."""
        return self._events.last_event_id

    @property
    def reconnection_time(self) -> int | None:
        """The time to wait before reconnecting, in milliseconds, if the stream has said so."""
        return self._events.reconnection_time

    def next(self, timeout: float | None = None) -> MessageEvent:
        """See `Events.next`."""
        return self._call(self._events.next, timeout)

    def none_within(self, seconds: float) -> None:
        """See `Events.none_within`."""
        self._call(self._events.none_within, seconds)

    def __iter__(self) -> SyncEvents:
        return self

    def __next__(self) -> MessageEvent:
        try:
            return self._call(self._events.__anext__)
        except StopAsyncIteration:
            raise StopIteration from None

    def leave(self) -> None:
        """See `Events.leave`."""
        self._call(self._events.leave)

    def stall(self) -> None:
        """See `Events.stall`."""
        self._call(self._events.stall)

    def until_send_waits(self, timeout: float | None = None) -> None:
        """See `Events.until_send_waits`."""
        self._call(self._events.until_send_waits, timeout)

    def resume(self) -> None:
        """See `Events.resume`."""
        self._call(self._events.resume)

    def cut(self, after_bytes: int = 0) -> None:
        """See `Events.cut`."""
        self._call(self._events.cut, after_bytes)

    def reconnect(self) -> SyncEvents:
        """See `Events.reconnect`."""
        return SyncEvents(self._call(self._events.reconnect), self._portal)


class SyncResponse:
    """A response that is read as a stream, as `iter_events` takes it; made by `SyncClient.stream`.

    Attributes:
        status_code: Its status.
        headers: Its headers.
    """

    __module__ = "sserpent.testing"

    def __init__(self, response: Any, portal: BlockingPortal) -> None:
        self.status_code: int = response.status_code
        self.headers: Any = response.headers
        self._response = response
        self._portal = portal

    def __iter__(self) -> Iterator[bytes]:
        return self.iter_bytes()

    def iter_bytes(self) -> Iterator[bytes]:
        """Returns an iterator of the bytes of the body, as they come."""
        chunks = self._response.aiter_bytes()
        try:
            while chunk := self._portal.call(_next, chunks):
                yield chunk
        finally:
            self._portal.call(chunks.aclose)

    def read(self) -> bytes:
        """Returns the whole body."""
        body: bytes = self._portal.call(self._response.aread)
        return body

    def close(self) -> None:
        """Leaves the stream."""
        self._portal.call(self._response.aclose)


async def _next(chunks: Any) -> bytes:
    chunk: bytes = await anext(chunks, b"")
    return chunk


class SyncClient:
    """`Client`, for tests without an event loop; made by `connect_sync`.

    It has the methods of an `AsyncClient` too, called without `await`: `get`, `post`, `request` and
    so on, and its attributes, such as `headers` and `cookies`. `stream` is a context manager of a
    response that `iter_events` reads. There is no `http`.
    """

    __module__ = "sserpent.testing"

    def __init__(self, client: Client, portal: BlockingPortal) -> None:
        self._client = client
        self._portal = portal

    def __getattr__(self, name: str) -> Any:
        if name == "http":
            raise AttributeError(
                "a SyncClient has no 'http': its AsyncClient runs in another thread. Read with"
                " events() or stream(), or use connect() in an async test"
            )
        found: Any = getattr(self.__dict__["_client"].http, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._portal.call(partial(found, *args, **kwargs))

        return call

    @contextmanager
    def events(self, url: str, **request: Any) -> Generator[SyncEvents, None, None]:
        """See `Client.events`."""
        opened = self._client.events(url, **request)
        with self._portal.wrap_async_context_manager(opened) as events:
            yield SyncEvents(events, self._portal)

    @contextmanager
    def stream(self, method: str, url: str, **request: Any) -> Generator[SyncResponse, None, None]:
        """Sends a request, and reads its response while it is sent.

        Args:
            method: The method of the request.
            url: Its path or URL.
            request: Other arguments of `AsyncClient.stream`, such as `headers` and `json`.
        """
        opened = self._client.http.stream(method, url, **request)
        with self._portal.wrap_async_context_manager(opened) as response:
            yield SyncResponse(response, self._portal)

    def shut_down(self, timeout: float | None = None) -> None:
        """See `Client.shut_down`."""
        self._portal.call(self._client.shut_down, timeout)


def connect_sync(
    app: ASGIApp, *, http_library: Any = None, timeout: float = 5.0, backend: str = "asyncio"
) -> AbstractContextManager[SyncClient]:
    """Connects as `connect` does, for tests without an event loop. Returns a context manager of a
    `SyncClient`. An event loop runs in a thread, which ends with the context.

    Args:
        app: See `connect`.
        http_library: See `connect`.
        timeout: See `connect`.
        backend: `asyncio` or `trio`.
    """
    return _connect_sync(connect(app, http_library=http_library, timeout=timeout), backend)


@contextmanager
def _connect_sync(
    connected: AbstractAsyncContextManager[Client], backend: str
) -> Generator[SyncClient, None, None]:
    with (
        start_blocking_portal(backend) as portal,
        portal.wrap_async_context_manager(connected) as client,
    ):
        yield SyncClient(client, portal)
