"""`ServerSentEvent` and `format_sse_event`: arguments in, checked fields out."""

from __future__ import annotations

import inspect
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Generic

from . import conversion, subclasses
from .frame import check_event, check_id, frame
from .json import event_data_json
from .text import checked_text

if TYPE_CHECKING:
    from typing_extensions import Self, TypeVar

    DataT = TypeVar("DataT", default=Any, covariant=True)
    # mypy takes `event="price"` for a str where one of several events is expected; so that this is
    # no error, an event with any name is one with a certain name to type checkers.
    NameT = TypeVar("NameT", bound=str, default=Any, contravariant=True)

    class _Declared(Generic[DataT, NameT]):
        pass

else:
    DataT = NameT = Any

    class _Declared:
        """For annotations: `ServerSentEvent[Item]`, `ServerSentEvent[Item, Literal["name"]]`."""

        __slots__ = ()
        __class_getitem__ = classmethod(GenericAlias)


class ServerSentEvent(_Declared[DataT, NameT]):
    """One event, to be yielded by a path operation or turned into bytes with `encode()`.

    An event is immutable, comparable and picklable, and hashable if its data is.

    Args:
        data: Any value that FastAPI can encode as JSON. Strings too are sent as JSON, in quotes.
            None leaves the field out. Not together with `raw_data`.
        raw_data: Text that is sent as it is, one `data:` line for each of its lines.
        event: The event type, a single line; browsers dispatch `message` when it is left out.
        id: The event's ID, a single line without NUL; browsers send the last one back in the
            `Last-Event-ID` header when they reconnect.
        retry: The time to wait before reconnecting; a non-negative integer of milliseconds.
        comment: Text that clients ignore, one `:` line for each of its lines.

    Raises:
        ValueError: a field breaks one of these rules; the message names it.

    Fields as in https://html.spec.whatwg.org/multipage/server-sent-events.html
    """

    __slots__ = (
        "__weakref__",
        "_by_init",
        "_comment",
        "_data",
        "_event",
        "_id",
        "_raw_data",
        "_retry",
    )
    __module__ = "sserpent"

    _data: Any
    _raw_data: str | None
    _event: str | None
    _id: str | None
    _retry: int | None
    _comment: str | None
    _by_init: bool

    if TYPE_CHECKING:
        # A subclass may give a field a default, and have an `__init__` of its own.
        data: DataT
        raw_data: str | None
        event: str | None
        id: str | None
        retry: int | None
        comment: str | None

        def __new__(cls, *arguments: Any, **fields: Any) -> Self: ...

        def __init__(
            self,
            *,
            data: DataT | None = None,
            raw_data: str | None = None,
            event: NameT | None = None,
            id: str | None = None,
            retry: int | None = None,
            comment: str | None = None,
        ) -> None: ...

    else:

        def __new__(
            cls,
            *arguments: Any,
            data: DataT | None = None,
            raw_data: str | None = None,
            event: NameT | None = None,
            id: str | None = None,
            retry: int | None = None,
            comment: str | None = None,
        ) -> ServerSentEvent[DataT, NameT]:
            if arguments:
                raise TypeError(
                    "ServerSentEvent() takes no positional arguments: name the text, data= to send"
                    " it as JSON, or raw_data= to send it as it is"
                )
            self = object.__new__(cls)
            self._data = data
            # Text that is printable and ASCII keeps every rule, and most text is.
            if raw_data is not None and not (type(raw_data) is str and raw_data.isascii()):
                raw_data = checked_text("raw_data", raw_data)
            self._raw_data = raw_data
            if event is not None and not (
                type(event) is str and event.isascii() and event.isprintable()
            ):
                event = check_event(checked_text("event", event))
            self._event = event
            if id is not None and not (type(id) is str and id.isascii() and id.isprintable()):
                id = check_id(checked_text("id", id))  # noqa: A001
            self._id = id
            self._retry = None if retry is None else _milliseconds(retry)
            self._comment = None if comment is None else checked_text("comment", comment)
            if data is not None and raw_data is not None:
                raise ValueError(
                    "Cannot set both 'data' and 'raw_data' on the same ServerSentEvent. Use 'data'"
                    " for JSON-serialized payloads or 'raw_data' for pre-formatted strings."
                )
            return self

        def __init__(self, *arguments, **fields):
            if type(self) is ServerSentEvent:
                return
            given = subclasses.fields_of_init(ServerSentEvent, self, arguments, fields)
            if given is not None and not hasattr(self, "_by_init"):
                self._data = given._data
                self._raw_data = given._raw_data
                self._event = given._event
                self._id = given._id
                self._retry = given._retry
                self._comment = given._comment
                self._by_init = True

        @property
        def data(self) -> DataT:
            """The value that is sent as JSON, or None."""
            return self._data

        @property
        def raw_data(self) -> str | None:
            """The text that is sent as it is, or None."""
            return self._raw_data

        @property
        def event(self) -> str | None:
            """The event type, or None."""
            return self._event

        @property
        def id(self) -> str | None:
            """The event's ID, or None."""
            return self._id

        @property
        def retry(self) -> int | None:
            """The time to wait before reconnecting in milliseconds, or None."""
            return self._retry

        @property
        def comment(self) -> str | None:
            """The text that clients ignore, or None."""
            return self._comment

    def __init_subclass__(cls, **options: Any) -> None:
        subclasses.prepare(ServerSentEvent, cls, options)

    def encode(self) -> bytes:
        """Returns the event in wire format, with the blank line that ends it.

        Raises:
            Exception: whatever FastAPI's `jsonable_encoder` or `json.dumps` raise for `data`.
        """
        return frame(*ServerSentEvent._written(self))

    def _written(self) -> tuple[str | bytes | None, str | None, str | None, int | None, str | None]:
        """Returns the fields as they are framed: the data, as JSON or as text, then the others."""
        data: str | bytes | None = self._raw_data
        if data is None:
            if self._data is not None:
                data = event_data_json(self._data)
            elif type(self) is not ServerSentEvent:
                self._check_begun()
        return data, self._event, self._id, self._retry, self._comment

    def _check_begun(self) -> None:
        if not hasattr(self, "_by_init") and not any(
            value is not None for value in self._fields().values()
        ):
            subclasses.check_begun(type(self))

    def _fields(self) -> dict[str, Any]:
        return {
            "data": self._data,
            "raw_data": self._raw_data,
            "event": self._event,
            "id": self._id,
            "retry": self._retry,
            "comment": self._comment,
        }

    def __repr__(self) -> str:
        shown = (f"{k}={v!r}" for k, v in self._fields().items() if v is not None)
        return f"{type(self).__name__}({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ServerSentEvent):
            return NotImplemented
        same_class = type(self) is type(other)  # pyright: ignore[reportUnknownArgumentType]
        return same_class and self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(tuple(self._fields().values()))

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]:
        return (), subclasses.arguments_of_new(type(self), self._fields())

    def __getstate__(self) -> Any:
        # The arguments of __new__ are all there is, but for what a subclass adds.
        attributes = getattr(self, "__dict__", None)
        slots = subclasses.own_slots(ServerSentEvent, self)
        return (attributes, slots) if slots else attributes

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Protocols below 2 know nothing of `__getnewargs_ex__`.
        return object.__reduce_ex__(self, max(protocol, 2))


