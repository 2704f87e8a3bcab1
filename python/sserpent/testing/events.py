"""The events of one stream, as a test reads them."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from anyio import current_time
from anyio.lowlevel import checkpoint

from ..client import EventStreamParser, MessageEvent
from .exchange import NothingCame
from .transport import BODY, BodyStream

# Sends a request again, and returns the events of its response.
Reopen = Callable[[dict[str, Any]], Awaitable["Events"]]


class StreamEnded(AssertionError):
    """The stream has ended where a test expects an event."""

    __module__ = "sserpent.testing"


class Events:
    """The events of one response, made by `Client.events`. Use it in one task at a time.

    Attributes:
        response: The response of httpx2 or httpx, with status and headers.
    """

    __module__ = "sserpent.testing"

    def __init__(self, reopen: Reopen, request: dict[str, Any], response: Any) -> None:
        self.response = response
        self._reopen = reopen
        self._request = request
        self._body: BodyStream = response.extensions[BODY]
        self._exchange = self._body.exchange
        self._timeout = self._body.server.timeout
        self._parser = EventStreamParser(last_event_id=request["last_event_id"])
        self._pending: deque[MessageEvent] = deque()
        # Of the events that were read.
        self._count = 0
        self._last_event_id = self._parser.last_event_id
        self._reconnected: Events | None = None

    @property
    def last_event_id(self) -> str:
        """The ID of the last event that was read."""
        return self._last_event_id if self._pending else self._parser.last_event_id

    @property
    def reconnection_time(self) -> int | None:
        """The time to wait before reconnecting, in milliseconds, if the stream has said so."""
        return self._parser.reconnection_time

    async def next(self, timeout: float | None = None) -> MessageEvent:
        """Returns the next event.

        Args:
            timeout: How many seconds to wait. Comments do not count. The default is the `timeout`
                of `connect`.

        Raises:
            StreamEnded: the stream has ended; an AssertionError.
            RemoteProtocolError: httpx's, the stream was cut. Its cause is the exception of the
                application.
            TimeoutError: no event came; the message says what came instead.
        """
        timeout = self._timeout if timeout is None else timeout
        try:
            came = await self._wait(timeout)
        except NothingCame:
            raise TimeoutError(
                f"{self._exchange.name}: no event came within {timeout} s; {self._so_far}"
            ) from None
        if not came:
            raise StreamEnded(f"{self._exchange.name}: the stream has ended; {self._so_far}")
        self._count += 1
        event = self._pending.popleft()
        self._last_event_id = event.last_event_id
        return event

    async def none_within(self, seconds: float) -> None:
        """Waits, and fails if an event comes. Comments are not events. The stream may end.

        Raises:
            AssertionError: an event came. It is not lost: `next` returns it.
            RemoteProtocolError: httpx's, the stream was cut off.
        """
        try:
            came = await self._wait(seconds)
        except NothingCame:
            return
        if came:
            raise AssertionError(
                f"{self._exchange.name}: an event came within {seconds} s: {self._pending[0]}"
            )

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> MessageEvent:
        try:
            return await self.next()
        except StreamEnded:
            raise StopAsyncIteration from None

    async def _wait(self, timeout: float) -> bool:
        """Waits for an event; whether one came, not the end."""
        until = current_time() + timeout
        while not self._pending:
            chunk = await self._body.read(max(0, until - current_time()))
            if not chunk:
                return False
            self._pending.extend(self._parser.feed(chunk))
        return True

    @property
    def _so_far(self) -> str:
        return f"{self._count} events were read, and {self._exchange.so_far}"

    async def leave(self) -> None:
        """Disconnects the client, and returns when the application's cleanup is done.

        Raises:
            TimeoutError: the application still ran after the timeout of `connect`, and was
                cancelled.
            BaseException: an exception of the application that no read has raised yet.
        """
        await self.response.aclose()
        if self._exchange.has_unseen_error:
            assert self._exchange.error is not None
            raise self._exchange.error

    async def stall(self) -> None:
        """Stops reading: each `send` of the application then waits, as when all buffers on the way
        to a client are full."""
        self._exchange.stall()
        await checkpoint()

    async def until_send_waits(self, timeout: float | None = None) -> None:
        """Waits until a `send` of the application is blocked by this client.

        Raises:
            TimeoutError: no `send` was blocked within `timeout` seconds. The default is the
                `timeout` of `connect`.
        """
        await self._exchange.until_send_waits(self._timeout if timeout is None else timeout)

    async def resume(self) -> None:
        """Reads again after `stall`."""
        self._exchange.resume()
        await checkpoint()

    def cut(self, after_bytes: int = 0) -> None:
        """Cuts the connection like a failing network: the client gets an error, and the application
        a disconnect.

        Args:
            after_bytes: How many bytes of the body arrive before the cut, counted from the
                beginning. Events that have arrived already are still returned.
        """
        self._exchange.cut(after_bytes)

    async def reconnect(self) -> Events:
        """Disconnects, and sends the same request again with the current `Last-Event-ID`. The new
        events end together with the first ones.

        Raises:
            AssertionError: the response is not an event stream.
            Exception: an exception of `leave`, or of the request.
        """
        await self.leave()
        again = await self._reopen({**self._request, "last_event_id": self.last_event_id})
        self._reconnected = again
        return again

    async def _close(self) -> None:
        if self._reconnected is not None:
            await self._reconnected._close()
        await self.leave()
