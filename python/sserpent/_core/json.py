"""The JSON of an item or an event's data: pydantic-core's where FastAPI asks pydantic, or where its
encoder would change nothing; else FastAPI's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .conversion import (
    MODEL_DUMP_JSON,
    MODEL_DUMP_JSON_OPTIONS,
    MODEL_DUMP_OPTIONS,
    MODEL_DUMP_OPTIONS_WITHOUT_NONE,
    BaseModel,
    dump_json,
    encoded_without_none,
    json_as_fastapi,
    to_json,
)


class ItemSchema:
    """A declared item type: how its values are validated and serialized.

    Args:
        validate: Called with the item and `validate_options`; returns the value to serialize.
        validate_options: Keyword arguments for `validate`, 16 at most.
        to_json: Called with that value and `json_options`; returns compact JSON in UTF-8, without
            raw line breaks, as pydantic-core writes it.
        json_options: Keyword arguments for `to_json`, 16 at most.
        valid_class: A class whose own instances, not those of its subclasses, `validate` would
            return as they are; they are not validated.
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
        return self._written(item)

    def _written(self, value: object) -> bytes:
        return _json_bytes(self._to_json(value, **self._json_options))


# Older releases of pydantic-core write large numbers as nobody else does: 1e16.
_FLOATS = {float} if to_json(1e16) == b"1e+16" else set[type]()
_SCALARS = frozenset({str, bool, type(None)} | _FLOATS)
_BUILTINS = _SCALARS | {int, float, dict, list, tuple}
# FastAPI refuses integers of more digits than `sys.get_int_max_str_digits()`, pydantic does not.
_MAX_INT = 2**64
# How deep a value is looked into before it is left to FastAPI's encoder, which knows how to fail on
# values that contain themselves.
_MAX_DEPTH = 64


def event_data_json(value: Any) -> str | bytes:
    """Returns the JSON of `ServerSentEvent.data`: `model_dump_json()` of what has it, else as an
    item without annotation."""
    kind = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kind in _BUILTINS:
        return item_json(value)
    if BaseModel in kind.__mro__ and _has_method(value.model_dump_json, MODEL_DUMP_JSON):
        serializer = value.__pydantic_serializer__
        return _json_bytes(serializer.to_json(value, **MODEL_DUMP_JSON_OPTIONS))
    if not hasattr(value, "model_dump_json"):
        return item_json(value)
    return _json_text(value.model_dump_json())


def item_json(value: Any, exclude_none: bool = False) -> bytes:
    """Returns the JSON of an item that has no declared type: as FastAPI's encoder and `json.dumps`
    write it, with null for NaN and infinities.

    Args:
        value: The item.
        exclude_none: Whether the fields of models that are None are left out.
    """
    value = dumped(value, exclude_none)
    json = plain_json(value) if is_plain(value) else None
    return encoded_json(value, exclude_none) if json is None else json


def dumped(value: Any, exclude_none: bool) -> Any:
    """Returns what a model's fields are, and any other value as it is."""
    if BaseModel not in type(value).__mro__:
        return value
    options = MODEL_DUMP_OPTIONS_WITHOUT_NONE if exclude_none else MODEL_DUMP_OPTIONS
    return value.model_dump(**options)


def plain_json(value: Any) -> bytes | None:
    """Returns the JSON of a plain value; None if it has lone surrogates, which FastAPI escapes."""
    try:
        return _json_bytes(to_json(value, inf_nan_mode="null"))
    except ValueError:
        return None


def encoded_json(value: Any, exclude_none: bool) -> bytes:
    """Returns the JSON of any value, by FastAPI's encoder."""
    return dump_json(encoded_without_none(value)) if exclude_none else json_as_fastapi(value)


def is_plain(value: Any, depth: int = 0) -> bool:
    """Returns whether the value is made of JSON's own types, of which FastAPI's encoder changes
    nothing. Exact types only: a subclass may be an Enum, which FastAPI replaces by its value."""
    kind = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kind in _SCALARS:
        return True
    if kind is int:
        return bool(-_MAX_INT < value < _MAX_INT)
    if depth == _MAX_DEPTH:
        return False
    if kind is dict:
        for key in value:
            # FastAPI drops keys that start with `_sa` (SQLAlchemy's state).
            if type(key) is not str or key.startswith("_sa"):
                return False
        parts = value.values()
    elif kind is list or kind is tuple:
        parts = value
    else:
        return False
    return all(type(part) in _SCALARS or is_plain(part, depth + 1) for part in parts)


def _has_method(method: Any, function: Any) -> bool:
    # Asked of the instance: asking the class of a model goes through its metaclass's
    # `__getattr__`, which takes several times as long.
    return getattr(method, "__func__", None) is function


def _json_bytes(json: Any) -> bytes:
    if type(json) is not bytes:
        raise wrong_type("JSON must be bytes", json)
    return json


def _json_text(json: Any) -> str:
    if not isinstance(json, str):
        raise wrong_type("model_dump_json() must return a string", json)
    return str.__str__(json)


def wrong_type(rule: str, value: object) -> TypeError:
    """Returns the error for a value that breaks a rule about types, with the name of its class."""
    return TypeError(f"{rule}, not {type(value).__name__}")
