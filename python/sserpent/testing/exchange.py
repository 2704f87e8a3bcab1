"""One request and its response: the application calls one side, and the client the other.

The connection behaves as uvicorn's. `send` waits while the client has much to read, and when it
does not read; after the client has left, `receive` says so, and `send` does nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, Callable, MutableMapping
from typing import Any

from anyio import Event, move_on_after
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled
from starlette.types import ASGIApp, Message, Scope

from .task import Task

# uvicorn's `send` waits from here on, whose transports have asyncio's default:
# https://docs.python.org/3/library/asyncio-protocol.html#asyncio.WriteTransport.set_write_buffer_limits
HIGH_WATER = 65_536

# How long an application may take to raise after its error page.
ERROR_PAGE_TIMEOUT = 1.0

# How much of the end of a stream an error message shows.
_SHOWN = 80


class Cut(Exception):
    """The connection was lost before the end of the response."""


class NothingCame(TimeoutError):
    """Neither a response nor more of it came in time."""


class Exchange:
    """One request and its response.

    Attributes:
        name: Method and path, for messages.
        scope: The request's ASGI scope.
        status: The status of the response; None until it has started.
        headers: Its headers.
        complete: Whether the last chunk has come.
        stalled: Whether the client does not read.
        sends_waiting: How many calls of `send` wait for the client.
        seen: Whether the test was told what the application has raised.
    """

    def __init__(self, app: ASGIApp, scope: Scope, body: AsyncIterable[bytes]) -> None:
        self.name = f"{scope['method']} {scope['path']}"
        self.scope = scope
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False
        self.stalled = False
        self.sends_waiting = 0
        self.seen = False
        self._request_body = aiter(body)
        self._request_read = False
        # The chunks that have arrived and that the test has not read, and how many bytes they are.
        self._chunks: deque[bytes] = deque()
        self._unread = 0
        self._arrived = 0
        self._last = b""
        # How many bytes reach the client before the connection is cut.
        self._cut_at: int | None = None
        # Why there is no connection any more; None while there is one.
        self._lost: str | None = None
        self._over = False
        self._news = Event()
        self.task = Task(lambda: self._run(app))

    # The application's side

    async def _run(self, app: ASGIApp) -> None:
        try:
            await app(self.scope, self._receive, self._send)
        finally:
            self._over = True
            self._tell()

    async def _receive(self) -> Message:
        if not self._request_read:
            while (body := await anext(self._request_body, None)) == b"":
                pass
            if body is not None:
                return {"type": "http.request", "body": body, "more_body": True}
            self._request_read = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._until(lambda: self._lost is not None or self.complete)
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        expected = "http.response.body" if self.status is not None else "http.response.start"
        kind = _type_of(message)
        if self.complete or kind != expected:
            expected = "no message, since the response is complete" if self.complete else expected
            raise RuntimeError(f"{self.name}: the application sent {kind!r}, expected {expected}")
        if kind == "http.response.start":
            status, headers = _start_of(message)
            await self._room()
            self.status, self.headers = status, headers
        else:
            body: Any = message.get("body", b"")
            if not isinstance(body, (bytes, bytearray, memoryview)):
                raise TypeError(f"{self.name}: 'body' must be bytes, not {type(body).__name__}")
            await self._room()
            if self._lost is None:
                self._arrive(b"" if self.scope["method"] == "HEAD" else bytes(body))  # pyright: ignore[reportUnknownArgumentType]
                self.complete = self._lost is None and not message.get("more_body", False)
        self._tell()

    async def _room(self) -> None:
        if self._lost is not None:
            # An application that sends for ever must not starve the event loop.
            await checkpoint()
        elif not self._has_room():
            self.sends_waiting += 1
            self._tell()
            try:
                await self._until(self._has_room)
            finally:
                self.sends_waiting -= 1

    def _has_room(self) -> bool:
        reads = not self.stalled and self._unread < HIGH_WATER
        return reads or self._lost is not None

    def _arrive(self, body: bytes) -> None:
        if self._cut_at is not None and self._arrived + len(body) >= self._cut_at:
            body = body[: self._cut_at - self._arrived]
            self.lose("the test has cut the connection")
        self._arrived += len(body)
        if body:
            self._chunks.append(body)
            self._unread += len(body)
        self._last = (self._last + body[-_SHOWN:])[-_SHOWN:]

    # The client's side

    async def started(self, timeout: float | None) -> None:
        """Waits for the headers.

        Raises:
            Exception: what the application raises before them, or after an error page.
            RuntimeError: it returned without a response.
            NothingCame: the headers did not come within `timeout` seconds.
        """
        await self._until(lambda: self.status is not None, timeout, "the response did not start")
        if self.status is None:
            raise self.error or RuntimeError(f"{self.name}: the application sent no response")
        if self.status == 500:
            # Starlette sends an error page and then raises what has happened.
            await self.task.has_ended(within=ERROR_PAGE_TIMEOUT)
            if (error := self.error) is not None:
                raise error

    async def read(self, timeout: float | None) -> bytes:
        """Returns the next chunk of the body, as the application has sent it, and nothing at its
        end.

        Raises:
            Cut: the connection was lost. The application's exception is its cause, if there is one.
            NothingCame: within `timeout` seconds.
        """
        await self._until(
            lambda: bool(self._chunks or self.complete or self._lost), timeout, "nothing came"
        )
        if self._chunks:
            chunk = self._chunks.popleft()
            self._unread -= len(chunk)
            self._tell()
            return chunk
        if self.complete:
            return b""
        why = self._lost or "the application returned before the end of the body"
        error = None if self._lost else self.error
        if error is not None:
            why = f"the application raised {error!r}"
        raise Cut(f"{self.name} was cut off after {self._arrived} bytes: {why}") from error

    def cut(self, after_bytes: int) -> None:
        """Cuts the connection when so many bytes of the body have come, or now if they have."""
        self._cut_at = max(after_bytes, self._arrived - self._unread)
        if self._arrived >= self._cut_at:
            self._take_back(self._arrived - self._cut_at)
            self.lose("the test has cut the connection")

    def _take_back(self, count: int) -> None:
        """Takes the last bytes back that have arrived and that the test has not read."""
        self._arrived -= count
        self._unread -= count
        while count:
            last = self._chunks.pop()
            if len(last) > count:
                self._chunks.append(last[:-count])
            count -= min(count, len(last))

    def stall(self) -> None:
        """Has the client read no more."""
        self.stalled = True

    def resume(self) -> None:
        """Has the client read on."""
        self.stalled = False
        self._tell()

    async def until_send_waits(self, timeout: float) -> None:
        """Waits until a `send` waits for the client.

        Raises:
            NothingCame: none did within `timeout` seconds, or the application has ended.
        """
        await self._until(lambda: self.sends_waiting > 0, timeout, "no send waited")
        if not self.sends_waiting:
            raise NothingCame(f"{self.name}: no send waits, the application has ended")

    def lose(self, why: str) -> None:
        """Ends the connection; what has arrived can still be read."""
        if self._lost is None and not self.complete:
            self._lost = why
        self._tell()

    def leave(self) -> None:
        """Has the client go."""
        self.lose("the client has left")
        self._take_back(self._unread)
        self.resume()

    # For `sserpent._shutdown`, to which this is a connection.

    def close(self) -> None:
        """Ends the connection, as a server does."""
        self.lose("the server has closed the connection")

    def abort(self) -> None:
        """Drops the connection, with what the client has not read."""
        self._take_back(self._unread)
        self.lose("the server has aborted the connection")

    def is_closed(self) -> bool:
        """Returns whether there is no connection any more."""
        return self._lost is not None

    def unread(self) -> int:
        """Returns how many bytes have arrived that the test has not read."""
        return self._unread

    # Both sides

    @property
    def error(self) -> BaseException | None:
        """The error that the application has raised. Whoever asks tells the test."""
        self.seen = True
        return self.task.error

    @property
    def has_unseen_error(self) -> bool:
        """Whether the application has raised something that the test has not been shown."""
        return self.task.error is not None and not self.seen

    @property
    def is_done(self) -> bool:
        """Whether the application has returned, and nothing is left to show."""
        return self.task.ended and not self.has_unseen_error

    @property
    def so_far(self) -> str:
        """The bytes that have arrived, in words."""
        if self.status is None:
            return "so far the response has not started"
        last = f", the last of them {self._last!r}" if self._last else ""
        return f"so far came status {self.status} and {self._arrived} bytes{last}"

    def _tell(self) -> None:
        self._news.set()
        self._news = Event()

    async def _until(
        self, condition: Callable[[], bool], timeout: float | None = None, what: str = ""
    ) -> None:
        """Waits for a condition, or for the application's end."""
        # asyncio never cancels whoever is woken in each turn of the loop, by an application that
        # sends without a pause.
        await checkpoint_if_cancelled()
        with move_on_after(timeout):
            while not (condition() or self._over):
                await self._news.wait()
            return
        raise NothingCame(f"{self.name}: {what} within {timeout} s; {self.so_far}")


def _type_of(message: Any) -> Any:
    if not isinstance(message, MutableMapping):
        raise TypeError(f"a message must be a dict, not {type(message).__name__}")
    if "type" not in message:
        raise TypeError("a message has no 'type'")
    return message["type"]  # pyright: ignore[reportUnknownVariableType]


def _start_of(message: Message) -> tuple[int, list[tuple[bytes, bytes]]]:
    status: Any = message.get("status")
    if not isinstance(status, int):
        raise TypeError(f"'status' must be an integer, not {type(status).__name__}")
    headers: list[Any] = list(message.get("headers", ()))
    for header in headers:
        if not (len(header) == 2 and all(isinstance(part, bytes) for part in header)):
            raise TypeError(f"'headers' must be pairs of bytes, not {header!r}")
    return status, headers
