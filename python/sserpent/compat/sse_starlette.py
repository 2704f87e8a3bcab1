"""The API of `sse-starlette` 3 on sserpent's delivery.

    from sserpent.compat.sse_starlette import EventSourceResponse

The signature, the headers and the bytes of events are those of `sse-starlette`; the rest is
sserpent's: keep-alives after quiet seconds, timeouts, cleanup, the end at a shutdown. Nothing of
uvicorn is patched.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import (
    AsyncIterable,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
)
from types import GeneratorType
from typing import Any, ClassVar

import anyio
from starlette.background import BackgroundTask
from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send

import sserpent

from .. import _shutdown
from .._runtime.loops import call_soon, current_token
from .._shutdown.streams import Stream

__all__ = [
    "AppStatus",
    "AsyncContentStream",
    "Content",
    "ContentStream",
    "EventSourceResponse",
    "JSONServerSentEvent",
    "SendTimeoutError",
    "ServerSentEvent",
    "SyncContentStream",
    "ensure_bytes",
]

# For annotations.
Content = Any
SyncContentStream = Iterator[Content]
AsyncContentStream = AsyncIterable[Content]
ContentStream = AsyncContentStream | SyncContentStream

_LINE_END = re.compile(r"\r\n|\r|\n")
# A time that does not come, in seconds: options of sserpent are finite.
_NEVER = 1e9


class ServerSentEvent:
    """One event.

    Args:
        data: The text of the `data` field, or what `str` makes text of.
        event: The event's name.
        id: The event's ID. Line breaks in it and in `event` are left out.
        retry: The time to wait before reconnecting, in milliseconds.
        comment: Text that clients ignore.
        sep: The end of each line, CRLF unless given.
    """

    DEFAULT_SEPARATOR = "\r\n"

    def __init__(
        self,
        data: Any = None,
        *,
        event: str | None = None,
        id: str | None = None,
        retry: int | None = None,
        comment: str | None = None,
        sep: str | None = None,
    ) -> None:
        self.data = data
        self.event = event
        self.id = id
        self.retry = retry
        self.comment = comment
        self._sep = self.DEFAULT_SEPARATOR if sep is None else sep

    def encode(self) -> bytes:
        """Returns the event as it is sent.

        Raises:
            TypeError: `retry` is no integer, or `event` or `id` is no string.
            UnicodeEncodeError: a text has lone surrogates.
        """
        lines: list[str] = []
        if self.comment is not None:
            lines += [f": {line}" for line in _LINE_END.split(str(self.comment))]
        if self.id is not None:
            lines.append("id: " + _LINE_END.sub("", self.id))
        if self.event is not None:
            lines.append("event: " + _LINE_END.sub("", self.event))
        if self.data is not None:
            lines += [f"data: {line}" for line in _LINE_END.split(str(self.data))]
        if self.retry is not None:
            if not isinstance(self.retry, int):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError("retry argument must be int")
            lines.append(f"retry: {self.retry}")
        return "".join(f"{line}{self._sep}" for line in [*lines, ""]).encode()


class JSONServerSentEvent(ServerSentEvent):
    """One event whose data is sent as compact JSON; None leaves it out."""

    def __init__(self, data: Any = None, **fields: Any) -> None:
        if data is not None:
            separators = (",", ":")
            data = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=separators)
        super().__init__(data, **fields)


def ensure_bytes(data: Any, sep: str) -> bytes:
    """Returns what is sent for an item: bytes as they are, an event encoded, a dict as the fields
    of an event, anything else as the text of the `data` field.

    Args:
        data: The item.
        sep: The end of each line, but of those of an event, which has its own.

    Raises:
        TypeError: a dict has a key that is no field, or a field has the wrong type.
    """
    if isinstance(data, (bytes, memoryview)):
        return bytes(data)  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(data, (ServerSentEvent, sserpent.ServerSentEvent)):
        return data.encode()
    fields: dict[str, Any] = {**data} if isinstance(data, dict) else {"data": str(data)}
    fields["sep"] = sep
    return ServerSentEvent(**fields).encode()


class SendTimeoutError(TimeoutError):
    """A client has not read for `send_timeout`."""


class _Open:
    """An open stream, which is ended when `AppStatus.should_exit` is set."""

    def __init__(self, shutdown_event: anyio.Event | None) -> None:
        self.token = current_token()
        self.stream: Stream | None = None
        self._shutdown_event = shutdown_event

    def shut_down(self) -> None:
        if AppStatus.enable_automatic_graceful_drain:
            self.set_event()

    def set_event(self) -> None:
        if self._shutdown_event is not None:
            self._shutdown_event.set()

    def end(self) -> None:
        self.set_event()
        if self.stream is not None:
            self.stream.shut_down()


class _Exit(type):
    """The class of `AppStatus`: the open streams hear of it when `should_exit` is set."""

    _should_exit = False
    _open: ClassVar[set[_Open]] = set()

    @property
    def should_exit(cls) -> bool:
        return _Exit._should_exit

    @should_exit.setter
    def should_exit(cls, value: bool) -> None:
        _Exit._should_exit = value
        for each in list(_Exit._open) if value else ():
            call_soon(each.token, each.end)


class AppStatus(metaclass=_Exit):
    """Whether the application is about to exit.

    Attributes:
        should_exit: Set it to True to end all streams; those that open while it is True end at
            once. May be set in any thread. No signal sets it: streams see by themselves that their
            server shuts down.
        enable_automatic_graceful_drain: Whether a shutdown of the server ends the streams.
        original_handler: What `handle_exit` calls too.
    """

    enable_automatic_graceful_drain = True
    original_handler: Callable[..., object] | None = None

    @staticmethod
    def disable_automatic_graceful_drain() -> None:
        """Has streams go on when their server shuts down, until `should_exit` is set."""
        AppStatus.enable_automatic_graceful_drain = False

    @staticmethod
    def enable_automatic_graceful_drain_mode() -> None:
        """Has a shutdown of the server end the streams again."""
        AppStatus.enable_automatic_graceful_drain = True

    @staticmethod
    def handle_exit(*args: Any, **kwargs: Any) -> None:
        """Ends the streams, if that is enabled: for a signal handler of your own."""
        if AppStatus.enable_automatic_graceful_drain:
            AppStatus.should_exit = True
        if AppStatus.original_handler is not None:
            AppStatus.original_handler(*args, **kwargs)


class EventSourceResponse(sserpent.EventSourceResponse):
    """Streams events as `sse-starlette` does; its documentation has the arguments.

    A keep-alive is sent after `ping` quiet seconds, and is the line `: ping` unless a
    `ping_message_factory` is given. After `send_timeout` the connection is dropped, too.
    `cleanup_timeout` bounds the cleanup of a generator however its stream ends.
    """

    DEFAULT_PING_INTERVAL: ClassVar[float] = 15
    DEFAULT_SEPARATOR = "\r\n"
    DEFAULT_CLEANUP_TIMEOUT = 30.0

    def __init__(
        self,
        content: AsyncIterable[Any] | Iterable[Any],
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = "text/event-stream",
        background: BackgroundTask | None = None,
        ping: float | None = None,
        sep: str | None = None,
        ping_message_factory: Callable[[], Any] | None = None,
        data_sender_callable: Callable[[], Coroutine[Any, Any, None]] | None = None,
        send_timeout: float | None = None,
        client_close_handler_callable: Callable[[Message], Awaitable[None]] | None = None,
        shutdown_event: anyio.Event | None = None,
        shutdown_grace_period: float = 0,
        cleanup_timeout: float | None = DEFAULT_CLEANUP_TIMEOUT,
    ) -> None:
        if sep not in (None, "\r\n", "\r", "\n"):
            raise ValueError(f"sep must be one of: \\r\\n, \\r, \\n, got: {sep}")
        if shutdown_grace_period < 0:
            raise ValueError("shutdown_grace_period must be >= 0")
        if cleanup_timeout is not None and cleanup_timeout < 0:
            raise ValueError("cleanup_timeout must be >= 0")
        all_headers = MutableHeaders(headers)
        all_headers.setdefault("Cache-Control", "no-store")
        all_headers.update({"Connection": "keep-alive", "X-Accel-Buffering": "no"})
        super().__init__(
            content,
            status_code,
            all_headers,
            media_type,
            background,
            ping_interval=_finite(self.DEFAULT_PING_INTERVAL if ping is None else ping),
            open_delay=0,
            send_timeout=_finite(send_timeout),
            cleanup_timeout=_NEVER if cleanup_timeout is None else _finite(cleanup_timeout),
            max_pending=1,  # a generator goes on when its item is sent
            framed=True,
        )
        self.sep = sep or self.DEFAULT_SEPARATOR
        self.ping_message_factory = ping_message_factory
        self.data_sender_callable = data_sender_callable
        self.client_close_handler_callable = client_close_handler_callable
        self.active = True
        self._grace = shutdown_grace_period
        self._shutdown_event = shutdown_event
        self._open: _Open | None = None
        self._senders: list[anyio.CancelScope] = []
        self.body_iterator = _encoded(content, self.sep, self.cleanup_timeout, self._senders)

    def enable_compression(self, force: bool = False) -> None:
        """Raises NotImplementedError, as theirs."""
        raise NotImplementedError("Compression is not supported for SSE streams.")

    def ping_event(self) -> bytes:
        """Returns the keep-alive: what `ping_message_factory` makes, or a comment `ping`."""
        if self.ping_message_factory is None:
            return f": ping{self.sep}".encode()
        return ensure_bytes(self.ping_message_factory(), self.sep)

    async def on_disconnect(self) -> None:
        """Calls `client_close_handler_callable`, unless the client was dropped as a slow one."""
        self.active = False
        if self.client_close_handler_callable is not None and not self._stalled:
            await self.client_close_handler_callable({"type": "http.disconnect"})

    @property
    def shutdown_grace(self) -> float:  # type: ignore[override] # pyright: ignore[reportIncompatibleVariableOverride]
        """Seconds until the stream is ended when its server shuts down; no end where `AppStatus`
        leaves it to the application."""
        ends = AppStatus.enable_automatic_graceful_drain or AppStatus.should_exit
        return self._grace if ends else _NEVER

    def _opened(self, stream: Stream) -> None:
        assert self._open is not None
        self._open.stream = stream
        if AppStatus.should_exit and self._grace:
            self._open.end()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        background, self.background = self.background, None
        self._open = watched = _Open(self._shutdown_event)
        _Exit._open.add(watched)
        self._begins = self._grace > 0 or not AppStatus.should_exit
        streams = _shutdown.opened(watched, scope)
        if streams.ending or not self._begins:
            watched.set_event()
        try:
            await self._stream_with_sender(super().__call__(scope, receive, send))
        finally:
            self.active = False
            self._open = watched.stream = None
            _Exit._open.discard(watched)
            _shutdown.closed(watched, streams)
        if self._stalled:
            raise SendTimeoutError(f"The client has not read for {self.send_timeout} s")
        if background is not None:
            await background()

    async def _stream_with_sender(self, streaming: Coroutine[Any, Any, None]) -> None:
        if self.data_sender_callable is None or not self._begins:
            await streaming
            return
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._send_data, self.data_sender_callable)
                await streaming
                tasks.cancel_scope.cancel()
        except BaseException as error:  # a group, unless it is a cancellation
            raise getattr(error, "exceptions", [error])[0] from None

    async def _send_data(self, sender: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with anyio.CancelScope() as scope:
            self._senders.append(scope)
            await sender()
        self._senders.clear()


def _finite(seconds: Any) -> Any:
    return _NEVER if seconds == math.inf else seconds


def _encoded(content: Any, sep: str, cleanup_timeout: float, senders: Any) -> Any:
    if hasattr(content, "__aiter__"):
        return _iterate(content.__aiter__(), sep, cleanup_timeout, senders)
    return _iterate_in_thread(iter(content), sep)


async def _iterate(
    iterator: Any, sep: str, cleanup_timeout: float, senders: list[anyio.CancelScope]
) -> AsyncIterable[bytes]:
    close = getattr(iterator, "aclose", anyio.lowlevel.checkpoint)
    try:
        async for item in iterator:
            try:
                encoded = ensure_bytes(item, sep)
            except Exception:
                with anyio.move_on_after(cleanup_timeout, shield=True):
                    await close()
                raise
            yield encoded
    except BaseException:
        # One that waits to send into this channel would fail when that is closed.
        for each in senders:
            each.cancel()
        raise
    finally:
        await close()


def _iterate_in_thread(iterator: Any, sep: str) -> Iterable[bytes]:
    try:
        for item in iterator:
            yield ensure_bytes(item, sep)
    finally:
        if isinstance(iterator, GeneratorType):
            iterator.close()
