"""Reading a stream on an event loop: asyncio's or Trio's."""

from __future__ import annotations

import builtins
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from anyio import CancelScope, current_time, move_on_after

from .._core import MessageEvent
from .._runtime.checks import checked_optional_seconds
from .reading import MAX_EVENT_SIZE, ErrorEvent, Reading, checked_ends, left_early
from .responses import Chunk, async_source, checked_chunk

if TYPE_CHECKING:
    from typing_extensions import TypedDict, Unpack

    class AsyncReadOptions(TypedDict, total=False):
        """The options of `aiter_events` besides `type`."""

        until: str | None
        until_event: str | Iterable[str] | None
        raise_on: str | Iterable[str]
        idle_timeout: float | None
        max_event_size: int
        last_event_id: str | None


T = TypeVar("T")
_NONE: Any = object()

# A source is closed also if the reader was cancelled, but cannot hold it up for longer.
CLOSE_TIMEOUT = 5.0


class AsyncEventIterator(Generic[T]):
    """An async iterator over a stream, made by `aiter_events`. Use it in one task at a time."""

    __slots__ = (
        "_chunks",
        "_idle_timeout",
        "_iterator",
        "_left",
        "_reading",
        "_source",
        "_started",
    )
    __module__ = "sserpent.client"

    def __init__(
        self, source: AsyncIterable[Chunk], reading: Reading, idle_timeout: float | None
    ) -> None:
        self._reading = reading
        self._idle_timeout = idle_timeout
        self._source = source
        self._iterator = aiter(source)
        # A generator, so that the event loop closes the source of an iterator that is dropped.
        self._chunks = _chunks_of(source, self._iterator)
        self._started = False
        # It was cancelled while it waited, and what was still to come will not be read.
        self._left = False

    def __aiter__(self) -> AsyncEventIterator[T]:
        return self

    async def __anext__(self) -> T:
        try:
            item: T = self._reading.next(_NONE)
            if item is not _NONE:
                return item
            if self._idle_timeout is None:
                return await self._wait(None)
            with move_on_after(self._idle_timeout) as scope:
                return await self._wait(scope)
        except ErrorEvent:
            await self.aclose()
            raise
        self._left = False  # a timeout is told by its error
        raise TimeoutError(f"no event came within {self._idle_timeout} s")

    async def _wait(self, scope: CancelScope | None) -> T:
        reading = self._reading
        item: T
        while (item := reading.next(_NONE)) is _NONE:
            if reading.ended:
                await self.aclose()
                if self._left:
                    raise left_early()
                raise StopAsyncIteration
            try:
                self._started = True
                chunk = await anext(self._chunks, _NONE)
                if chunk is _NONE:
                    reading.end()
                else:
                    reading.feed(checked_chunk(self._source, chunk))
            except BaseException as error:
                self._left = not isinstance(error, Exception)
                await self.aclose()
                raise
            if scope is not None and reading.has_events:  # which may all be passed over
                assert self._idle_timeout is not None
                scope.deadline = current_time() + self._idle_timeout
        return item

    async def aclose(self) -> None:
        """Ends the iteration, and closes the source if it has `aclose`."""
        self._reading.stop()
        if self._started:
            await self._chunks.aclose()
        else:
            self._started = True
            await self._chunks.aclose()
            await _close(self._source, self._iterator)

    @property
    def last_event_id(self) -> str:
        """The last event ID, from which a client can resume."""
        return self._reading.last_event_id

    @property
    def reconnection_time(self) -> int | None:
        """The time to wait before reconnecting, in milliseconds, if the stream has said so."""
        return self._reading.reconnection_time

    async def __aenter__(self) -> AsyncEventIterator[T]:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


async def _chunks_of(
    source: AsyncIterable[Chunk], iterator: AsyncIterator[Chunk]
) -> AsyncGenerator[Chunk, None]:
    try:
        async for chunk in iterator:
            yield chunk
    finally:
        await _close(source, iterator)


async def _close(source: AsyncIterable[Chunk], iterator: AsyncIterator[Chunk]) -> None:
    with move_on_after(CLOSE_TIMEOUT, shield=True):
        for each in (iterator, source) if iterator is not source else (source,):
            aclose = getattr(each, "aclose", None)
            if aclose is not None:
                await aclose()


@overload
def aiter_events(
    source: Any, *, type: None = None, **options: Unpack[AsyncReadOptions]
) -> AsyncEventIterator[MessageEvent]: ...
@overload
def aiter_events(
    source: Any,
    *,
    type: builtins.type[T] | Mapping[str, builtins.type[T]],
    **options: Unpack[AsyncReadOptions],
) -> AsyncEventIterator[T]: ...
@overload
def aiter_events(
    source: Any, *, type: Any, **options: Unpack[AsyncReadOptions]
) -> AsyncEventIterator[Any]: ...
def aiter_events(
    source: Any,
    *,
    type: Any = None,
    until: str | None = None,
    until_event: str | Iterable[str] | None = None,
    raise_on: str | Iterable[str] = (),
    idle_timeout: float | None = None,
    max_event_size: int = MAX_EVENT_SIZE,
    last_event_id: str | None = None,
) -> AsyncEventIterator[Any]:
    """Iterates over the events of a stream, or over the items in them.

    Leaving the iteration closes the source, if it has `aclose`. With `async with` or `aclose()`
    this happens at once, otherwise soon after the iterator is freed. It works on asyncio and Trio.

    Args:
        source: A streamed response of httpx2, httpx or aiohttp, whose status and content type are
            checked. Or an async iterable of bytes, in chunks of any size.
        type: The type that pydantic validates the data with. You then get the data instead of the
            event. Pass one type for all events, or a dict with a type for each event type. Events
            of other types are skipped. Use `MessageEvent` for events that should not be converted.
        until: The data of the last event, which is not returned. A stream that ends without this
            event was cut.
        until_event: The type of the last event, or several types. With `until` too, the iteration
            ends at whichever comes first.
        raise_on: The type of an error event, or several types.
        idle_timeout: How many seconds to wait for the next event. Comments do not count. None waits
            for ever.
        max_event_size: How many bytes an event may have. The default is 16 MiB.
        last_event_id: The ID that the stream was resumed from, if any.

    Raises:
        ErrorEvent: an event came that `raise_on` names.
        EventTooLarge: an event is larger than `max_event_size`.
        IncompleteStream: the stream ended without the event that `until` or `until_event` names,
            or a read of it was cancelled before.
        NotAnEventStream: the status of the response is not 200, or its content type is not that of
            an event stream.
        TimeoutError: no event came within `idle_timeout`.
        TypeError: the source is not for an event loop, or yields something else than bytes; an
            argument has the wrong type.
        pydantic.ValidationError: the data does not fit its type. The event is the attribute
            `event` of the error, and the iteration can go on. The other errors end it.
        ValueError: an argument breaks one of these rules; the message names it.
    """
    checked_optional_seconds("idle_timeout", idle_timeout)
    ends = checked_ends(until, until_event, raise_on)
    reading = Reading(ends, type, max_event_size, last_event_id)
    return AsyncEventIterator(async_source(source), reading, idle_timeout)
