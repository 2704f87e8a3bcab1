"""Events as annotations declare them: `Annotated[Item, Named("created")]`, of which a value becomes
an event of that name, and `ServerSentEvent[Item, Literal["created"]]`, which is yielded as it is.
"""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union

import fastapi.sse
from fastapi.dependencies.utils import get_typed_return_annotation
from pydantic import ConfigDict, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import core_schema

from .._core import DeclaredEvents, ItemSchema, ServerSentEvent
from .._core.conversion import valid_class
from .response import EventSourceResponse

_EVENTS = (ServerSentEvent, fastapi.sse.ServerSentEvent)
# The annotations that a generator may have, as FastAPI reads them.
_STREAMS = {
    getattr(collections.abc, f"{prefix}{name}")
    for prefix in ("", "Async")
    for name in ("Iterable", "Iterator", "Generator")
}


@dataclass(frozen=True)
class Named:
    """The name of the events that values of a type become: an argument of `Annotated`.

        Created = Annotated[Item, Named("created")]

        @app.get("/items", response_class=EventSourceResponse)
        async def items() -> AsyncIterable[Created | Deleted]:
            yield Item(...)

    Args:
        name: The event's name, a single line.

    Raises:
        TypeError: the name is no string.
        ValueError: the name is empty or not a single line.
    """

    name: str

    def __post_init__(self) -> None:
        _check_name(self.name)


class Declaration(NamedTuple):
    """One kind of event.

    Attributes:
        name: The event's name; None for any.
        item_type: The type of its data.
        is_event: Whether it is yielded as an event, not as its data.
    """

    name: str | None
    item_type: Any
    is_event: bool


class UndeclaredEvent(ValueError):
    """An event was yielded whose name the route has not declared, or a value where it declares
    events."""


def declarations(annotation: Any) -> tuple[Declaration, ...] | None:
    """Returns what the annotation of an item declares, or None if it declares no events.

    Raises:
        ValueError: two events have one name, or one type; or one has no name, and others have.
    """
    members = list(_members(annotation))
    if not any(each.name is not None or _is_parametrised(each.item_type) for each in members):
        return None
    declared = tuple(each for member in members for each in _declared(member))
    _check(declared)
    return declared


def _members(annotation: Any) -> Iterator[Declaration]:
    """Takes unions, aliases and annotations apart."""
    origin = typing.get_origin(annotation)
    if _is_alias(annotation):
        yield from _members(annotation.__value__)
    elif _is_alias(origin):
        arguments = dict(zip(origin.__type_params__, typing.get_args(annotation), strict=False))
        yield from _members(_with_arguments(origin.__value__, arguments))
    elif origin is Annotated:
        inner, *metadata = typing.get_args(annotation)
        names = [each.name for each in metadata if isinstance(each, Named)]
        if len(set(names)) > 1:
            raise ValueError(f"{_shown(inner)} has more than one name: {', '.join(names)}")
        others = tuple(each for each in metadata if not isinstance(each, Named))
        if names:
            yield Declaration(names[0], _annotated(inner, others), is_event=False)
        elif _has_names(inner):
            yield from _members(inner)
        else:
            yield Declaration(None, annotation, is_event=False)
    elif origin in (Union, types.UnionType):
        for each in typing.get_args(annotation):
            yield from _members(each)
    else:
        yield Declaration(None, annotation, is_event=False)


def _is_alias(annotation: Any) -> bool:
    """Returns whether it is of a `type` statement, or of `TypeAliasType`, of which there are
    two."""
    return type(annotation).__name__ == "TypeAliasType"


def _with_arguments(annotation: Any, arguments: dict[Any, Any]) -> Any:
    """Puts types in the place of type variables; Any where there is none."""
    parameters = getattr(annotation, "__parameters__", ())
    if isinstance(annotation, TypeVar):
        return arguments.get(annotation, Any)
    if not parameters:
        return annotation
    return annotation[tuple(arguments.get(each, Any) for each in parameters)]


def _has_names(annotation: Any) -> bool:
    return any(each.name is not None or _is_event(each.item_type) for each in _members(annotation))


def _annotated(inner: Any, metadata: tuple[Any, ...]) -> Any:
    parts: Any = (inner, *metadata)
    return Annotated[parts] if metadata else inner


def _is_event(annotation: Any) -> bool:
    kind = typing.get_origin(annotation) or annotation
    return isinstance(kind, type) and issubclass(kind, _EVENTS)


def _is_parametrised(annotation: Any) -> bool:
    return _is_event(annotation) and bool(_event_arguments(annotation))


