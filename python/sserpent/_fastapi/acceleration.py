"""Which routes are sserpent's: those with its response class, and `fastapi.sse`'s once `accelerate`
was called."""

from __future__ import annotations

from typing import Any

import fastapi.sse
from fastapi.datastructures import DefaultPlaceholder

from .response import EventSourceResponse

_accelerated = False


def accelerate() -> None:
    """Runs the `fastapi.sse` routes that are declared after this call on sserpent, without any
    other change to the application."""
    global _accelerated
    _accelerated = True


def served_by(response_class: Any) -> type[EventSourceResponse] | None:
    """Returns the class that serves a route of a response class, if that is one of ours."""
    if isinstance(response_class, DefaultPlaceholder):
        response_class = response_class.value
    if not isinstance(response_class, type):
        return None
    if issubclass(response_class, EventSourceResponse):
        return response_class
    if _accelerated and issubclass(response_class, fastapi.sse.EventSourceResponse):
        return EventSourceResponse
    return None
