"""What is published, as a log keeps it: framed once, but for the id."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter

from .._core import Buffer, ItemSchema, ServerSentEvent
from .._core.conversion import FastAPIServerSentEvent, valid_class
from .blocks import GAP, RESET, RUN_END
from .broker import Item

_RESERVED = (GAP, RESET, RUN_END)


class ReservedField(ValueError):
    """A field is set that is not the publisher's to set."""


class Encoding:
    """How items become events, and data becomes items again.

    Args:
        item_type: The type that items are validated by; None for none.

    Attributes:
        decode: Makes an item of its JSON.
    """

    def __init__(self, item_type: Any = None) -> None:
        self._schema: ItemSchema | None = None
        self.decode: Callable[[str], Any] = json.loads
        if item_type is not None:
            adapter: TypeAdapter[Any] = TypeAdapter(item_type)
            self._schema = _schema(adapter)
            self.decode = adapter.validate_json

    def item(self, item: Any, event: str | None = None, conflate: str | None = None) -> Item:
        """Returns what is published for what a path operation can yield.

        Raises:
            ReservedField: an event has an id, or a name that is not the publisher's to use.
            ValueError: a field of an event breaks another rule.
            pydantic.ValidationError: the item is not of the type.
        """
        if isinstance(item, (ServerSentEvent, FastAPIServerSentEvent)):
            return self._event_item(item, event, conflate)
        body = self._framed(item)
        if event is not None:
            body = _event_line(checked_event_name(event)) + body
        return Item(body, False, conflate)

    def _event_item(self, item: Any, event: str | None, conflate: str | None) -> Item:
        if item.id is not None:
            raise ReservedField("'id' must not be set in what is published: the channel gives ids")
        if event is not None and item.event is not None:
            raise ValueError("'event' must not be given twice: the item has one")
        fields = ServerSentEvent(
            raw_data=item.raw_data,
            event=checked_event_name(item.event if event is None else event),
            retry=item.retry,
            comment=item.comment,
        )
        body = fields.encode()
        if item.data is not None:
            body = body[:-1] + self._framed(item.data)
        return Item(body, item.raw_data is not None, conflate)

    def _framed(self, data: Any) -> bytes:
        buffer = Buffer(self._schema)
        buffer.push(data)
        return buffer.take()


def _schema(adapter: TypeAdapter[Any]) -> ItemSchema:
    return ItemSchema(
        adapter.validator.validate_python,
        {"from_attributes": True},
        adapter.serializer.to_json,
        {"by_alias": True},
        valid_class(adapter),
    )


def checked_event_name(name: Any) -> Any:
    if name in _RESERVED:
        raise ReservedField(f"'event' must not be {name!r}, which channels use themselves")
    return name


@lru_cache(maxsize=256)
def _event_line(name: str) -> bytes:
    return ServerSentEvent(event=name).encode()[:-1]