def _event_arguments(annotation: Any) -> tuple[Any, ...]:
    """Returns what stands in the brackets of `ServerSentEvent`, in a subclass of it too."""
    kind = typing.get_origin(annotation) or annotation
    arguments = typing.get_args(annotation)
    if kind in _EVENTS:
        return arguments
    parameters = dict(zip(getattr(kind, "__parameters__", ()), arguments, strict=False))
    for base in kind.__dict__.get("__orig_bases__", kind.__bases__):
        if _is_event(base):
            found = _event_arguments(base)
            return tuple(_with_arguments(each, parameters) for each in found) or arguments
    return arguments


def _declared(member: Declaration) -> Iterator[Declaration]:
    """Returns the kinds of events that one member of a union is."""
    if not _is_event(member.item_type):
        yield member
        return
    if member.name is not None:
        raise ValueError(f"'{member.name}' names an event: ServerSentEvent[..., Literal[...]] does")
    item_type, *names = _event_arguments(member.item_type) or (Any,)
    if len(names) > 1:
        raise ValueError("ServerSentEvent takes the type of its data and a Literal of its name")
    if not names or names[0] in (str, Any):
        yield Declaration(None, item_type, is_event=True)
    elif typing.get_origin(names[0]) is Literal:
        for name in typing.get_args(names[0]):
            _check_name(name)
            yield Declaration(name, item_type, is_event=True)
    else:
        (name,) = names
        text = name.__forward_arg__ if isinstance(name, typing.ForwardRef) else name
        example = repr(text) if isinstance(text, str) else '"..."'
        raise ValueError(
            f"the name of an event must be a Literal, not {_shown(name)}: write"
            f" ServerSentEvent[{_shown(item_type)}, Literal[{example}]]"
        )


def _check(declared: tuple[Declaration, ...]) -> None:
    if len(declared) == 1:
        return
    seen: set[str] = set()
    for each in declared:
        if each.name is None:
            raise ValueError(_has_no_name(each))
        if each.name in seen:
            raise ValueError(f"two events are named '{each.name}'")
        seen.add(each.name)
    by_value = [each for each in declared if not each.is_event]
    for number, each in enumerate(by_value):
        for other in by_value[:number]:
            if each.item_type == other.item_type or Any in (each.item_type, other.item_type):
                raise ValueError(
                    f"a value does not tell whether it is '{other.name}'"
                    f" ({_shown(other.item_type)}) or '{each.name}' ({_shown(each.item_type)})"
                )


def _has_no_name(each: Declaration) -> str:
    item_type = _shown(each.item_type)
    if each.is_event:
        what = "ServerSentEvent" if each.item_type is Any else f"ServerSentEvent[{item_type}]"
        how = f'ServerSentEvent[{item_type}, Literal["..."]]'
    else:
        what, how = item_type, f'Annotated[{item_type}, Named("...")]'
    return f"{what} has no name, and others beside it have: write {how}"


def _check_name(name: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"the name of an event must be a str, not {type(name).__name__}")
    if not name:
        raise ValueError("the name of an event must not be empty")
    ServerSentEvent(event=name)


def _shown(annotation: Any) -> str:
    if isinstance(annotation, str):
        return repr(annotation)
    if isinstance(annotation, typing.ForwardRef):
        return repr(annotation.__forward_arg__)
    name = isinstance(annotation, type) or annotation is Any
    return getattr(annotation, "__name__", "Any") if name else str(annotation)


def item_schema(adapter: Any, options: dict[str, Any]) -> ItemSchema:
    """Returns how the core validates and serializes a type, as FastAPI does it.

    Args:
        adapter: pydantic's, of the type.
        options: For its serializer.
    """
    return ItemSchema(
        adapter.validator.validate_python,
        {"from_attributes": True},
        adapter.serializer.to_json,
        options,
        valid_class(adapter),
    )


def events_of(
    declared: Iterable[Declaration], schema_of: Callable[[Any], ItemSchema]
) -> DeclaredEvents:
    """Returns how the core checks and writes declared events.

    Args:
        declared: What `declarations` returns.
        schema_of: Returns how a type is validated and serialized.
    """
    schemas = {each.name: schema_of(each.item_type) for each in declared}
    by_value = [each for each in declared if not each.is_event]
    by_class: dict[type, tuple[str, ItemSchema]] = {
        each.item_type: (each.name, schemas[each.name])
        for each in by_value
        if isinstance(each.item_type, type) and each.name is not None
    }
    named = _validator_of(by_value)

    def otherwise(item: Any) -> tuple[str | None, ItemSchema, Any]:
        if isinstance(item, ServerSentEvent):
            raise UndeclaredEvent(f"event {item.event!r} is not declared: {_shown_names(schemas)}")
        if named is None:
            raise UndeclaredEvent(
                f"events are declared, not values: {_shown_names(schemas)};"
                f" got {type(item).__name__}"
            )
        name, value = named(item)
        return name, schemas[name], value

    return DeclaredEvents(schemas, by_class, otherwise)


