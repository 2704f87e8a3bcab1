"""The decisions of pydantic and FastAPI, for both backends: field values off the common path, and
JSON as `fastapi.sse` writes it. The only module of the core that imports FastAPI.

pydantic decides what counts as a string or an integer, so that whatever `fastapi.sse` accepts is
accepted here; every refusal is a ValueError that names the field.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections import deque
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from types import GeneratorType
from typing import Any
from uuid import UUID

import fastapi
from fastapi.encoders import ENCODERS_BY_TYPE, jsonable_encoder
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import (
    PydanticUndefinedType,
    SchemaValidator,
    ValidationError,
    core_schema,
    from_json,
    to_json,
)

try:
    from fastapi.sse import ServerSentEvent as FastAPIServerSentEvent
except ModuleNotFoundError as error:
    raise ImportError(
        f"sserpent needs FastAPI 0.135.0 or newer; {fastapi.__version__} is installed,"
        " which has no fastapi.sse"
    ) from error

__all__ = [
    "ENCODERS_BY_TYPE",
    "LEAF_ENCODERS",
    "MODEL_DUMP_JSON",
    "MODEL_DUMP_JSON_OPTIONS",
    "MODEL_DUMP_OPTIONS",
    "MODEL_DUMP_OPTIONS_WITHOUT_NONE",
    "BaseModel",
    "FastAPIServerSentEvent",
    "FieldInfo",
    "copied",
    "dump_json",
    "encoded_without_none",
    "entries",
    "from_json",
    "holds_iterator",
    "json_as_fastapi",
    "jsonable_encoder",
    "milliseconds",
    "text",
    "to_json",
    "treatment",
    "valid_class",
    "with_encoded_keys",
]

# pydantic's own methods. A model that has others in their place is called, not serialized.
MODEL_DUMP = BaseModel.model_dump
MODEL_DUMP_JSON = BaseModel.model_dump_json

# The options that `model_dump_json()` passes to the model's serializer: whether it goes by aliases
# unless the model's configuration says otherwise, which pydantic 2.11 changed.
_by_alias = inspect.signature(BaseModel.model_dump_json).parameters["by_alias"].default
MODEL_DUMP_JSON_OPTIONS: dict[str, Any] = {} if _by_alias is None else {"by_alias": _by_alias}

# FastAPI's encoder passes these to a model's `model_dump()`.
MODEL_DUMP_OPTIONS: dict[str, Any] = {
    "mode": "json",
    "include": None,
    "exclude": None,
    "by_alias": True,
    "exclude_unset": False,
    "exclude_none": False,
    "exclude_defaults": False,
}

MODEL_DUMP_OPTIONS_WITHOUT_NONE: dict[str, Any] = {**MODEL_DUMP_OPTIONS, "exclude_none": True}

# The encoders of leaves that the compiled core writes by itself, as long as an application has not
# put others into FastAPI's table, which it may do at any time.
LEAF_ENCODERS: dict[type, Callable[[Any], Any]] = {
    kind: encoder
    for kind in (datetime, UUID, Decimal, date, timedelta, time, bytes)
    if (encoder := ENCODERS_BY_TYPE.get(kind)) is not None
    and (encoder.__module__ == "fastapi.encoders" or (kind is UUID and encoder is str))
}

_text_validator = SchemaValidator(core_schema.str_schema())
_milliseconds_validator = SchemaValidator(core_schema.int_schema(ge=0))


def text(field: str, value: object) -> str:
    """Returns `value` as an exact str that UTF-8 can encode."""
    try:
        validated = str(_text_validator.validate_python(value))
        validated.encode()
    except ValidationError:
        if not isinstance(value, str):
            raise ValueError(
                f"SSE '{field}' must be a string, not {type(value).__name__}"
            ) from None
        raise _not_unicode(field) from None
    except UnicodeEncodeError:
        raise _not_unicode(field) from None
    return validated


def _not_unicode(field: str) -> ValueError:
    return ValueError(f"SSE '{field}' must be valid Unicode, without lone surrogates")


def milliseconds(value: object) -> int:
    """Returns `value` as a non-negative int."""
    try:
        validated: int = _milliseconds_validator.validate_python(value)
        str(validated)  # refuses integers of more digits than sys.get_int_max_str_digits()
    except ValueError:
        raise ValueError(
            f"SSE 'retry' must be a non-negative integer of milliseconds, not {_shown(value)}"
        ) from None
    return validated


def _shown(value: object) -> str:
    shown = repr(value) if isinstance(value, (int, float)) and abs(value) < 1e9 else ""
    return f"{shown} ({type(value).__name__})" if shown else type(value).__name__


def json_as_fastapi(value: object) -> bytes:
    """Returns the JSON of a value as `fastapi.sse` sends it, but compact and in UTF-8.

    Raises what FastAPI raises: whatever its `jsonable_encoder` or `json.dumps` refuses.
    """
    return dump_json(jsonable_encoder(value))


def encoded_without_none(value: object) -> Any:
    """Returns a value as FastAPI's encoder makes it, without the fields of models that are None.
    Its own `exclude_none` would leave out the None of dicts too."""
    return jsonable_encoder(value, custom_encoder={BaseModel: _model_without_none})


def _model_without_none(model: BaseModel) -> Any:
    return encoded_without_none(model.model_dump(**MODEL_DUMP_OPTIONS_WITHOUT_NONE))


def dump_json(encoded: Any) -> bytes:
    """Returns the JSON of what FastAPI's encoder has answered."""
    encoded = _non_finite_to_null(encoded)
    try:
        return _encode_json(encoded).encode()
    except UnicodeEncodeError:  # lone surrogates, which only an escape can carry
        return _encode_ascii_json(encoded).encode()


_encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_encode_ascii_json = json.JSONEncoder(separators=(",", ":")).encode


def _non_finite_to_null(value: dict[Any, Any] | list[Any] | float | str | None) -> Any:
    # FastAPI does this since 0.145, and to these three types only.
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: _non_finite_to_null(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_non_finite_to_null(part) for part in value]
    return value


# Asked by the compiled core.


def treatment(kind: type[Any]) -> tuple[Any, ...]:
    """Returns how FastAPI's encoder treats instances of a class, by its checks in their order."""
    if any(name in vars(base) for base in kind.__mro__[:-1] for name in _WAYS_TO_LIE):
        return ("other",)
    if issubclass(kind, BaseModel):
        try:
            serializer = kind.__pydantic_serializer__
            methods = serializer.to_python, serializer.to_json
        except Exception:  # the class is not defined fully yet
            return ("other",)
        has_own = kind.model_dump is MODEL_DUMP, kind.model_dump_json is MODEL_DUMP_JSON
        return "model", *methods, *has_own, _writes_plain_json(kind.__pydantic_core_schema__)
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
        has_state = any(name.startswith("_sa") for name in names)
        return ("other",) if has_state else ("dataclass", names)
    if issubclass(kind, Enum):
        own = inspect.getattr_static(kind, "value") is vars(Enum)["value"]
        return "enum", "_value_" if own else "value"
    if issubclass(kind, PurePath):
        return ("path",)
    if issubclass(kind, (str, int, float)):
        return ("scalar",)
    if issubclass(kind, PydanticUndefinedType):
        return ("undefined",)
    if dict in kind.__mro__:
        return "mapping", all(_inherits(kind, dict, method) for method in ("keys", "items"))
    if issubclass(kind, (list, set, frozenset, GeneratorType, tuple, deque)):
        return ("sequence",)
    return ("leaf",)


# Types of pydantic's core schemas whose values have one form in JSON, in a text and in a dump, and
# that writing them twice does not change.
_PLAIN_SCHEMAS = frozenset(
    [
        "str",
        "int",
        "float",
        "bool",
        "none",
        "literal",
        "enum",
        "date",
        "time",
        "datetime",
        "timedelta",
        "uuid",
        "decimal",
        "url",
        "multi-host-url",
        "definition-ref",
        "definitions",
        "model",
        "model-fields",
        "model-field",
        "nullable",
        "default",
        "list",
        "set",
        "frozenset",
        "tuple",
        "dict",
        "union",
        "function-before",
        "function-after",
    ]
)


