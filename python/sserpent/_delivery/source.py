"""The content of a stream, and the sources that can be streamed besides a generator."""

from __future__ import annotations

from collections.abc import Callable
from types import GeneratorType
from typing import Any, Protocol


class Pending(Protocol):
    """Bytes that wait to be sent: a generator's buffer, or a source of ready frames."""

    @property
    def pending(self) -> int:
        """Whether there are any: not 0 if so."""
        ...

    @property
    def at_line_start(self) -> bool:
        """Whether a line of the stream begins after all that has been taken, so that a comment may
        follow."""
        ...

    def take(self) -> bytes:
        """Returns the next of them, whole events, and keeps them no longer."""
        ...


class Wire(Protocol):
    """The body of a response, as somebody who counts its bytes sees it."""

    def wire_bytes(self, event_bytes: int) -> int:
        """Returns how many bytes of the body have been made, of so many bytes of events."""
        ...


# Returns what stands before them, and counts what is taken.
Metered = Callable[[Pending, Wire], Pending]


class Source(Pending, Protocol):
    """Content that pushes ready frames, in place of a generator: nothing runs for it in its
    stream, which it tells when there is something to take."""

    @property
    def holds_headers(self) -> bool:
        """Whether the headers wait until something is pending."""
        ...

    def pending_bytes(self) -> int:
        """Returns how many bytes are pending, for metrics. May be called in any thread."""
        ...

    def start(self, sink: Sink) -> None:
        """Begins. Called once, in the event loop."""
        ...

    def stop(self, is_heard: bool = True) -> None:
        """Says that what is taken next is the last. May be called more than once.

        Args:
            is_heard: Whether the client is there to be told when to come back.
        """
        ...


class Sink(Protocol):
    """A stream, as its source sees it. Called in the event loop."""

    def flush(self) -> None:
        """Takes what is pending and sends it, unless it is sending already: then it does so
        when that has ended."""
        ...

    def finish(self) -> None:
        """Takes what is pending and ends."""
        ...

    def fail(self, error: Exception) -> None:
        """Ends as a generator that raises."""
        ...


# The ids of the iterators that are streamed: one that is equal to another is not the same.
_streaming: set[int] = set()


def claim(content: Any) -> None:
    """Makes sure that no other response streams `content`: two readers of one iterator would take
    items from each other.

    Raises:
        RuntimeError: another response streams it.
    """
    if not hasattr(content, "__anext__"):
        return  # each response has an iterator of its own
    if id(content) in _streaming:
        raise RuntimeError(f"{content!r} is already being streamed by another response")
    _streaming.add(id(content))


async def close_unstarted(content: Any) -> None:
    """Closes what is not streamed after all, if it can be closed. None of its code runs then, if it
    is a generator. The `close` of another iterable may block, and is not called."""
    aclose = getattr(content, "aclose", None)
    if aclose is not None:
        await aclose()
    elif isinstance(content, GeneratorType):
        content.close()


def release(content: Any) -> None:
    """Notes that an iterator is streamed no longer."""
    _streaming.discard(id(content))
