"""The FastAPI seam: how routes with our response class come to the delivery engine.

FastAPI recognises `EventSourceResponse` by class, takes the item type from the annotation, writes
the OpenAPI document, and then streams by itself without ever calling the class. Every route gets
its handler from `fastapi.routing.get_request_handler`; wrapped once, that function passes every
call through untouched unless the response class is ours. For ours, FastAPI is given

- a response class that is no `fastapi.sse.EventSourceResponse`, so that FastAPI does not stream by
  itself;
- a copy of the dependant whose call is a function that returns a response, made of the generator,
  or whatever else the endpoint returns. So FastAPI goes the way of any endpoint that returns a
  response, with dependencies and background tasks as always. Status and headers that are set on an
  injected `Response` are copied here, since FastAPI does not copy them to a returned one.

If a future FastAPI lacks what this needs, `install` says so once and steps aside: our class is
still FastAPI's marker, so FastAPI's own pipeline serves the routes, correct if slow.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import sys
import types
import typing
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import fastapi.dependencies.models
import fastapi.encoders
import fastapi.routing
import fastapi.sse
from fastapi.utils import create_model_field
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from .._core import DeclaredEvents, ItemSchema, ServerSentEvent
from .._delivery.throttle import OPENING
from .._runtime.loops import on_asyncio
from . import documentation
from .acceleration import served_by
from .declarations import declarations, declared_by, events_of, item_schema, item_type_of
from .endpoint import Endpoint, is_coroutine_function, is_generator
from .last_event_id import without_parameters
from .protocol_response import ProtocolResponse
from .requests import share
from .response import EventSourceResponse

if TYPE_CHECKING:
    from typing import TypeGuard

# The arguments of `get_request_handler` that the wrapper reads.
_NEEDED = {"dependant", "response_class", "stream_item_field"}
_MODEL_OPTIONS = (
    "include",
    "exclude",
    "by_alias",
    "exclude_unset",
    "exclude_defaults",
    "exclude_none",
)
_EXCLUSIONS = {"exclude_unset", "exclude_defaults", "exclude_none"}
# Where a request keeps the Response that FastAPI injects.
_INJECTED = "sserpent.injected"


def install() -> bool:
    """Puts the seam in place, and returns whether FastAPI has what that needs."""
    missing = _missing()
    if missing:
        warnings.warn(
            f"sserpent does not know this FastAPI ({fastapi.__version__}): {missing}. Streams are"
            " served by fastapi.sse instead: correct, but slower, and without sserpent's options.",
            RuntimeWarning,
            stacklevel=3,
        )
        return False
    _explain_events_to_fastapi()
    routing: Any = fastapi.routing
    routing.get_request_handler = _wrap_get_request_handler(routing.get_request_handler)
    routing.get_stream_item_type = _wrap_get_stream_item_type(routing.get_stream_item_type)
    documentation.install()
    return True


def _explain_events_to_fastapi() -> None:
    """Has FastAPI's encoder say what is wrong with an event of ours: it comes there from a route
    whose response class is not."""
    encoders: Any = fastapi.encoders
    encoders.ENCODERS_BY_TYPE[ServerSentEvent] = _refuse_event
    by_classes = getattr(encoders, "encoders_by_class_tuples", None)
    if by_classes is not None:
        by_classes[_refuse_event] = (ServerSentEvent,)


def _refuse_event(event: object) -> None:
    raise ValueError(  # as FastAPI's encoder for all that it does not know
        f"{type(event).__name__} is an event of sserpent's, not JSON: yield it by itself, from a"
        " route whose response_class is sserpent's EventSourceResponse, not that of fastapi.sse"
    )


def _missing() -> str | None:
    get_request_handler = getattr(fastapi.routing, "get_request_handler", None)
    if not callable(get_request_handler):
        return "fastapi.routing has no get_request_handler"
    needed = _NEEDED | {f"response_model_{name}" for name in _MODEL_OPTIONS}
    parameters = _parameters(get_request_handler)
    lacking = sorted(needed - set(parameters.parameters)) if parameters else []
    if lacking:
        return f"get_request_handler has no parameter {', '.join(lacking)}"
    if not callable(getattr(fastapi.routing, "get_stream_item_type", None)):
        return "fastapi.routing has no get_stream_item_type"
    dependant = getattr(fastapi.dependencies.models, "Dependant", None)
    fields = {f.name for f in dataclasses.fields(dependant)} if dependant else set[str]()
    lacking = sorted({"call", "dependencies", "request_param_name", "response_param_name"} - fields)
    if lacking:
        return f"Dependant has no {', '.join(lacking)}"
    return None


def _parameters(function: Any, depth: int = 0) -> inspect.Signature | None:
    """Returns the parameters of FastAPI's function, seen through what has wrapped it: tracers do,
    with `(*args, **kwargs)` (sentry_sdk, if it is initialized before sserpent is imported). None
    if a wrapper hides it."""
    parameters = inspect.signature(function)  # this looks through `functools.wraps`
    if not any(each.kind is each.VAR_KEYWORD for each in parameters.parameters.values()):
        return parameters
    unwrapped = inspect.unwrap(function)
    closed_over = inspect.getclosurevars(unwrapped) if inspect.isfunction(unwrapped) else None
    for wrapped in closed_over.nonlocals.values() if closed_over else ():
        if inspect.isfunction(wrapped) and depth < 10:
            found = _parameters(wrapped, depth + 1)
            if found is not None and "dependant" in found.parameters:
                return found
    return None


def _wrap_get_request_handler(original: Callable[..., Any]) -> Callable[..., Any]:
    parameters = _parameters(original)

    @functools.wraps(original)
    def get_request_handler(*args: Any, **kwargs: Any) -> Any:
        arguments = kwargs
        if parameters is not None:
            bound = parameters.bind(*args, **kwargs)
            bound.apply_defaults()
            args, arguments = (), bound.arguments
        response_class = served_by(arguments.get("response_class"))
        if response_class is None:
            _refuse_events_in_fastapis(arguments)
            return original(*args, **arguments)
        route = _Route(arguments["dependant"], response_class, arguments)
        arguments["dependant"] = route.dependant
        arguments["response_class"] = Response
        # By keyword, as FastAPI calls it: what has wrapped it may look for the names.
        return route.answering(original(*args, **arguments))

    return get_request_handler


def _refuse_events_in_fastapis(arguments: dict[str, Any]) -> None:
    """Refuses a route of FastAPI's response class that yields our events: that FastAPI would take
    for data.

    Raises:
        TypeError: it is one.
    """
    response_class = arguments.get("response_class")
    if not (
        isinstance(response_class, type)
        and issubclass(response_class, fastapi.sse.EventSourceResponse)
    ):
        return
    endpoint = arguments["dependant"].call
    if _has_event_class(item_type_of(endpoint)):
        raise TypeError(
            f"{Endpoint(endpoint, None, None)} yields sserpent's events, but its response_class is"
            " that of fastapi.sse: import EventSourceResponse from sserpent, too"
        )


class _Route:
    """One route with our response class: what FastAPI calls instead of endpoint and class."""

    def __init__(
        self, dependant: Any, response_class: type[EventSourceResponse], arguments: dict[str, Any]
    ) -> None:
        self._endpoint = dependant.call
        self._response_class = response_class
        self._status_code = arguments.get("status_code")
        self._origin, self._item_schema = _declared(dependant, arguments)
        # A request that nobody has asked for nobody reads: the stream has it for itself.
        self._shares_request = _asks_for("request_param_name", dependant)
        self._shares_response = _asks_for("response_param_name", dependant)
        call = self._make_call()
        self._keep_endpoint_context(call)
        self.dependant = dataclasses.replace(without_parameters(dependant), call=call)
        if self._shares_response:
            self.dependant.dependencies = [_hand_over(dependant), *self.dependant.dependencies]

    def _make_call(self) -> Callable[..., Any]:
        """Returns the function that FastAPI calls in place of the endpoint. It is of the same kind,
        so that it runs where the endpoint would, and has the endpoint's name, for tracers."""
        endpoint = self._endpoint

        async def call_async(**values: Any) -> Response:
            result = endpoint(**values)
            return self._as_response(await result if inspect.isawaitable(result) else result)

        def call_sync(**values: Any) -> Response:
            return self._as_response(endpoint(**values))

        runs_in_event_loop = is_generator(endpoint) or is_coroutine_function(endpoint)
        call: Any = call_async if runs_in_event_loop else call_sync
        functools.update_wrapper(call, endpoint)
        # FastAPI would look through this at the endpoint's kind.
        del call.__wrapped__
        _name_as(call, self._origin.source)
        return call  # type: ignore[no-any-return]

    def _as_response(self, result: Any) -> Response:
        if isinstance(result, Response):
            return result
        if not (hasattr(result, "__aiter__") or hasattr(result, "__next__")):
            hint = ""
            if inspect.iscoroutine(result):
                result.close()  # nobody else will
                hint = f": await {result.__qualname__}()"
            elif hasattr(result, "follow"):  # a run of a channel, which is no response itself
                hint = ": return run.follow()"
            raise TypeError(
                f"{self._origin} must yield, or return a response or an (async) iterator, because"
                f" its response_class is {self._response_class.__name__};"
                f" it returned {type(result).__name__}{hint}"
            )
        status = {"status_code": self._status_code} if self._status_code else {}
        response = self._response_class(result, **status)
        response._bind(self._origin, self._item_schema)
        return response

    def _made(self, response: Response) -> TypeGuard[EventSourceResponse]:
        return isinstance(response, EventSourceResponse) and response._origin is self._origin

    def answering(self, answer: Callable[[Request], Any]) -> Callable[[Request], Any]:
        """Returns FastAPI's handler of the route, with what the stream shares with its request."""

        @functools.wraps(answer)
        async def answer_and_share(request: Request) -> Response:
            if on_asyncio():
                turn = OPENING.of_this_loop().take_turn()
                if turn is not None:
                    await turn
            if self._shares_request:
                share(request)
            response: Response = await answer(request)
            injected = request.scope.pop(_INJECTED, None)
            if injected is not None and self._made(response):
                response._inject(injected)
            return response

        return answer_and_share

    def _keep_endpoint_context(self, call: Any) -> None:
        """Keeps the endpoint's file and line, which FastAPI's request errors name, the user's."""
        cache = getattr(fastapi.routing, "_endpoint_context_cache", None)
        extract = getattr(fastapi.routing, "_extract_endpoint_context", None)
        if cache is not None and extract is not None:
            cache[id(call)] = extract(self._endpoint)


