"""Items on their way into a history: validated and framed once, but for the id."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from ..._core import Buffer, DeclaredEvents, ItemSchema, ServerSentEvent
from ..._delivery.options import EVENT_CLASSES
from ..._fastapi.declarations import UndeclaredEvent, declarations, events_of, item_schema
from ..._runtime.log import logger
from .broker import Item
from .control_events import GAP, RESET, RUN_END
from .ring import Undecodable

# The compiled core imports them on first use, which may be in any thread here: in a process that is
# forked meanwhile, that import would never end.
for _name in ("subclasses", "treatment"):
    import_module(f"..._core.{_name}", __package__)

_RESERVED = (GAP, RESET, RUN_END)
#: How many bytes an event may have. Readers, ours among them, take no more unless they are told to.
MAX_EVENT_SIZE = 16 * 2**20


class Refusal(ValueError):
    """An event breaks a rule of channels and runs; the message names it."""


class ReservedField(Refusal):
    """A field is set that is not the publisher's to set."""


class Encoding:
    """How items become events, and data becomes items again.

    Args:
        item_type: The type that items are validated by, or the events that it declares; None for
            neither.
        owner: What publishes them, for errors.
        exclude_none: Whether the fields of models that are None are left out.

    Attributes:
        schema: Of the items, for a `Buffer`.

    Raises:
        TypeError: pydantic does not know the type.
        ValueError: the events that it declares break a rule.
    """

    def __init__(
        self, item_type: Any = None, owner: str = "a channel", *, exclude_none: bool = False
    ) -> None:
        self._owner = owner
        self._exclude_none = exclude_none
        self.schema: ItemSchema | DeclaredEvents | None = None
        self._decoders: dict[str | None, Callable[[str], Any]] = {None: json.loads}
        self._declares_events = False
        self._has_told = False
        try:
            self._learn(item_type)
        except ValueError as error:
            raise ValueError(f"'item_type' of {owner}: {error}") from error
        except PydanticUserError as error:
            raise TypeError(
                f"'item_type' of {owner} must be a type that pydantic knows: {error}"
            ) from error

    def _learn(self, item_type: Any) -> None:
        declared = declarations(item_type)
        if declared is not None:
            for each in declared:
                checked_event_name(each.name)
            self._declares_events = True
            self.schema = events_of(declared, self._schema_of)
            self._decoders = {
                each.name: _adapter(each.item_type).validate_json for each in declared
            }
        elif item_type is not None:
            self.schema = self._schema_of(item_type)
            self._decoders = {None: _adapter(item_type).validate_json}

    def _schema_of(self, item_type: Any) -> ItemSchema:
        options = {"by_alias": True}
        if self._exclude_none:
            options["exclude_none"] = True
        return item_schema(_adapter(item_type), options)

    def decode(self, data: str, event: str) -> Any:
        """Returns the item of which this is the JSON.

        Args:
            data: The JSON.
            event: The type of the event.

        Raises:
            Undecodable: the data is not of the type, as that of an older model is not. That is
                logged once.
        """
        if event in _RESERVED:
            return json.loads(data)
        decoder = self._decoders.get(event) or self._decoders.get(None, json.loads)
        try:
            return decoder(data)
        except Exception as error:
            self._tell(error)
            raise Undecodable from error

    def _tell(self, error: Exception) -> None:
        if not self._has_told:
            self._has_told = True
            logger.warning(
                "An event of %s is not of its type, as if an older model had written it: listeners"
                " get its JSON as raw_data, and filters hide it (%s)",
                self._owner,
                str(error).partition("\n")[0],
            )

    def item(self, item: Any, event: str | None = None, conflate: str | None = None) -> Item:
        """Returns what is published for what a path operation can yield.

        Raises:
            ReservedField: an event has an id, or a name that is not the publisher's to use.
            Refusal: the event is larger than `MAX_EVENT_SIZE`.
            ValueError: a field of an event breaks another rule, or its data cannot be written.
            TypeError: the item has no JSON.
            pydantic.ValidationError: the item is not of the type.
        """
        encoded = self._item(item, event, conflate)
        checked_size(encoded.body, self._owner)
        return encoded

    def _item(self, item: Any, event: str | None, conflate: str | None) -> Item:
        if isinstance(item, EVENT_CLASSES):
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
        if isinstance(item.data, EVENT_CLASSES):
            raise ValueError("'data' must not be an event")
        fields = {
            "raw_data": item.raw_data,
            "event": checked_event_name(item.event if event is None else event),
            "retry": item.retry,
            "comment": item.comment,
        }
        if self.schema is None or self._declares_events or item.data is None:
            body = self._framed(ServerSentEvent(data=item.data, **fields))
        else:
            # An item schema does not look into events: its data goes after the other fields.
            body = ServerSentEvent(**fields).encode()[:-1] + self._framed(item.data)
        return Item(body, item.raw_data is not None, conflate)

    def _framed(self, data: Any) -> bytes:
        buffer = Buffer(self.schema)
        try:
            buffer.push(data)
        except ValidationError:
            raise
        except Exception as error:
            raise self.explained(error, data) from error
        return buffer.take()

    def explained(self, error: Exception, item: object) -> Exception:
        """Returns an error that names what publishes, and the type of the item."""
        if isinstance(error, UndeclaredEvent):
            return UndeclaredEvent(f"{self._owner}: {error}")
        data: object = cast("Any", item).data if isinstance(item, ServerSentEvent) else item
        kind = type(data)
        # FastAPI's encoder says so, in this way, of what it has no JSON for.
        has_no_json = isinstance(error, TypeError) or (
            len(error.args) == 1 and isinstance(error.args[0], list)
        )
        named = f"{kind.__module__}.{kind.__qualname__}"
        message = f"An item of type {named} cannot be published as JSON to {self._owner}: {error}"
        return TypeError(message) if has_no_json else ValueError(message)


def _adapter(item_type: Any) -> TypeAdapter[Any]:
    return TypeAdapter(item_type)


def checked_size(body: bytes, owner: str) -> bytes:
    """Returns the bytes of an event.

    Raises:
        Refusal: they are more than `MAX_EVENT_SIZE`; the message names the owner.
    """
    if len(body) > MAX_EVENT_SIZE:
        raise Refusal(
            f"An event of {owner} must have at most {MAX_EVENT_SIZE} bytes, not {len(body)}"
        )
    return body


def checked_event_name(name: Any) -> Any:
    """Returns the name of an event.

    Raises:
        TypeError: it is neither a string nor None.
        ReservedField: channels use the name themselves.
    """
    if name is not None and not isinstance(name, str):
        raise TypeError(f"'event' must be a string or None, not {type(name).__name__}")
    if name in _RESERVED:
        raise ReservedField(f"'event' must not be {name!r}, which channels use themselves")
    return name


def _event_line(name: str) -> bytes:
    return ServerSentEvent(event=name).encode()[:-1]
