"""The events that a route declares, each with the type of its data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .conversion import FastAPIServerSentEvent
from .event import ServerSentEvent, from_fastapi
from .frame import frame
from .json import ItemSchema, wrong_type


class DeclaredEvents:
    """The events that a route declares, each with the type of its data.

    Args:
        by_name: The schema of an event's `data`, by the event's name; under None for all others.
        by_class: The event's name and the schema of an item that is no event, by its exact class.
        otherwise: Called with an event or an item that neither has; returns the name, the schema
            and the data, which is not validated again, or raises.

    Raises:
        TypeError: an argument has the wrong type; the message names it.
    """

    __slots__ = ("_by_class", "_by_name", "_otherwise")

    def __init__(
        self,
        by_name: dict[str | None, ItemSchema],
        by_class: dict[type, tuple[str, ItemSchema]],
        otherwise: Callable[[Any], tuple[str | None, ItemSchema, Any]],
    ) -> None:
        self._by_name = _checked_dict("by_name", by_name)
        self._by_class = _checked_dict("by_class", by_class)
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
            name, schema = _checked_pair(found)
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
            data = _checked_schema(schema)._json_of(event._data)
        return data, event._event, event._id, event._retry, event._comment

    def _asked(self, item: object) -> tuple[Any, bytes]:
        answer: Any = self._otherwise(item)
        triple: Any = answer
        if not isinstance(answer, tuple) or len(triple) != 3:
            raise wrong_type("a declared event must be a name, an ItemSchema and its data", triple)
        name, schema = _checked_pair(triple[:2])
        return name, schema._written(triple[2])


def _checked_dict(name: str, value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise wrong_type(f"'{name}' must be a dict", value)
    return dict(value)  # pyright: ignore[reportUnknownArgumentType]


def _checked_pair(value: Any) -> tuple[Any, ItemSchema]:
    pair: Any = value
    if not isinstance(value, tuple) or len(pair) != 2:
        raise wrong_type("a declared event must be a name and an ItemSchema", pair)
    name: Any
    schema: Any
    name, schema = pair
    if name is not None and not isinstance(name, str):
        raise wrong_type("the name of a declared event must be a str or None", name)
    return name, _checked_schema(schema)


def _checked_schema(value: Any) -> ItemSchema:
    if not isinstance(value, ItemSchema):
        raise wrong_type("the schema of a declared event must be an ItemSchema", value)
    return value