def _asks_for(name: str, dependant: Any) -> bool:
    """Returns whether an endpoint, or anything that it depends on, has the request or the
    response."""
    return getattr(dependant, name) is not None or any(
        _asks_for(name, each) for each in dependant.dependencies
    )


def _hand_over(dependant: Any) -> Any:
    """Returns a dependency that hands the injected response over. It has no name, so that its value
    is none of the endpoint's."""
    return type(dependant)(
        call=_hand_over_response,
        path=dependant.path,
        request_param_name="request",
        response_param_name="response",
    )


async def _hand_over_response(request: Request, response: Response) -> None:
    request.scope[_INJECTED] = response


def _name_as(call: Any, endpoint: Any) -> None:
    """Gives a function the names of an endpoint, which tracers show."""
    name = getattr(endpoint, "__name__", type(endpoint).__name__)
    qualname = getattr(endpoint, "__qualname__", name)
    names = {"co_name": name}
    if sys.version_info >= (3, 11):
        names["co_qualname"] = qualname
    call.__name__, call.__qualname__ = name, qualname
    call.__code__ = call.__code__.replace(**names)


def _declared(
    dependant: Any, arguments: dict[str, Any]
) -> tuple[Endpoint, ItemSchema | DeclaredEvents | None]:
    """Returns whom to blame for an item, and what the route declares of its items."""
    endpoint = dependant.call
    declared = declared_by(endpoint)
    if declared is None:
        field = _item_field(endpoint, arguments.get("stream_item_field"))
        schema = None if field is None else _item_schema(field, arguments)
        return Endpoint(endpoint, dependant.path, field), schema

    def schema_of(item_type: Any) -> ItemSchema:
        field = create_model_field(name="data", type_=item_type, mode="serialization")
        return _item_schema(field, arguments)

    return Endpoint(endpoint, dependant.path, None, declared), events_of(declared, schema_of)


