"""How what a generator yields becomes an event of its run, in the protocol of the run's class."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from ..._core import Buffer, EventStreamParser, ItemRules
from ..._delivery.options import EVENT_CLASSES
from ..._fastapi.protocol_response import ProtocolResponse, has_own_as_event
from ..._fastapi.response import EventSourceResponse
from ..._fastapi.stream_end import ends_event
from ..history.broker import Item
from ..history.control_events import RUN_END, RUN_END_LINE
from ..history.encoding import Encoding, ReservedField, checked_event_name, checked_size

_READY: Any = (str, bytes, bytearray, memoryview)


class RunEncoding:
    """Frames items, once, where they are yielded.

    Args:
        item_type: Of the items, as for `Encoding`.
        owner: Whose items these are, for errors.
        response_class: Of the followers.
    """

    def __init__(
        self, item_type: Any, owner: str, response_class: type[EventSourceResponse]
    ) -> None:
        self._owner = owner
        self._class: type[ProtocolResponse] | None = None
        exclude_none = False
        if issubclass(response_class, ProtocolResponse):
            self._class = response_class
            exclude_none = response_class.exclude_none
            # Here, not in the buffer: the fields of an event that it makes are looked at first.
            self._converts = has_own_as_event(response_class)
            self._rules = ItemRules(
                response_class.__name__,
                name_from=response_class.name_from,
                exclude_none=exclude_none,
                number_as=response_class._number_as,
                leaves_out=response_class._leaves_out,
            )
        self._encoding = Encoding(item_type, owner, exclude_none=exclude_none)
        self.decode = self._encoding.decode

    def item(self, item: Any, number: int) -> Item | None:
        """Returns the event of an item; None if it is left out.

        Args:
            item: What the generator has yielded.
            number: How many events came before it.

        Raises:
            Exception: as `Encoding.item`, or what `as_event` raises.
        """
        if self._class is None:
            return self._encoding.item(item)
        is_ready = self._class.framed and isinstance(item, _READY)
        if self._converts and not is_ready:
            item = self._class.as_event(item, number)
            if item is None:
                return None
        is_raw = is_ready
        if isinstance(item, EVENT_CLASSES):
            self._check(item)
            is_raw = item.raw_data is not None
        buffer = Buffer(
            self._encoding.schema, framed=self._class.framed, rules=self._rules, count=number
        )
        try:
            buffer.push(item)
        except ValidationError:
            raise
        except Exception as error:
            raise self._encoding.explained(error, item) from error
        body = buffer.take()
        if not body:
            return None
        if is_ready and not ends_event(body):
            raise ValueError(
                f"an item of {self._owner} that is framed already must be whole events, and end"
                " with a blank line"
            )
        if RUN_END_LINE in b"\n" + body or (is_ready and _has_run_end(body)):
            raise ReservedField(f"'event' must not be {RUN_END!r}, which runs use themselves")
        return Item(checked_size(body, self._owner), is_raw)

    def is_end_mark(self, item: Any) -> bool:
        """Returns whether an item that is left out is the mark at the end of a protocol's streams,
        which the class of the followers sends itself."""
        if self._class is None or self._class._leaves_out is None:
            return False
        if isinstance(item, EVENT_CLASSES):
            return (item.raw_data or "").strip() == self._class._leaves_out
        return self._class.framed and isinstance(item, _READY) and len(item) > 0

    @staticmethod
    def _check(event: Any) -> None:
        if event.id is not None:
            raise ReservedField("'id' must not be set in what is published: the channel gives ids")
        checked_event_name(event.event)
        if isinstance(event.data, EVENT_CLASSES):
            raise ValueError("'data' must not be an event")


def _has_run_end(framed: bytes) -> bool:
    """Returns whether somebody else has framed an event named `run-end`, in any spelling."""
    return any(event.type == RUN_END for event in EventStreamParser(len(framed)).feed(framed))
