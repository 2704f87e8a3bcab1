"""The OpenAPI document of a route that declares events, or that does not yield, but returns a
response that knows the type of its items: `-> Subscription[Message]`.

FastAPI takes the item type from the annotation of a generator, and a response class for one that
nobody has described. So the route is told here, wherever this FastAPI gives a route its state.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import fastapi.openapi.utils
import fastapi.routing
from fastapi.datastructures import Default, DefaultPlaceholder
from fastapi.dependencies.utils import get_typed_return_annotation
from fastapi.sse import ServerSentEvent
from fastapi.utils import create_model_field

from .acceleration import served_by
from .declarations import Declaration, declared_by
from .endpoint import is_generator
from .response import EventSourceResponse


def install() -> None:
    """Puts the item types of responses into the documents of routes that are declared from now on.
    A FastAPI where that cannot be done documents them as any other response."""
    routing: Any = fastapi.routing
    if hasattr(routing, "_populate_api_route_state"):
        routing._populate_api_route_state = _then_describe(routing._populate_api_route_state)
    else:
        routing.APIRoute.__init__ = _then_describe(routing.APIRoute.__init__)
    openapi: Any = fastapi.openapi.utils
    openapi.get_openapi_path = _then_describe_events(openapi.get_openapi_path)


def _then_describe(populate: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(populate)

    @functools.wraps(populate)
    def populate_and_describe(*args: Any, **kwargs: Any) -> None:
        arguments = signature.bind(*args, **kwargs).arguments
        returned = _returned_item_type(arguments)
        if returned is not None:
            kwargs["response_model"] = None
            if not _is_event(returned):
                # Before FastAPI makes the route's handler, which some releases do in here.
                field = create_model_field(name="item", type_=returned, mode="serialization")
                remember_field(arguments["endpoint"], field)
        populate(*args, **kwargs)
        route: Any = args[0]
        declared = _declared(route)
        item_type = _item_type(route) if declared is None else _all_types(declared)
        if item_type is not None:
            route.sserpent_events = declared
            _describe_items(route, item_type)
        elif returned is not None and not _is_event(returned):
            _describe_items(route, returned)
        elif getattr(route, "stream_item_type", None) is not None and served_by(
            route.response_class
        ):
            route.is_sse_stream = True  # it came through a router with its item type
        if _is_framed(route) and _is_ready(route.stream_item_type):
            route.stream_item_type = route.stream_item_field = None

    return populate_and_describe


_remembered: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def remember_field(endpoint: Any, field: Any) -> None:
    """Remembers FastAPI's field for the type of an endpoint's items."""
    with contextlib.suppress(TypeError):  # an endpoint that cannot be referred to weakly
        _remembered[endpoint] = field


def remembered_field(endpoint: Any) -> Any:
    """Returns the field that was remembered for an endpoint, or None."""
    try:
        return _remembered.get(endpoint)
    except TypeError:
        return None


def _describe_items(route: Any, item_type: Any) -> None:
    route.is_sse_stream = True
    route.stream_item_type = item_type
    route.stream_item_field = create_model_field(
        name=f"StreamItem_{route.unique_id}", type_=item_type, mode="serialization"
    )


def _returned_item_type(arguments: dict[str, Any]) -> Any:
    """Returns the type of the items that an endpoint returns an iterator of, which FastAPI would
    take for the type of a JSON response; None for all other endpoints."""
    endpoint = arguments["endpoint"]
    if (
        served_by(arguments.get("response_class")) is None
        or not isinstance(arguments.get("response_model", _DEFAULT), DefaultPlaceholder)
        or is_generator(endpoint)
    ):
        return None
    routing: Any = fastapi.routing
    return routing.get_stream_item_type(get_typed_return_annotation(endpoint))


_DEFAULT = Default(None)


def _is_event(item_type: Any) -> bool:
    """Returns whether FastAPI would take items of a type for events, which it does not describe."""
    return isinstance(item_type, type) and issubclass(item_type, ServerSentEvent)


def _is_framed(route: Any) -> bool:
    response_class = served_by(route.response_class)
    return response_class is not None and response_class.framed


def _is_ready(item_type: Any) -> bool:
    """Returns whether items of a type are sent as they are, where they are framed already."""
    if typing.get_origin(item_type) in (typing.Union, types.UnionType):
        return all(map(_is_ready, typing.get_args(item_type)))
    return isinstance(item_type, type) and issubclass(item_type, (str, bytes))


def _item_type(route: Any) -> Any:
    if route.response_model is not None:
        return None
    annotation = get_typed_return_annotation(route.endpoint)
    if not (isinstance(annotation, type) and issubclass(annotation, EventSourceResponse)):
        return None
    return annotation.item_type


def _declared(route: Any) -> tuple[Declaration, ...] | None:
    return None if served_by(route.response_class) is None else declared_by(route.endpoint)


def _all_types(declared: tuple[Declaration, ...]) -> Any:
    """Returns a type whose schema has that of each event in its place."""
    return tuple[tuple(each.item_type for each in declared)]  # type: ignore[misc]


def _then_describe_events(get_path: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(get_path)
    def get_path_with_events(*args: Any, **kwargs: Any) -> Any:
        found = get_path(*args, **kwargs)
        route = kwargs.get("route") or args[0]
        declared = getattr(route, "sserpent_events", None)
        if declared is not None:
            # A response may write what is published as it likes: channels give ids to values.
            is_response = _item_type(route) is not None
            for operation in found[0].values():
                for response in operation["responses"].values():
                    content = response.get("content", {}).get("text/event-stream", {})
                    _describe(content, declared, is_response)
        return found

    return get_path_with_events


def _describe(
    content: dict[str, Any], declared: tuple[Declaration, ...], is_response: bool
) -> None:
    """Puts the schema of each event in the place of FastAPI's for all their types."""
    schema: Any = content.get("itemSchema")
    try:
        of_data = schema["properties"]["data"]
        of_types = of_data["contentSchema"]["prefixItems"]
    except (KeyError, TypeError):
        return  # what the route itself says of another response
    events = [
        _event_schema(
            schema, each.name, {**of_data, "contentSchema": of_type}, each.is_event or is_response
        )
        for each, of_type in zip(declared, of_types, strict=True)
    ]
    content["itemSchema"] = events[0] if len(events) == 1 else {"oneOf": events}


def _event_schema(
    schema: Any, name: str | None, data: dict[str, Any], has_id: bool
) -> dict[str, Any]:
    properties = {**schema["properties"], "data": data}
    required = ["data"]
    if name is not None:
        properties["event"] = {"type": "string", "const": name}
        required.append("event")
    if not has_id:
        del properties["id"], properties["retry"]
    return {**schema, "properties": properties, "required": required}
