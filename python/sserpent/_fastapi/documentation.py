"""The OpenAPI document of a route that does not yield, but returns a response that knows the type
of its items: `-> Subscription[Message]`.

FastAPI takes the item type from the annotation of a generator, and a response class for one that
nobody has described. So the route is told here, wherever this FastAPI gives a route its state.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import fastapi.routing
from fastapi.dependencies.utils import get_typed_return_annotation
from fastapi.utils import create_model_field

from .response import EventSourceResponse


def install() -> None:
    """Puts the item types of responses into the documents of routes that are declared from now on.
    A FastAPI where that cannot be done documents them as any other response."""
    routing: Any = fastapi.routing
    if hasattr(routing, "_populate_api_route_state"):
        routing._populate_api_route_state = _then_describe(routing._populate_api_route_state)
    elif hasattr(routing.APIRoute.__init__, "__code__"):
        routing.APIRoute.__init__ = _then_describe(routing.APIRoute.__init__)


def _then_describe(populate: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(populate)
    def populate_and_describe(route: Any, *args: Any, **kwargs: Any) -> None:
        populate(route, *args, **kwargs)
        item_type = _item_type(route)
        if item_type is not None:
            route.is_sse_stream = True
            route.stream_item_type = item_type
            route.stream_item_field = create_model_field(
                name=f"StreamItem_{route.unique_id}", type_=item_type, mode="serialization"
            )

    return populate_and_describe


def _item_type(route: Any) -> Any:
    if route.response_model is not None:
        return None
    annotation = get_typed_return_annotation(route.endpoint)
    if not (isinstance(annotation, type) and issubclass(annotation, EventSourceResponse)):
        return None
    return annotation.item_type
