"""Decodes the data of events that were read, for both backends: as JSON, and by pydantic. Loaded
when it is first asked for: a reader of texts needs no pydantic."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

JSONValidator = Callable[[str | bytes], Any]


class Received(Protocol):
    """An event that was read."""

    @property
    def data(self) -> str:
        """The data as text."""
        ...

    @property
    def data_bytes(self) -> bytes:
        """The data as it came."""
        ...


def event_json(event: Received) -> Any:
    """Returns what `json.loads(event.data)` returns, faster."""
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


def decode_event(event: Received, item: Any) -> Any:
    """Returns an event's data as JSON, validated as `item`.

    Raises:
        pydantic.ValidationError: the data is no JSON or does not fit; the event is its attribute
            `event`.
    """
    return validate_event(event, json_validator(item))


def validate_event(event: Received, validate: JSONValidator) -> Any:
    """Returns the data of an event, validated as JSON."""
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
    try:
        raise failure
    finally:
        del failure  # its traceback refers to this frame


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