def _without_positional(signature: inspect.Signature) -> inspect.Signature:
    kinds = inspect.Parameter.VAR_POSITIONAL
    named = [each for each in signature.parameters.values() if each.kind is not kinds]
    return signature.replace(parameters=named)


if not TYPE_CHECKING:
    # Positional arguments are taken only to be refused with a hint.
    ServerSentEvent.__new__.__signature__ = _without_positional(
        inspect.signature(ServerSentEvent.__new__)
    )


def format_sse_event(
    *,
    data_str: str | None = None,
    event: str | None = None,
    id: str | None = None,
    retry: int | None = None,
    comment: str | None = None,
) -> bytes:
    """Returns one event in wire format, from data that is text already. The bytes are those of the
    function of this name in `fastapi.sse`.

    Args:
        data_str: The `data` field, one `data:` line for each of its lines.
        event: The event type, a single line.
        id: The event's ID, a single line without NUL.
        retry: The time to wait before reconnecting; a non-negative integer of milliseconds.
        comment: Text that clients ignore, one `:` line for each of its lines.

    Returns:
        The bytes of the event, with the blank line that ends it.

    Raises:
        ValueError: a field breaks one of these rules; the message names it. FastAPI's function
            lets a line break in `event` or `id` start a field of its own.
    """
    return frame(
        checked_text("data_str", data_str),
        check_event(checked_text("event", event)),
        check_id(checked_text("id", id)),
        _milliseconds(retry),
        checked_text("comment", comment),
    )


format_sse_event.__module__ = "sserpent"


def from_fastapi(event: Any) -> ServerSentEvent:
    """Returns an event of FastAPI's class, checked: FastAPI before 0.136.2 does not check its
    fields."""
    return ServerSentEvent(
        data=event.data,
        raw_data=event.raw_data,
        event=event.event,
        id=event.id,
        retry=event.retry,
        comment=event.comment,
    )


def _milliseconds(value: int | None) -> int | None:
    if value is None or (type(value) is int and 0 <= value < 2**32):
        return value
    return conversion.milliseconds(value)
