"""What is published, as a log keeps it: framed once, but for the id."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter

from .._core import Buffer, DeclaredEvents, ItemSchema, ServerSentEvent
from .._core.conversion import FastAPIServerSentEvent
from .._fastapi.declarations import declarations, events_of, item_schema
from .blocks import GAP, RESET, RUN_END
from .broker import Item

_RESERVED = (GAP, RESET, RUN_END)


class ReservedField(ValueError):
    """A field is set that is not the publisher's to set."""


class Encoding:
    """How items become events, and data becomes items again.

    Args:
        item_type: The type that items are validated by, or the events that it declares; None for
            neither.
    """

    def __init__(self, item_type: Any = None) -> None:
        self._schema: ItemSchema | DeclaredEvents | None = None
        self._decoders: dict[str | None, Callable[[str], Any]] = {None: json.loads}
        declared = declarations(item_type)
        if declared is not None:
            self._schema = events_of(declared, _schema)
            self._decoders = {
                each.name: _adapter(each.item_type).validate_json for each in declared
            }
        elif item_type is not None:
            self._schema = _schema(item_type)
            self._decoders = {None: _adapter(item_type).validate_json}
        self._declares_events = declared is not None

    def decode(self, data: str, event: str) -> Any:
        """Returns the item of which this is the JSON.

        Args:
            data: The JSON.
            event: The type of the event.
        """
        decoder = self._decoders.get(event) or self._decoders.get(None, json.loads)
        return decoder(data)

    def item(self, item: Any, event: str | None = None, conflate: str | None = None) -> Item:
        """Returns what is published for what a path operation can yield.

        Raises:
            ReservedField: an event has an id, or a name that is not the publisher's to use.
            ValueError: a field of an event breaks another rule.
            pydantic.ValidationError: the item is not of the type.
        """
        if isinstance(item, (ServerSentEvent, FastAPIServerSentEvent)):
            return self._event_item(item, event, conflate)
        if event is None:
            return Item(self._framed(item), False, conflate)
        if self._declares_events:
            return self._event_item(ServerSentEvent(data=item, event=event), None, conflate)
        return Item(_event_line(checked_event_name(event)) + self._framed(item), False, conflate)

    def _event_item(self, item: Any, event: str | None, conflate: str | None) -> Item:
        if item.id is not None:
            raise ReservedField("'id' must not be set in what is published: the channel gives ids")
        if event is not None and item.event is not None:
            raise ValueError("'event' must not be given twice: the item has one")
        if isinstance(item.data, (ServerSentEvent, FastAPIServerSentEvent)):
            raise ValueError("'data' must not be an event")
        fields = {
            "raw_data": item.raw_data,
            "event": checked_event_name(item.event if event is None else event),
            "retry": item.retry,
            "comment": item.comment,
        }
        if self._schema is None or self._declares_events or item.data is None:
            body = self._framed(ServerSentEvent(data=item.data, **fields))
        else:
            # An item schema does not look into events: its data goes after the other fields.
            body = ServerSentEvent(**fields).encode()[:-1] + self._framed(item.data)
        return Item(body, item.raw_data is not None, conflate)

    def _framed(self, data: Any) -> bytes:
        buffer = Buffer(self._schema)
        buffer.push(data)
        return buffer.take()


def _schema(item_type: Any) -> ItemSchema:
    return item_schema(_adapter(item_type), {"by_alias": True})


def _adapter(item_type: Any) -> TypeAdapter[Any]:
    return TypeAdapter(item_type)


def checked_event_name(name: Any) -> Any:
    if name is not None and not isinstance(name, str):
        raise TypeError(f"'event' must be a string or None, not {type(name).__name__}")
    if name in _RESERVED:
        raise ReservedField(f"'event' must not be {name!r}, which channels use themselves")
    return name


@lru_cache(maxsize=256)
def _event_line(name: str) -> bytes:
    return ServerSentEvent(event=name).encode()[:-1]
