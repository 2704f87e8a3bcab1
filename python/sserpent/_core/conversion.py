"""What pydantic and FastAPI decide, for both backends: field values off the common path, and JSON
as `fastapi.sse` writes it. The only module of the core that imports either.

pydantic decides what counts as a string or an integer, so that whatever `fastapi.sse` accepts is
accepted here; every refusal is a ValueError that names the field.
"""

from __future__ import annotations

import inspect
import json
from typing import Any

from fastapi.encoders import jsonable_encoder
from fastapi.sse import ServerSentEvent as FastAPIServerSentEvent
from pydantic import BaseModel
from pydantic_core import SchemaValidator, ValidationError, core_schema, to_json

__all__ = [
    "MODEL_DUMP",
    "MODEL_DUMP_JSON",
    "MODEL_DUMP_JSON_OPTIONS",
    "BaseModel",
    "FastAPIServerSentEvent",
    "json_as_fastapi",
    "milliseconds",
    "text",
    "to_json",
]

# pydantic's own methods. A model that has others in their place is called, not serialized.
MODEL_DUMP = BaseModel.model_dump
MODEL_DUMP_JSON = BaseModel.model_dump_json

# The options that `model_dump_json()` passes to the model's serializer: whether it goes by aliases
# unless the model's configuration says otherwise, which pydantic 2.11 changed.
_by_alias = inspect.signature(BaseModel.model_dump_json).parameters["by_alias"].default
MODEL_DUMP_JSON_OPTIONS: dict[str, Any] = {} if _by_alias is None else {"by_alias": _by_alias}

_text_validator = SchemaValidator(core_schema.str_schema())
_milliseconds_validator = SchemaValidator(core_schema.int_schema(ge=0))


def text(field: str, value: object) -> str:
    """`value` as an exact str that UTF-8 can encode."""
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
    """`value` as a non-negative int."""
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
    """The JSON of a value as `fastapi.sse` sends it, but compact and in UTF-8.

    Raises what FastAPI raises: whatever its `jsonable_encoder` or `json.dumps` refuses.
    """
    jsonable = _non_finite_to_null(jsonable_encoder(value))
    try:
        return json.dumps(jsonable, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # lone surrogates, which only an escape can carry
        return json.dumps(jsonable, separators=(",", ":")).encode()


def _non_finite_to_null(value: dict[Any, Any] | list[Any] | float | str | None) -> Any:
    # FastAPI does this since 0.145, and to these three types only.
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: _non_finite_to_null(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_non_finite_to_null(part) for part in value]
    return value
