"""The decisions of pydantic and FastAPI, for both backends: field values off the common path, and
JSON as `fastapi.sse` writes it. The only module of the core that imports FastAPI.

pydantic decides what counts as a string or an integer, so that whatever `fastapi.sse` accepts is
accepted here; every refusal is a ValueError that names the field.
"""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

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
    "MODEL_DUMP",
    "MODEL_DUMP_JSON",
    "MODEL_DUMP_JSON_OPTIONS",
    "MODEL_DUMP_OPTIONS",
    "MODEL_DUMP_OPTIONS_WITHOUT_NONE",
    "BaseModel",
    "FastAPIServerSentEvent",
    "FieldInfo",
    "PydanticUndefinedType",
    "dump_json",
    "encoded_without_none",
    "from_json",
    "json_as_fastapi",
    "jsonable_encoder",
    "milliseconds",
    "text",
    "to_json",
    "valid_class",
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
    dumped = _encode_json(encoded)
    # Small numbers are the only ones that pydantic writes in another way: 1e-7, not 1e-07.
    if "e-" in dumped and _SMALL_NUMBER.search(dumped):
        dumped = _with_floats_of_pydantic(encoded)
    # Python escapes lone surrogates as JSON does.
    return dumped.encode(errors="backslashreplace")


def _with_floats_of_pydantic(value: dict[Any, Any] | list[Any] | float | str | None) -> str:
    if isinstance(value, float) and abs(value) < 1:
        return to_json(float(value)).decode()
    if isinstance(value, dict):
        written = (
            f"{_encode_json({key: 0})[1:-2]}{_with_floats_of_pydantic(part)}"
            for key, part in value.items()
        )
        return f"{{{','.join(written)}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_with_floats_of_pydantic, value))}]"
    return _encode_json(value)


# Not each "e-": many a UUID has one.
_SMALL_NUMBER = re.compile(r"(?:^|[:,\[])-?\d[\d.]*e-\d+(?:$|[,\]}])")
_encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _non_finite_to_null(value: dict[Any, Any] | list[Any] | float | str | None) -> Any:
    # FastAPI does this since 0.145, and to these three types only.
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: _non_finite_to_null(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_non_finite_to_null(part) for part in value]
    return value


def valid_class(adapter: Any) -> type | None:
    """Returns the model whose own instances pydantic returns as they are, without a look at their
    fields: that is what `revalidate_instances` is about."""
    schema = adapter.core_schema
    if type(adapter.validator) is not SchemaValidator or schema.get("type") != "model":
        return None  # a plugin wants to see each validation, or there is more to validate
    config: dict[str, Any] = schema.get("config") or {}
    revalidate = schema.get("revalidate_instances") or config.get("revalidate_instances")
    model: type = schema["cls"]
    return None if revalidate == "always" else model