# FastAPI before 0.140.8 forgets the item type of a route that comes through `include_router`.
_FORGETS_ITEM_TYPE = [int(part) for part in re.findall(r"\d+", fastapi.__version__)] < [0, 140, 8]


def _item_field(endpoint: Any, field: Any) -> Any:
    if field is None:
        return documentation.remembered_field(endpoint)
    if _FORGETS_ITEM_TYPE:
        documentation.remember_field(endpoint, field)
    return field


def _item_schema(field: Any, arguments: dict[str, Any]) -> ItemSchema:
    options: dict[str, Any] = {}
    for name in _MODEL_OPTIONS:
        value = arguments.get(f"response_model_{name}", name == "by_alias")
        # An option that pydantic assumes anyway is left out of the call. It does not assume
        # `by_alias`.
        if name == "by_alias" or value not in (None, False):
            options[name] = value
    if (
        _leaves_out_none(served_by(arguments.get("response_class")))
        and not options.keys() & _EXCLUSIONS
    ):
        options["exclude_none"] = True
    return item_schema(_adapter_of(field), options)


def _leaves_out_none(response_class: type[EventSourceResponse] | None) -> bool:
    return (
        response_class is not None
        and issubclass(response_class, ProtocolResponse)
        and response_class.exclude_none
    )


def _adapter_of(field: Any) -> Any:
    """Returns pydantic's adapter of the type of a field of FastAPI's."""
    adapter = getattr(field, "_type_adapter", None)
    if adapter is not None:
        return adapter
    info = field.field_info
    item_type: Any = Annotated[info.annotation, info]
    return TypeAdapter[Any](item_type)


def _wrap_get_stream_item_type(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(original)
    def get_stream_item_type(annotation: Any) -> Any:
        return _as_fastapi(original(annotation))

    return get_stream_item_type


def _is_event_class(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, ServerSentEvent)


def _has_event_class(annotation: object) -> bool:
    return _is_event_class(typing.get_origin(annotation) or annotation) or any(
        map(_has_event_class, typing.get_args(annotation))
    )


def _declares_events(annotation: object) -> bool:
    try:
        return declarations(annotation) is not None
    except (TypeError, ValueError):
        return True  # wrongly: said where the route's endpoint is known


def _as_fastapi(annotation: object) -> Any:
    """Returns FastAPI's event class where an annotation names ours, or a subclass of ours, or
    declares events: FastAPI skips schema and validation for its own."""
    if _is_event_class(annotation) or _declares_events(annotation):
        return fastapi.sse.ServerSentEvent
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.Union[tuple(_as_fastapi(argument) for argument in arguments)]  # noqa: UP007
    if typing.get_origin(annotation) is typing.Annotated:
        parts = (_as_fastapi(arguments[0]), *arguments[1:])
        return typing.Annotated[parts]
    return annotation