def errors_of(error: Exception, item: Any, declared: Iterable[Declaration]) -> list[Any]:
    """Returns, as FastAPI reports them, what is wrong with an item, with the event's name; nothing
    if the error is another."""
    if isinstance(error, UndeclaredEvent):
        return [
            {"type": "undeclared_event", "loc": ("response",), "msg": str(error), "input": item}
        ]
    if not isinstance(error, ValidationError):
        return []
    named = item.event if isinstance(item, _EVENTS) else _name_of(item, declared)
    where = ("response",) if named is None else ("response", named)
    return [{**each, "loc": (*where, *each["loc"])} for each in error.errors(include_url=False)]


def _name_of(item: Any, declared: Iterable[Declaration]) -> str | None:
    """Returns the name of an item's event if that is known; else pydantic's errors have the
    names."""
    by_value = [each for each in declared if not each.is_event]
    if len(by_value) == 1:
        return by_value[0].name
    return next((each.name for each in by_value if each.item_type is type(item)), None)


def _shown_names(names: Iterable[str | None]) -> str:
    return ", ".join(repr(name) for name in names)


def _validator_of(by_value: list[Declaration]) -> Callable[[Any], tuple[str, Any]] | None:
    """Returns what asks pydantic which of several types a value is of: with the event's name it
    returns the value that it has validated, since a value may be one that can be read only once."""
    if not by_value:
        return None
    title = f"event {' or '.join(repr(each.name) for each in by_value)}"
    adapter: TypeAdapter[Any] = TypeAdapter(
        Annotated[Any, _NamedValue(by_value)], config=ConfigDict(title=title)
    )
    return partial(adapter.validate_python, from_attributes=True)


class _NamedValue:
    """Has pydantic return an event's name beside the value, chosen as in a union of the types.
    Its errors have the names."""

    def __init__(self, by_value: list[Declaration]) -> None:
        self._by_value = by_value

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        choices: list[Any] = [
            (
                core_schema.no_info_after_validator_function(
                    partial(_with_name, each.name), handler.generate_schema(each.item_type)
                ),
                each.name,
            )
            for each in self._by_value
        ]
        return core_schema.union_schema(choices)


def _with_name(name: Any, value: Any) -> Any:
    return name, value


def declared_by(endpoint: Any) -> tuple[Declaration, ...] | None:
    """Returns what the return annotation of an endpoint declares, or None if it declares no events.

    Raises:
        ValueError: as `declarations`; the message names the endpoint.
    """
    annotation = get_typed_return_annotation(endpoint)
    if isinstance(annotation, type) and issubclass(annotation, EventSourceResponse):
        item_type = annotation.item_type
    else:
        item_type = item_type_of(endpoint)
    try:
        return None if item_type is None else declarations(item_type)
    except (TypeError, ValueError) as error:
        name = getattr(endpoint, "__qualname__", repr(endpoint))
        raise type(error)(f"The return annotation of {name}: {error}") from None


def item_type_of(endpoint: Any) -> Any:
    """Returns the type of what an endpoint yields, as it is annotated; None if it is not."""
    annotation = get_typed_return_annotation(endpoint)
    if typing.get_origin(annotation) not in _STREAMS:
        return None
    return _looked_up(endpoint, annotation)


def _looked_up(endpoint: Any, annotation: Any) -> Any:
    """Returns the item type in an annotation. FastAPI looks up the names of an annotation that is a
    text, not those of texts within: `AsyncIterable[ServerSentEvent["Item"]]`."""
    namespace = getattr(inspect.unwrap(endpoint), "__globals__", {})
    holder = types.SimpleNamespace(__annotations__={"return": annotation})
    try:
        annotation = typing.get_type_hints(holder, namespace, include_extras=True)["return"]
    except (NameError, SyntaxError):
        pass  # pydantic may know it later; or it is no annotation, which is said elsewhere
    arguments = typing.get_args(annotation)
    return arguments[0] if arguments else Any
