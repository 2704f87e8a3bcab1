"""How FastAPI's encoder treats the instances of a class: what only the compiled core asks of
Python, once for each class. The twin calls the encoder instead.

All that `rust/json/writer.rs` looks up is here; what it shares with the twin is `conversion`'s.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from types import GeneratorType
from typing import Any
from uuid import UUID

from .conversion import (
    ENCODERS_BY_TYPE,
    MODEL_DUMP,
    MODEL_DUMP_JSON,
    MODEL_DUMP_OPTIONS,
    MODEL_DUMP_OPTIONS_WITHOUT_NONE,
    BaseModel,
    PydanticUndefinedType,
    dump_json,
    encoded_without_none,
    from_json,
    jsonable_encoder,
)

__all__ = [
    "ENCODERS_BY_TYPE",
    "LEAF_ENCODERS",
    "MODEL_DUMP_OPTIONS",
    "MODEL_DUMP_OPTIONS_WITHOUT_NONE",
    "copied",
    "dump_json",
    "encoded_without_none",
    "entries",
    "from_json",
    "holds_iterator",
    "jsonable_encoder",
    "treatment",
    "with_encoded_keys",
]

# The encoders of leaves that the compiled core writes by itself, as long as an application has not
# put others into FastAPI's table, which it may do at any time.
LEAF_ENCODERS: dict[type, Callable[[Any], Any]] = {
    kind: encoder
    for kind in (datetime, UUID, Decimal, date, timedelta, time, bytes)
    if (encoder := ENCODERS_BY_TYPE.get(kind)) is not None
    and (encoder.__module__ == "fastapi.encoders" or (kind is UUID and encoder is str))
}


def treatment(kind: type[Any]) -> tuple[Any, ...]:
    """Returns how FastAPI's encoder treats instances of a class, by its checks in their order."""
    unknown = (base for base in kind.__mro__ if base not in _HONEST)
    if any(name in vars(base) for base in unknown for name in _WAYS_TO_LIE):
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
    """Returns whether there is an iterator somewhere in a model of which `_writes_plain_json`
    holds, where pydantic would have refused it: what has been encoded of that is empty when it is
    encoded again."""
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
# CPython's own classes have a `__getattribute__` too, which tells the truth.
_BUILTINS = str, int, float, list, tuple, set, frozenset, dict, object
_HONEST = frozenset((*_BUILTINS, OrderedDict, defaultdict, deque, GeneratorType))


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
    """Returns `mapping` with the keys that FastAPI's encoder makes of its own; None if it refuses
    any, or if several become one, of which FastAPI encodes each value and keeps the last."""
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
