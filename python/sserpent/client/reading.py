"""Makes events of the bytes of a stream, for both iterators: their types, and the stream's end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from .._core import EventStreamParser, MessageEvent

if TYPE_CHECKING:
    # Makes an item of an event's data; None for an event that is handed out as it is.
    Validator = Callable[[MessageEvent], Any] | None

#: How many bytes an event may take unless a reader says otherwise.
MAX_EVENT_SIZE = 16 * 2**20

# Stands for events that this reader has no use for.
_PASS_OVER: Any = object()


class IncompleteStream(ValueError):
    """The stream ended without the event that `until` or `until_event` names: it was cut."""

    __module__ = "sserpent.client"


def left_early() -> IncompleteStream:
    """Returns the error of a stream that goes on where nobody reads any more."""
    return IncompleteStream("the stream was left before its end: a read was cancelled")


class ErrorEvent(ValueError):
    """The stream sent an event that `raise_on` names.

    Attributes:
        event: The event.
    """

    __module__ = "sserpent.client"

    def __init__(self, event: MessageEvent) -> None:
        super().__init__(f"the stream sent the event '{event.type}': {event.data[:200]!r}")
        self.event = event

    def __reduce__(self) -> Any:
        return type(self), (self.event,)


class Ends(NamedTuple):
    """The events that end a stream.

    Attributes:
        until: The data of the last event; None if there is no such event.
        until_event: The types of the last event.
        raise_on: The types of events that are errors.
    """

    until: str | None
    until_event: frozenset[str]
    raise_on: frozenset[str]

    @property
    def are_named(self) -> bool:
        """Whether the stream has to have a last event."""
        return self.until is not None or bool(self.until_event)

    def incomplete(self) -> IncompleteStream:
        """Returns the error of a stream that ended without its last event."""
        if not self.are_named:
            return IncompleteStream("the stream ended")
        names = [f"event {name!r}" for name in sorted(self.until_event)]
        if self.until is not None:
            names.insert(0, f"event {self.until!r}")
        return IncompleteStream(f"the stream ended without the {' or the '.join(names)}")


def checked_ends(
    until: str | None, until_event: str | Iterable[str] | None, raise_on: str | Iterable[str]
) -> Ends:
    """Returns the events that end a stream.

    Raises:
        TypeError: a name is no string; the message names the argument.
    """
    if until is not None and not isinstance(until, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"'until' must be a string or None, not {type(until).__name__}")
    return Ends(
        until,
        frozenset() if until_event is None else _names("until_event", until_event),
        _names("raise_on", raise_on),
    )


def _names(argument: str, names: str | Iterable[str]) -> frozenset[str]:
    if isinstance(names, str):
        return frozenset([names])
    try:
        found: frozenset[Any] = frozenset(names)
    except TypeError:
        found = frozenset([names])
    for name in found:
        if not isinstance(name, str):
            raise TypeError(
                f"'{argument}' must be the name of an event, or several, not {type(name).__name__}"
            )
    return found


class Reading:
    """A stream that is being read: bytes go in, events or items come out.

    Args:
        ends: The events that end it.
        item_type: What pydantic makes of the data, as `iter_events` has it.
        max_event_size: How many bytes an event may take.
        last_event_id: The ID that the stream goes on after.
    """

    __slots__ = (
        "_has_ends",
        "_last_event_id",
        "_max_event_size",
        "_parser",
        "_pending",
        "_unseen",
        "_validator_of",
        "ended",
        "ends",
    )

    def __init__(
        self, ends: Ends, item_type: Any, max_event_size: int, last_event_id: str | None
    ) -> None:
        self._max_event_size = max_event_size
        self._parser = EventStreamParser(max_event_size, last_event_id)
        self._pending: deque[MessageEvent] = deque()
        self._validator_of = _validators(item_type)
        self.ends = ends
        self._has_ends = ends.are_named or bool(ends.raise_on)
        # Of the event that was handed out last.
        self._last_event_id = self._parser.last_event_id
        # Events have come that nobody will see.
        self._unseen = False
        # The last event has come, or the source has no more bytes.
        self.ended = False

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """Takes the next bytes.

        Raises:
            EventTooLarge: an event is larger than `max_event_size`, and none came before it.
        """
        self._pending.extend(self._parser.feed(chunk))

    def go_on(self) -> None:
        """Expects the beginning of another connection's bytes, which go on after the last event.
        An event that was not complete is no event."""
        self._parser = EventStreamParser(self._max_event_size, self._parser.last_event_id)

    def end(self) -> None:
        """Ends the reading: the source has no more bytes.

        Raises:
            EventTooLarge: an event was larger than `max_event_size`.
            IncompleteStream: the last event, which was named, has not come.
        """
        self.ended = True
        self._parser.feed(b"")  # raises what it has kept back
        if self.ends.are_named:
            raise self.ends.incomplete()

    def next(self, default: Any) -> Any:
        """Returns the next event or item; `default` if more bytes have to come first, or if the
        stream has ended.

        Raises:
            ErrorEvent: an event came that `raise_on` names.
            pydantic.ValidationError: the data of an event does not fit its type.
        """
        while self._pending:
            event = self._pending.popleft()
            self._last_event_id = event.last_event_id
            if self._has_ends and self._is_last(event):
                break
            if self._validator_of is None:
                return event
            validate = self._validator_of(event.type)
            if validate is None:
                return event
            if validate is not _PASS_OVER:
                return validate(event)
        return default

    def _is_last(self, event: MessageEvent) -> bool:
        until, until_event, raise_on = self.ends
        is_error = event.type in raise_on
        is_last = is_error or event.type in until_event
        if is_last or (until is not None and event.data == until):
            self.stop()
            if is_error:
                raise ErrorEvent(event)
            return True
        return False

    def stop(self) -> None:
        """Ends the stream: nothing comes any more."""
        self.ended = True
        self._unseen = self._unseen or bool(self._pending)
        self._pending.clear()

    @property
    def has_events(self) -> bool:
        """Whether events have come that are not taken yet."""
        return bool(self._pending)

    @property
    def last_event_id(self) -> str:
        """The ID to go on after, by what was handed out: what has come and nobody has seen has to
        come again."""
        if self._pending or self._unseen:
            return self._last_event_id
        return self._parser.last_event_id

    @property
    def reconnection_time(self) -> int | None:
        """The time to wait before reconnecting, in milliseconds, if the stream has said so."""
        return self._parser.reconnection_time


def _validators(item_type: Any) -> Callable[[str], Validator] | None:
    """Returns what gives an event's validator by its type; None if no event is validated."""
    if item_type is None or item_type is MessageEvent:
        return None
    # Not before it is needed: pydantic takes longer to load than all the rest of a reader.
    from .._core.decoding import json_validator, validate_event

    def validator(each: Any) -> Validator:
        if each is MessageEvent:
            return None
        validate = json_validator(each)
        return lambda event: validate_event(event, validate)

    if isinstance(item_type, Mapping):
        types = cast(Mapping[str, Any], item_type)
        validators = {name: validator(each) for name, each in types.items()}
        return lambda event_type: validators.get(event_type, _PASS_OVER)
    only = validator(item_type)
    return lambda event_type: only
