"""Where a stream comes from, in words, and whom to blame for an item that cannot be encoded."""

from __future__ import annotations

import inspect
import logging
import sys
from typing import Any, cast

import fastapi.routing
from fastapi.exceptions import ResponseValidationError
from pydantic import ValidationError
from starlette.types import Scope

logger = logging.getLogger("sserpent")


class Place:
    """The endpoint that a stream comes from.

    Args:
        source: The endpoint function, or the generator or other iterable it made.
        path: The route's path, if there is a route.
        item_field: FastAPI's field for the declared item type, if there is one.
    """

    __slots__ = ("_item_field", "_path", "_source")

    def __init__(self, source: object, path: str | None = None, item_field: Any = None) -> None:
        self._source: Any = source
        self._path = path
        self._item_field = item_field

    def __str__(self) -> str:
        source: object = self._source
        code = None
        for attribute in ("__code__", "ag_code", "gi_code"):
            code = code or getattr(source, attribute, None)
        named = cast("Any", source if hasattr(source, "__qualname__") else type(source))
        module = getattr(named, "__module__", None)
        name = f"{module}.{named.__qualname__}" if module else named.__qualname__
        return f"{name} ({code.co_filename}:{code.co_firstlineno})" if code else name

    def explain(self, error: Exception, item: object, scope: Scope) -> Exception:
        """The exception to raise for an item that could not be encoded: FastAPI's for one that is
        not of the declared type, else `error` with a note."""
        if isinstance(error, ValidationError) and self._item_field is not None:
            _, errors = self._item_field.validate(item, {}, loc=("response",))
            if errors:
                context = self._endpoint_context(scope)
                return ResponseValidationError(errors, body=item, endpoint_ctx=context)
        kind = type(item)
        note = (
            f"sserpent: while encoding an item of type {kind.__module__}.{kind.__qualname__}"
            f" from {self}"
        )
        if sys.version_info >= (3, 11):
            error.add_note(note)
        else:
            logger.error(note)
        return error

    def _endpoint_context(self, scope: Scope) -> Any:
        extract = getattr(fastapi.routing, "_extract_endpoint_context", None)
        context = dict(extract(self._source)) if extract is not None else {}
        if self._path:
            mount = scope.get("root_path", "").rstrip("/")
            context["path"] = f"{scope.get('method')} {mount}{self._path}"
        return context


def place_of(endpoint: Any, path: str | None, item_field: Any) -> Place:
    """The place of an endpoint, whatever it is wrapped in."""
    while hasattr(endpoint, "func") and not inspect.isfunction(endpoint):
        endpoint = endpoint.func  # functools.partial
    return Place(inspect.unwrap(endpoint), path, item_field)
