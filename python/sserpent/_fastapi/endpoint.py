"""The endpoint of a route as the origin of its streams."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import fastapi.routing
from fastapi.exceptions import ResponseValidationError
from pydantic import ValidationError
from starlette.responses import Response
from starlette.types import Scope

from .._delivery.source_name import SourceName
from .declarations import Declaration, errors_of


class Endpoint(SourceName):
    """An endpoint function, whatever it is wrapped in.

    Args:
        endpoint: What the route calls.
        path: The route's path.
        item_field: FastAPI's field for the declared item type, if there is one.
        declared: The declared events, if there are any.
    """

    __slots__ = ("_declared", "_item_field", "_path")

    def __init__(
        self,
        endpoint: Any,
        path: str | None,
        item_field: Any,
        declared: tuple[Declaration, ...] | None = None,
    ) -> None:
        while hasattr(endpoint, "func") and not inspect.isfunction(endpoint):
            endpoint = endpoint.func  # functools.partial
        super().__init__(inspect.unwrap(endpoint))
        self._path = path
        self._item_field = item_field
        self._declared = declared

    def explain(self, error: Exception, item: object, scope: Scope) -> Exception:
        """Returns FastAPI's exception for an item that is not of the declared type, else `error`
        with a note."""
        if isinstance(item, Response):
            return TypeError(f"{self} yielded a {type(item).__name__}: return it")
        errors = self._errors(error, item)
        if errors:
            context = self._context(scope)
            return ResponseValidationError(errors, body=item, endpoint_ctx=context)
        return super().explain(error, item, scope)

    def _errors(self, error: Exception, item: object) -> Any:
        if self._declared is not None:
            return errors_of(error, item, self._declared)
        if isinstance(error, ValidationError) and self._item_field is not None:
            _, errors = self._item_field.validate(item, {}, loc=("response",))
            return errors
        return None

    def _context(self, scope: Scope) -> Any:
        extract = getattr(fastapi.routing, "_extract_endpoint_context", None)
        context = dict(extract(self.source)) if extract is not None else {}
        if self._path:
            mount = scope.get("root_path", "").rstrip("/")
            context["path"] = f"{scope.get('method')} {mount}{self._path}"
        return context


def is_generator(endpoint: Any) -> bool:
    """Returns whether FastAPI takes a callable for a generator function."""
    return _is(inspect.isasyncgenfunction, endpoint) or _is(inspect.isgeneratorfunction, endpoint)


def is_coroutine_function(endpoint: Any) -> bool:
    """Returns whether FastAPI takes a callable for a coroutine function."""
    return _is(inspect.iscoroutinefunction, endpoint)


def _is(kind: Callable[[Any], bool], endpoint: Any) -> bool:
    """Returns whether a callable is of a kind, as FastAPI decides it: through partials, through
    what `functools.wraps` has wrapped, and by `__call__` of an object."""
    while isinstance(endpoint, functools.partial):
        endpoint = endpoint.func
    unwrapped = inspect.unwrap(endpoint)
    if kind(endpoint) or kind(unwrapped):
        return True
    if inspect.isclass(unwrapped):
        return False
    calls = (getattr(endpoint, "__call__", None), getattr(unwrapped, "__call__", None))  # noqa: B004
    return any(call is not None and (kind(call) or kind(inspect.unwrap(call))) for call in calls)
