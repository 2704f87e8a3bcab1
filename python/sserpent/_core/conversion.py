"""What pydantic and FastAPI decide, for both backends: field values off the common path, JSON as
`fastapi.sse` writes it, and what the JSON of a received event means. The only module of the core
that imports either.

pydantic decides what counts as a string or an integer, so that whatever `fastapi.sse` accepts is
accepted here; every refusal is a ValueError that names the field.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from fastapi.encoders import jsonable_encoder
from fastapi.sse import ServerSentEvent as FastAPIServerSentEvent
from pydantic import BaseModel, TypeAdapter
from pydantic_core import SchemaValidator, ValidationError, core_schema, from_json, to_json

if TYPE_CHECKING:
    from .parse import MessageEvent

__all__ = [
    "MODEL_DUMP",
    "MODEL_DUMP_JSON",
    "MODEL_DUMP_JSON_OPTIONS",
    "BaseModel",
    "FastAPIServerSentEvent",
    "decode_event",
    "event_json",
    "json_as_fastapi",
    "json_validator",
    "milliseconds",
    "text",
    "to_json",
    "validate_event",
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


JSONValidator = Callable[["bytes | str"], Any]


def event_json(event: MessageEvent) -> Any:
    """What `json.loads(event.data)` returns, faster."""
    try:
        return from_json(event.data_bytes)
    except ValueError:
        pass
    # The standard library accepts more (lone surrogates, text that was malformed), and its errors
    # are the ones that users know.
    try:
        return json.loads(event.data)
    except RecursionError:
        raise ValueError("the JSON of the event's data is nested too deeply") from None


def decode_event(event: MessageEvent, item: Any) -> Any:
    return validate_event(event, json_validator(item))


def validate_event(event: MessageEvent, validate: JSONValidator) -> Any:
    """What the data of an event is by a validator of JSON."""
    try:
        return validate(event.data_bytes)
    except ValidationError as error:
        failure = error
    # "Decode with UTF-8" comes first: to pydantic, what is malformed is no JSON.
    if "\ufffd" in event.data and event.data.encode() != event.data_bytes:
        try:
            return validate(event.data)
        except ValidationError as error:
            failure = error
    failure.event = event  # type: ignore[attr-defined]
    raise failure


def json_validator(item: Any) -> JSONValidator:
    """Validates JSON as a type, with what pydantic builds for it made once."""
    try:
        # Types that differ in order only (`A | B`, `B | A`) are equal, but not to pydantic.
        return _json_validator(item, None if isinstance(item, type) else repr(item))
    except TypeError:  # the type cannot be hashed, as with a dict in `Annotated`
        return _json_validator.__wrapped__(item, None)


@lru_cache(maxsize=256)
def _json_validator(item: Any, shown: str | None) -> JSONValidator:
    return TypeAdapter[Any](item).validator.validate_json