def _writes_plain_json(schema: Any) -> bool:
    """Returns whether nothing of a model decides about its JSON but its fields' names and types: no
    serializer of the user's, no computed or additional fields. What `jsonable_encoder` makes of its
    dump is then its JSON, unless a text says `_sa`, NaN or Infinity, or has a huge integer."""
    if "serialization" in schema or schema["type"] not in _PLAIN_SCHEMAS:
        return False
    config: dict[str, Any] = schema.get("config") or {}
    if schema.get("computed_fields") or "allow" in (
        config.get("extra_fields_behavior"),
        schema.get("extra_behavior"),
    ):
        return False
    inner = [part for name in _INNER_SCHEMAS if name in schema for part in _parts(schema[name])]
    if schema["type"] == "model-fields":
        fields: dict[str, Any] = schema["fields"]
        names = [field.get("serialization_alias") or name for name, field in fields.items()]
        if any(name.startswith("_sa") for name in names):
            return False
        inner += fields.values()
    return all(map(_writes_plain_json, inner))


def _parts(schemas: dict[str, Any] | list[Any]) -> list[Any]:
    """Returns the schemas of what has one or many; a choice of a union may have a label."""
    if isinstance(schemas, dict):
        return [schemas]
    return [part[0] if isinstance(part, tuple) else part for part in schemas]


_INNER_SCHEMAS = (
    "schema",
    "items_schema",
    "keys_schema",
    "values_schema",
    "choices",
    "definitions",
)


def holds_iterator(model: BaseModel) -> bool:
    """Whether there is an iterator somewhere in a model of which `_writes_plain_json` holds, where
    pydantic would have refused it: what has been encoded of that is empty when it is encoded again.
    """
    parts: list[Any] = [model]
    seen = set[int]()
    while parts:
        part = parts.pop()
        if id(part) in seen or isinstance(part, (str, bytes)):
            continue
        seen.add(id(part))
        if isinstance(part, Iterator):
            return True
        if isinstance(part, dict):
            parts += part.values()
        elif isinstance(part, (list, tuple, set, frozenset, deque)):
            parts += part
        elif isinstance(part, BaseModel) or dataclasses.is_dataclass(part):
            parts += vars(part).values()
    return False


def _inherits(kind: type[Any], base: type[Any], method: str) -> bool:
    return getattr(kind, method) is getattr(base, method)


# By which an instance can be one of another class to `isinstance`.
_WAYS_TO_LIE = "__class__", "__getattribute__"


@dataclasses.dataclass
class _Field:
    value: Any


def copied(value: Any) -> Any:
    """Returns the value of a field as `dataclasses.asdict` does."""
    return dataclasses.asdict(_Field(value))["value"]


def entries(mapping: dict[Any, Any]) -> dict[Any, Any]:
    """Returns the part of a dict of a subclass that FastAPI's encoder encodes."""
    keys = set(mapping.keys())
    return {key: value for key, value in mapping.items() if key in keys}


def with_encoded_keys(mapping: dict[Any, Any]) -> dict[Any, Any] | None:
    """`mapping` with the keys that FastAPI's encoder makes of its own; None if it refuses any, or
    if several become one, of which FastAPI encodes each value and keeps the last."""
    kept = {
        key: value
        for key, value in mapping.items()
        if not (isinstance(key, str) and key.startswith("_sa"))
    }
    try:
        encoded = {jsonable_encoder(key): value for key, value in kept.items()}
    except Exception:
        return None
    return encoded if len(encoded) == len(kept) else None


def valid_class(adapter: Any) -> type | None:
    """The model whose own instances pydantic returns as they are, without a look at their fields:
    that is what `revalidate_instances` is about."""
    schema = adapter.core_schema
    if type(adapter.validator) is not SchemaValidator or schema.get("type") != "model":
        return None  # a plugin wants to see each validation, or there is more to validate
    config: dict[str, Any] = schema.get("config") or {}
    revalidate = schema.get("revalidate_instances") or config.get("revalidate_instances")
    model: type = schema["cls"]
    return None if revalidate == "always" else model
