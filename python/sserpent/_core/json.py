"""The JSON of an item: pydantic-core's where FastAPI's encoder would write the same, else
FastAPI's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .conversion import (
    MODEL_DUMP,
    MODEL_DUMP_JSON,
    MODEL_DUMP_JSON_OPTIONS,
    BaseModel,
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

    Raises:
        TypeError: an argument has the wrong type; the message names it.
        ValueError: there are more than 16 options.
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
        self._validate_options = _keywords("validate_options", validate_options)
        self._to_json = to_json
        self._json_options = _keywords("json_options", json_options)
        self._valid_class = _checked_valid_class(valid_class)

    def _json_of(self, item: object) -> bytes:
        if type(item) is not self._valid_class:
            item = self._validate(item, **self._validate_options)
        return _json_bytes(self._to_json(item, **self._json_options))


# More keyword arguments than pydantic's validators and serializers take.
_MAX_KEYWORDS = 16


def _keywords(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong_type(f"'{name}' must be a dict", value)
    options: dict[Any, Any] = dict(value)  # pyright: ignore[reportUnknownArgumentType]
    if len(options) > _MAX_KEYWORDS:
        raise ValueError(f"'{name}' must have at most {_MAX_KEYWORDS} entries, not {len(options)}")
    for key in options:
        if not isinstance(key, str):
            raise wrong_type(f"'{name}' must have str keys", key)
    return options


def _checked_valid_class(value: Any) -> type | None:
    if value is None or isinstance(value, type):
        return value
    raise wrong_type("'valid_class' must be a class or None", value)


_SCALARS = frozenset({str, int, float, bool, type(None)})
_BUILTINS = _SCALARS | {dict, list, tuple}
# How deep the walk goes before it leaves a value to FastAPI's encoder, which knows how to fail on
# values that contain themselves.
_MAX_DEPTH = 64
# The kinds of values, in the order in which the kind of a part makes that of the whole: JSON's own
# types; also pydantic models; anything else.
_PLAIN, _HAS_MODELS, _OTHER = range(3)


def event_data_json(value: Any) -> str | bytes:
    """The JSON of `ServerSentEvent.data`: `model_dump_json()` of what has it, else as an item
    without annotation."""
    kind = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kind in _BUILTINS:
        return item_json(value)
    if BaseModel in kind.__mro__ and _has_method(value.model_dump_json, MODEL_DUMP_JSON):
        try:
            serializer = value.__pydantic_serializer__
            return _json_bytes(serializer.to_json(value, **MODEL_DUMP_JSON_OPTIONS))
        except BaseException as error:
            # Raised again, with FastAPI's own words, by the call below.
            if not _is_failure(error):
                raise
    if not hasattr(value, "model_dump_json"):
        return item_json(value)
    return _json_text(value.model_dump_json())


def item_json(value: Any) -> bytes:
    """The JSON of an item that has no declared type: pydantic-core's where it and FastAPI's
    encoder agree, else FastAPI's.

    An error on the fast way decides nothing: FastAPI's encoder accepts more (lone surrogates)
    and is the one whose refusals users know.
    """
    found = _walk(value, 0)
    if found != _OTHER:
        try:
            if type(value) in _BUILTINS:
                json = _json_bytes(to_json(value, by_alias=True, inf_nan_mode="null"))
            else:
                json = _json_bytes(value.__pydantic_serializer__.to_json(value, by_alias=True))
        except BaseException as error:
            if not _is_failure(error):
                raise
        else:
            if not (_has_huge_integer(json) or (found == _HAS_MODELS and _is_doubtful(json))):
                return json
    return json_as_fastapi(value)


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
    elif BaseModel in kind.__mro__ and _has_method(value.model_dump, MODEL_DUMP):
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


def _json_bytes(json: Any) -> bytes:
    if type(json) is not bytes:
        raise wrong_type("JSON must be bytes", json)
    return json


def _json_text(json: Any) -> str:
    if not isinstance(json, str):
        raise wrong_type("model_dump_json() must return a string", json)
    return str.__str__(json)


def wrong_type(rule: str, value: object) -> TypeError:
    return TypeError(f"{rule}, not {type(value).__name__}")
