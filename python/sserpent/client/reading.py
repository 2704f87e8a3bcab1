"""What both iterators do with the bytes of a stream: events, their types, and the stream's end."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, cast

from .._core import EventStreamParser, MessageEvent
from .._core.conversion import JSONValidator, json_validator, validate_event


class IncompleteStream(ValueError):
    """The stream ended without the event that `until` names: it was cut."""

    __module__ = "sserpent.client"


class Reading:
    """A stream that is being read: bytes go in, events or items come out."""

    __slots__ = ("_parser", "_pending", "_select", "_until", "ended")

    def __init__(
        self, until: str | None, item_type: Any, max_event_size: int, last_event_id: str | None
    ) -> None:
        if until is not None and not isinstance(until, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"'until' must be a string or None, not {type(until).__name__}")
        self._parser = EventStreamParser(max_event_size, last_event_id)
        self._pending: deque[MessageEvent] = deque()
        self._select = _selection(item_type)
        self._until = until
        # The event that `until` names has come, or the source has no more bytes.
        self.ended = False

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """Takes the next bytes.

        Raises:
            EventTooLarge: an event is larger than `max_event_size`, and none came before it.
        """
        self._pending.extend(self._parser.feed(chunk))

    def end(self) -> None:
        """The source has no more bytes.

        Raises:
            EventTooLarge: an event was larger than `max_event_size`.
            IncompleteStream: the event that `until` names has not come.
        """
        self.ended = True
        self._parser.feed(b"")  # raises what it has kept back
        if self._until is not None:
            raise IncompleteStream(f"the stream ended without the event {self._until!r}")

    def next(self, default: Any) -> Any:
        """The next event or item; `default` if more bytes have to come first, or if it has ended.

        Raises:
            pydantic.ValidationError: the data of an event does not fit its type.
        """
        while self._pending:
            event = self._pending.popleft()
            if self._until is not None and event.data == self._until:
                self.stop()
                break
            if self._select is None:
                return event
            validate = self._select(event.type)
            if validate is not None:
                return validate_event(event, validate)
        return default

    def stop(self) -> None:
        """Nothing comes any more."""
        self.ended = True
        self._pending.clear()

    @property
    def has_events(self) -> bool:
        """Whether events have come that are not taken yet."""
        return bool(self._pending)

    @property
    def last_event_id(self) -> str:
        return self._parser.last_event_id

    @property
    def reconnection_time(self) -> int | None:
        return self._parser.reconnection_time


def _selection(item_type: Any) -> Any:
    """Which validator an event has, by its type; None if events are not validated."""
    if item_type is None:
        return None
    if isinstance(item_type, Mapping):
        types = cast(Mapping[str, Any], item_type)
        validators = {name: json_validator(each) for name, each in types.items()}
        return validators.get
    validator: JSONValidator = json_validator(item_type)
    return lambda event_type: validator  # pyright: ignore[reportUnknownLambdaType, reportUnknownVariableType]
