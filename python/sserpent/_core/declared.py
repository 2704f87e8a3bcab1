"""The events that a route declares, each with the type of its data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .conversion import FastAPIServerSentEvent
from .event import ServerSentEvent, from_fastapi
from .frame import frame
from .json import ItemSchema


class DeclaredEvents:
    """The events that a route declares, each with the type of its data.

    Args:
        by_name: The schema of an event's `data`, by the event's name; under None for all others.
        by_class: The event's name and the schema of an item that is no event, by its exact class.
        otherwise: Called with an event or an item that neither has; returns the name, the schema
            and the data, which is not validated again, or raises.
    """

    __slots__ = ("_by_class", "_by_name", "_otherwise")

    def __init__(
        self,
        by_name: dict[str | None, ItemSchema],
        by_class: dict[type, tuple[str, ItemSchema]],
        otherwise: Callable[[Any], tuple[str | None, ItemSchema, Any]],
    ) -> None:
        self._by_name = dict(by_name)
        self._by_class = dict(by_class)
        self._otherwise = otherwise

    def _framed(self, item: object) -> bytes:
        return frame(*self._fields(item))

    def _fields(self, item: object) -> tuple[Any, str | None, str | None, int | None, str | None]:
        if isinstance(item, ServerSentEvent):
            return self._fields_of_event(item)  # pyright: ignore[reportUnknownArgumentType]
        if FastAPIServerSentEvent in type(item).__mro__:
            return self._fields_of_event(from_fastapi(item))
        found = self._by_class.get(type(item))
        if found is None:
            name, data = self._asked(item)
        else:
            name, schema = found
            data = schema._json_of(item)
        return data, name, None, None, None

    def _fields_of_event(
        self, event: ServerSentEvent[Any, Any]
    ) -> tuple[Any, str | None, str | None, int | None, str | None]:
        if event._data is None:
            return ServerSentEvent._written(event)
        schema = self._by_name.get(event._event)
        if schema is None:
            schema = self._by_name.get(None)
        if schema is None:
            _, data = self._asked(event)
        else:
            data = schema._json_of(event._data)
        return data, event._event, event._id, event._retry, event._comment

    def _asked(self, item: object) -> tuple[Any, bytes]:
        name, schema, data = self._otherwise(item)
        return name, schema._written(data)
