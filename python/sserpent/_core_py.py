"""The core in pure Python, and the specification of the compiled one.

`_core_rs` (sources in `rust/`) has the same names, signatures, bytes, errors and messages. A
change lands in both, with one test that runs over both.

Wire rules: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from math import isfinite
from time import monotonic
from typing import Any

from fastapi.sse import ServerSentEvent as FastAPIServerSentEvent
from pydantic import BaseModel
from pydantic_core import to_json

from . import _fields

__all__ = ["Encoder", "ItemSchema", "ServerSentEvent", "format_sse_event", "step"]


class ServerSentEvent:
    """One event, to be yielded by a path operation or turned into bytes with `encode()`.

    Immutable, comparable, hashable where its data is, picklable.

    Args:
        data: Any value that FastAPI can encode as JSON. Strings too are sent as JSON, in quotes.
            None leaves the field out. Not together with `raw_data`.
        raw_data: Text that is sent as it is, one `data:` line for each of its lines.
        event: The event type, a single line; browsers dispatch `message` when it is left out.
        id: The event's ID, a single line without NUL; browsers send the last one back in the
            `Last-Event-ID` header when they reconnect.
        retry: The time in milliseconds to wait before reconnecting; a non-negative integer.
        comment: Text that clients ignore, one `:` line for each of its lines.

    Raises:
        ValueError: a field breaks one of these rules; the message names it.

    Fields as in https://html.spec.whatwg.org/multipage/server-sent-events.html
    """

    __slots__ = ("__weakref__", "_comment", "_data", "_event", "_id", "_raw_data", "_retry")
    __module__ = "sserpent"

    _data: object
    _raw_data: str | None
    _event: str | None
    _id: str | None
    _retry: int | None
    _comment: str | None

    def __new__(
        cls,
        *,
        data: Any = None,
        raw_data: str | None = None,
        event: str | None = None,
        id: str | None = None,
        retry: int | None = None,
        comment: str | None = None,
    ) -> ServerSentEvent:
        self = object.__new__(cls)
        self._data = data
        self._raw_data = raw_data = _text("raw_data", raw_data)
        self._event = _checked_event(_text("event", event))
        self._id = _checked_id(_text("id", id))
        self._retry = _milliseconds(retry)
        self._comment = _text("comment", comment)
        if data is not None and raw_data is not None:
            raise ValueError(
                "Cannot set both 'data' and 'raw_data' on the same ServerSentEvent. Use 'data'"
                " for JSON-serialized payloads or 'raw_data' for pre-formatted strings."
            )
        return self

    @property
    def data(self) -> Any:
        return self._data

    @property
    def raw_data(self) -> str | None:
        return self._raw_data

    @property
    def event(self) -> str | None:
        return self._event

    @property
    def id(self) -> str | None:
        return self._id

    @property
    def retry(self) -> int | None:
        return self._retry

    @property
    def comment(self) -> str | None:
        return self._comment

    def encode(self) -> bytes:
        """The event in wire format, with the blank line that ends it.

        Raises:
            Exception: whatever FastAPI's `jsonable_encoder` or `json.dumps` raise for `data`.
        """
        data: str | bytes | None = self._raw_data
        if data is None and self._data is not None:
            data = _event_data_json(self._data)
        return _frame(data, self._event, self._id, self._retry, self._comment)

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
        return type(self) is type(other) and self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(tuple(self._fields().values()))

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]:
        return (), {k: v for k, v in self._fields().items() if v is not None}

    def __getstate__(self) -> dict[str, Any] | None:
        # The arguments of __new__ are all there is, but for what a subclass adds.
        return getattr(self, "__dict__", None)


def format_sse_event(
    *,
    data_str: str | None = None,
    event: str | None = None,
    id: str | None = None,
    retry: int | None = None,
    comment: str | None = None,
) -> bytes:
    """One event in wire format from data that is already text: what `fastapi.sse` has by this
    name, and the same bytes.

    Args:
        data_str: The `data` field, one line for each of its lines.
        event: The event type, a single line.
        id: The event's ID, a single line without NUL.
        retry: The reconnection time in milliseconds, a non-negative integer.
        comment: One `:` line for each of its lines.

    Raises:
        ValueError: a field breaks one of these rules; unlike FastAPI's function, which would let
            a line break in `event` or `id` start a field of its own.
    """
    return _frame(
        _text("data_str", data_str),
        _checked_event(_text("event", event)),
        _checked_id(_text("id", id)),
        _milliseconds(retry),
        _text("comment", comment),
    )


def step(coroutine: Coroutine[Any, None, object], default: object, /) -> Any:
    """Runs a coroutine to its next suspension.

    Returns:
        What it waits for; `default` if it has ended, whatever it returned.
    """
    try:
        return coroutine.send(None)
    except StopIteration:
        return default


class ItemSchema:
    """A declared item type: how its values are validated and serialized.

    Args:
        validate: Called with the item and `validate_options`; answers the value to serialize.
        validate_options: Keyword arguments for `validate`.
        to_json: Called with that value and `json_options`; answers compact JSON in UTF-8, without
            raw line breaks, as pydantic-core writes it.
        json_options: Keyword arguments for `to_json`.
        valid_class: A class whose own instances, not those of its subclasses, `validate` would
            answer as they are; they are not validated.
    """

    __slots__ = ("_json_options", "_to_json", "_valid_class", "_validate", "_validate_options")

    def __init__(
        self,
        validate: Callable[..., Any],
        validate_options: dict[str, Any],
        to_json: Callable[..., bytes],
        json_options: dict[str, Any],
        valid_class: type | None = None,
    ) -> None:
        self._validate = validate
        self._validate_options = dict(validate_options)
        self._to_json = to_json
        self._json_options = dict(json_options)
        self._valid_class = valid_class

    def _json_of(self, item: object) -> bytes:
        if type(item) is not self._valid_class:
            item = self._validate(item, **self._validate_options)
        return _bytes(self._to_json(item, **self._json_options))


class Encoder:
    """The buffer between a stream's generator and its connection; safe to use from any thread.

    Args:
        item_schema: The declared item type, if there is one. Events are never checked against it.
        max_pending: How many bytes may be pending before it is time to hand them over.
        max_age: How many seconds may pass after the oldest pending event, or after `resume`, until
            it is time.

    Raises:
        ValueError: `max_age` is negative or no finite number.
    """

    __slots__ = ("_chunks", "_item_schema", "_lock", "_max_age", "_max_pending", "_since", "_size")

    def __init__(
        self,
        item_schema: ItemSchema | None = None,
        *,
        max_pending: int = 65_536,
        max_age: float = 0.002,
    ) -> None:
        if not (isfinite(max_age) and max_age >= 0):
            raise ValueError("'max_age' must be a finite, non-negative number of seconds")
        self._item_schema = item_schema
        self._max_pending = max_pending
        self._max_age = max_age
        self._chunks: list[bytes] = []
        self._size = 0
        self._since: float | None = monotonic()
        self._lock = threading.Lock()

    def push(self, item: object) -> bool:
        """Appends one framed event; if that fails, the pending bytes stay as they were.

        Args:
            item: An event, ours or FastAPI's, or a value for the `data` field.

        Returns:
            Whether it is time to hand the pending bytes over.

        Raises:
            ValueError: a field of an event breaks a rule.
            Exception: whatever the item's schema or FastAPI's encoder raise.
        """
        if isinstance(item, ServerSentEvent):
            framed = ServerSentEvent.encode(item)
        elif FastAPIServerSentEvent in type(item).__mro__:
            framed = _own_event(item).encode()
        elif self._item_schema is not None:
            framed = b"data: %b\n\n" % self._item_schema._json_of(item)
        else:
            framed = b"data: %b\n\n" % _item_json(item)
        with self._lock:
            self._chunks.append(framed)
            self._size += len(framed)
            now = monotonic()
            if self._since is None:
                self._since = now
            return self._size >= self._max_pending or now - self._since >= self._max_age

    def take(self) -> bytes:
        """The pending bytes, whole events in the order of their pushes; then none are pending."""
        with self._lock:
            chunks, self._chunks = self._chunks, []
            self._size = 0
            self._since = None
        return b"".join(chunks)

    def resume(self) -> None:
        """Says that the generator goes on after a turn of the event loop: an event that it then
        takes longer than `max_age` for is due at once."""
        self._since = monotonic()

    @property
    def pending(self) -> int:
        """How many bytes are pending."""
        return self._size


def _own_event(event: Any) -> ServerSentEvent:
    # FastAPI before 0.136.2 does not check its own fields.
    return ServerSentEvent(
        data=event.data,
        raw_data=event.raw_data,
        event=event.event,
        id=event.id,
        retry=event.retry,
        comment=event.comment,
    )


# Fields


def _text(field: str, value: str | None) -> str | None:
    if value is None:
        return None
    if type(value) is str:
        if value.isascii():
            return value
        try:
            value.encode()
        except UnicodeEncodeError:
            pass  # worded by the call below
        else:
            return value
    return _fields.text(field, value)


def _checked_event(value: str | None) -> str | None:
    return _single_line("event", value)


def _checked_id(value: str | None) -> str | None:
    # "If the field value does not contain U+0000 NULL, then set the last event ID buffer":
    # clients ignore an id with NUL.
    if value is not None and "\0" in value:
        raise ValueError("SSE 'id' must not contain null characters")
    return _single_line("id", value)


def _single_line(field: str, value: str | None) -> str | None:
    if value is not None and ("\n" in value or "\r" in value):
        raise ValueError(f"SSE '{field}' must be a single line")
    return value


def _milliseconds(value: int | None) -> int | None:
    if value is None or (type(value) is int and 0 <= value < 2**32):
        return value
    return _fields.milliseconds(value)


# Framing


def _frame(
    data: str | bytes | None,
    event: str | None,
    id: str | None,
    retry: int | None,
    comment: str | None,
) -> bytes:
    """The one place that writes fields; all of them are checked by now.

    `data` as bytes is JSON that a serializer wrote: JSON escapes control characters, so it holds
    no raw line break and needs no scan.
    """
    head = "" if comment is None else _lines(": ", comment)
    if event is not None:
        head = f"{head}event: {event}\n"
    tail = "\n" if retry is None else f"retry: {retry}\n\n"
    if id is not None:
        tail = f"id: {id}\n{tail}"
    if isinstance(data, bytes):
        return b"%bdata: %b\n%b" % (head.encode(), data, tail.encode())
    if data is not None:
        head += _lines("data: ", data)
    return (head + tail).encode()


def _lines(prefix: str, text: str) -> str:
    # Not str.splitlines(), which also splits at U+2028, VT, FF and NEL.
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\n" in text:
        text = text.replace("\n", "\n" + prefix)
    return f"{prefix}{text}\n"


# JSON

_SCALARS = frozenset({str, int, float, bool, type(None)})
_BUILTINS = _SCALARS | {dict, list, tuple}
# How deep the walk goes before it leaves a value to FastAPI's encoder, which knows how to fail on
# values that contain themselves.
_MAX_DEPTH = 64
# What a value is made of, in the order of what the parts make of the whole: JSON's own types;
# also pydantic models; anything else.
_PLAIN, _HAS_MODELS, _OTHER = range(3)
_model_dump = BaseModel.model_dump
_model_dump_json = BaseModel.model_dump_json


def _event_data_json(value: Any) -> str | bytes:
    """The JSON of `ServerSentEvent.data`: `model_dump_json()` of what has it, else as an item
    without annotation."""
    kind = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kind in _BUILTINS:
        return _item_json(value)
    if BaseModel in kind.__mro__ and _has_method(value.model_dump_json, _model_dump_json):
        try:
            serializer = value.__pydantic_serializer__
            return _bytes(serializer.to_json(value, **_fields.MODEL_DUMP_JSON_OPTIONS))
        except BaseException as error:
            # Raised again, with FastAPI's own words, by the call below.
            if not _is_failure(error):
                raise
    if not hasattr(value, "model_dump_json"):
        return _item_json(value)
    return _str(value.model_dump_json())


def _item_json(value: Any) -> bytes:
    """The JSON of an item that has no declared type: pydantic-core's where it and FastAPI's
    encoder agree, else FastAPI's.

    An error on the fast way decides nothing: FastAPI's encoder accepts more (lone surrogates)
    and is the one whose refusals users know.
    """
    found = _walk(value, 0)
    if found != _OTHER:
        try:
            if type(value) in _BUILTINS:
                json = _bytes(to_json(value, by_alias=True, inf_nan_mode="null"))
            else:
                json = _bytes(value.__pydantic_serializer__.to_json(value, by_alias=True))
        except BaseException as error:
            if not _is_failure(error):
                raise
        else:
            if not (_has_huge_integer(json) or (found == _HAS_MODELS and _is_doubtful(json))):
                return json
    return _fields.json_as_fastapi(value)


def _is_failure(error: BaseException) -> bool:
    # pydantic-core panics, with what is no Exception, when a dict changes while it is read.
    kind = type(error)
    panics = kind.__module__ == "pyo3_runtime" and kind.__name__ == "PanicException"
    return panics or isinstance(error, Exception)


def _is_doubtful(json: bytes) -> bool:
    # FastAPI dumps models first and cleans afterwards: keys that start with `_sa` vanish, NaN and
    # infinities become null whatever `ser_json_inf_nan` says.
    return b'"_sa' in json or b"NaN" in json or b"Infinity" in json


def _has_huge_integer(json: bytes) -> bool:
    # FastAPI's encoder refuses integers of more digits than sys.get_int_max_str_digits(), which
    # is 640 at least. So many digits fill a whole block of 320.
    return len(json) > 640 and any(
        json[start : start + 320].isdigit() for start in range(0, len(json) - 319, 320)
    )


def _walk(value: Any, depth: int) -> int:
    """One look at each part. Exact types only: a subclass may be an Enum, which FastAPI replaces
    by its value."""
    kind = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kind in _SCALARS:
        return _PLAIN
    if depth == _MAX_DEPTH:
        return _OTHER
    if kind is dict:
        for key in value:
            # FastAPI drops keys that start with `_sa` (SQLAlchemy's state).
            if type(key) is not str or key.startswith("_sa"):
                return _OTHER
        parts = value.values()
    elif kind is list or kind is tuple:
        parts = value
    elif BaseModel in kind.__mro__ and _has_method(value.model_dump, _model_dump):
        return _HAS_MODELS
    else:
        return _OTHER
    found = _PLAIN
    for part in parts:
        if type(part) not in _SCALARS:
            found = max(found, _walk(part, depth + 1))
            if found == _OTHER:
                break
    return found


def _has_method(method: Any, function: Any) -> bool:
    # Asked of the instance: asking the class of a model goes through its metaclass's
    # `__getattr__`, which takes several times as long.
    return getattr(method, "__func__", None) is function


def _bytes(json: Any) -> bytes:
    if type(json) is not bytes:
        raise TypeError(f"JSON must be bytes, not {type(json).__name__}")
    return json


def _str(json: Any) -> str:
    if not isinstance(json, str):
        raise TypeError(f"model_dump_json() must return a string, not {type(json).__name__}")
    return str.__str__(json)
