"""Reading a stream without an event loop."""

from __future__ import annotations

import builtins
from collections.abc import Generator, Iterable, Mapping
from types import TracebackType
from typing import Any, Generic, TypeVar, overload

from .._core import MessageEvent
from .reading import Reading

T = TypeVar("T")
_NONE: Any = object()

Chunk = bytes | bytearray | memoryview


class EventIterator(Generic[T]):
    """Iterates over a stream; made by `iter_events`. Not for several threads at a time."""

    __slots__ = ("_chunks", "_reading")
    __module__ = "sserpent.client"

    def __init__(self, source: Iterable[Chunk], reading: Reading) -> None:
        self._reading = reading
        # A generator, so that an iterator that is dropped closes its source too.
        self._chunks = _chunks_of(source)
        next(self._chunks)

    def __iter__(self) -> EventIterator[T]:
        return self

    def __next__(self) -> T:
        reading = self._reading
        item: T
        while (item := reading.next(_NONE)) is _NONE:
            if reading.ended:
                self.close()
                raise StopIteration
            try:
                chunk = next(self._chunks, None)
                if chunk is None:
                    reading.end()
                else:
                    reading.feed(chunk)
            except BaseException:
                self.close()
                raise
        return item

    def close(self) -> None:
        """Ends the iteration, and closes the source if it has `close`."""
        self._reading.stop()
        self._chunks.close()

    @property
    def last_event_id(self) -> str:
        """The ID to go on after."""
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
    source: Iterable[Chunk],
    *,
    type: None = None,
    until: str | None = None,
    max_event_size: int = ...,
    last_event_id: str | None = None,
) -> EventIterator[MessageEvent]: ...
@overload
def iter_events(
    source: Iterable[Chunk],
    *,
    type: builtins.type[T] | Mapping[str, builtins.type[T]],
    until: str | None = None,
    max_event_size: int = ...,
    last_event_id: str | None = None,
) -> EventIterator[T]: ...
@overload
def iter_events(
    source: Iterable[Chunk],
    *,
    type: Any,
    until: str | None = None,
    max_event_size: int = ...,
    last_event_id: str | None = None,
) -> EventIterator[Any]: ...
def iter_events(
    source: Iterable[Chunk],
    *,
    type: Any = None,
    until: str | None = None,
    max_event_size: int = 16 * 2**20,
    last_event_id: str | None = None,
) -> EventIterator[Any]:
    """Iterates over the events of a stream, or over what is in them.

    Leaving the iteration closes the source, if it has `close`: at once with `close()` or as a
    context manager, else when the iterator is freed.

    Args:
        source: The bytes of the stream, in any chunks.
        type: What pydantic makes of the data, which then comes instead of the event: one type for
            all events, or one for each event type; events of other types are passed over.
        until: The data of the event that ends the stream, and is not returned. A stream that ends
            without it was cut.
        max_event_size: How many bytes an event may take.
        last_event_id: The ID that the stream goes on after, if it is resumed.

    Raises:
        EventTooLarge: an event is larger than `max_event_size`.
        IncompleteStream: the stream ended without the event that `until` names.
        pydantic.ValidationError: the data does not fit its type. The event is the attribute
            `event` of the error, and the iteration can go on. The other errors end it.
        ValueError: an argument breaks one of these rules; the message names it.
    """
    return EventIterator(source, Reading(until, type, max_event_size, last_event_id))
