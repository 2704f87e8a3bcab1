"""Reading a stream without an event loop."""

from __future__ import annotations

import builtins
from collections.abc import Generator, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from .._core import MessageEvent
from .reading import MAX_EVENT_SIZE, ErrorEvent, Reading, checked_ends, left_early
from .responses import Chunk, checked_chunk, sync_source

if TYPE_CHECKING:
    from typing_extensions import TypedDict, Unpack

    class ReadOptions(TypedDict, total=False):
        """The options of `iter_events` besides `type`."""

        until: str | None
        until_event: str | Iterable[str] | None
        raise_on: str | Iterable[str]
        max_event_size: int
        last_event_id: str | None


T = TypeVar("T")
_NONE: Any = object()


class EventIterator(Generic[T]):
    """An iterator over a stream, made by `iter_events`. Use it in one thread at a time."""

    __slots__ = ("_chunks", "_left", "_reading", "_source")
    __module__ = "sserpent.client"

    def __init__(self, source: Iterable[Chunk], reading: Reading) -> None:
        self._reading = reading
        self._source = source
        # A generator, so that an iterator that is dropped closes its source too.
        self._chunks = _chunks_of(source)
        next(self._chunks)
        # It was interrupted while it waited, and what was still to come will not be read.
        self._left = False

    def __iter__(self) -> EventIterator[T]:
        return self

    def __next__(self) -> T:
        reading = self._reading
        item: T
        while (item := self._next_item()) is _NONE:
            if reading.ended:
                self.close()
                if self._left:
                    raise left_early()
                raise StopIteration
            try:
                chunk = next(self._chunks, _NONE)
                if chunk is _NONE:
                    reading.end()
                else:
                    reading.feed(checked_chunk(self._source, chunk))
            except BaseException as error:
                self._left = not isinstance(error, Exception)
                self.close()
                raise
        return item

    def _next_item(self) -> Any:
        try:
            return self._reading.next(_NONE)
        except ErrorEvent:
            self.close()
            raise

    def close(self) -> None:
        """Ends the iteration, and closes the source if it has `close`."""
        self._reading.stop()
        self._chunks.close()

    @property
    def last_event_id(self) -> str:
        """The last event ID, from which a client can resume."""
        return self._reading.last_event_id

    @property
    def reconnection_time(self) -> int | None:
        """The time to wait before reconnecting, in milliseconds, if the stream has said so."""
        return self._reading.reconnection_time

    def __enter__(self) -> EventIterator[T]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _chunks_of(source: Iterable[Chunk]) -> Generator[Chunk, None, None]:
    chunks = iter(source)
    try:
        # Taken when the iterator is made, so that one that is closed at once closes the source.
        yield b""
        for chunk in chunks:  # noqa: UP028 - the source is closed here, whatever it is
            yield chunk
    finally:
        for each in (chunks, source) if chunks is not source else (source,):
            close = getattr(each, "close", None)
            if close is not None:
                close()


@overload
def iter_events(
    source: Any, *, type: None = None, **options: Unpack[ReadOptions]
) -> EventIterator[MessageEvent]: ...
@overload
def iter_events(
    source: Any,
    *,
    type: builtins.type[T] | Mapping[str, builtins.type[T]],
    **options: Unpack[ReadOptions],
) -> EventIterator[T]: ...
@overload
def iter_events(
    source: Any, *, type: Any, **options: Unpack[ReadOptions]
) -> EventIterator[Any]: ...
def iter_events(
    source: Any,
    *,
    type: Any = None,
    until: str | None = None,
    until_event: str | Iterable[str] | None = None,
    raise_on: str | Iterable[str] = (),
    max_event_size: int = MAX_EVENT_SIZE,
    last_event_id: str | None = None,
) -> EventIterator[Any]:
    """Iterates over the events of a stream, or over the items in them.

    Leaving the iteration closes the source, if it has `close`. With `with` or `close()` this
    happens at once, otherwise when the iterator is freed.

    Args:
        source: A streamed response of httpx2, httpx or requests, whose status and content type are
            checked. Or an iterable of bytes, in chunks of any size.
        type: The type that pydantic validates the data with. You then get the data instead of the
            event. Pass one type for all events, or a dict with a type for each event type. Events
            of other types are skipped. Use `MessageEvent` for events that should not be converted.
        until: The data of the last event, which is not returned. A stream that ends without this
            event was cut.
        until_event: The type of the last event, or several types. With `until` too, the iteration
            ends at whichever comes first.
        raise_on: The type of an error event, or several types.
        max_event_size: How many bytes an event may have. The default is 16 MiB.
        last_event_id: The ID that the stream was resumed from, if any.

    Raises:
        ErrorEvent: an event came that `raise_on` names.
        EventTooLarge: an event is larger than `max_event_size`.
        IncompleteStream: the stream ended without the event that `until` or `until_event` names,
            or a read of it was interrupted before, as by Ctrl-C.
        NotAnEventStream: the status of the response is not 200, or its content type is not that of
            an event stream.
        TypeError: the source is for an event loop, or yields something else than bytes; an
            argument has the wrong type.
        pydantic.ValidationError: the data does not fit its type. The event is the attribute
            `event` of the error, and the iteration can go on. The other errors end it.
        ValueError: an argument breaks one of these rules; the message names it.
    """
    ends = checked_ends(until, until_event, raise_on)
    reading = Reading(ends, type, max_event_size, last_event_id)
    return EventIterator(sync_source(source), reading)
