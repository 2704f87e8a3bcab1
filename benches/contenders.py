"""Who takes part in the benchmarks of events and frames, and with which calls."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import fastapi.routing
import fastapi.sse
import sse_starlette.event
from fastapi.encoders import jsonable_encoder

from sserpent._core import compiled, pure

# Called without an argument, or with the number of times that it is to do its work; answers the
# last result. Whoever measures asks for many times: a call alone takes as long as making an event.
Call = Callable[..., Any]

CORES: dict[str, Any] = {"sserpent": compiled, "sserpent-pure": pure}

# FastAPI before 0.145 does not have it.
_finite: Callable[[Any], Any] = getattr(
    fastapi.routing, "_normalize_non_finite_floats", lambda value: value
)


def encode_as_fastapi(event: fastapi.sse.ServerSentEvent) -> bytes:
    """What FastAPI's router does with an event, in a function that cannot be imported. A test
    holds it against the router itself."""
    text = event.raw_data
    if text is None and event.data is not None:
        if hasattr(event.data, "model_dump_json"):
            text = event.data.model_dump_json()
        else:
            text = json.dumps(_finite(jsonable_encoder(event.data)))
    return fastapi.sse.format_sse_event(
        data_str=text,
        event=event.event,
        id=event.id,
        retry=event.retry,
        comment=event.comment,
    )


def constructors(fields: dict[str, Any]) -> dict[str, Call]:
    """Each contender's way to make an event."""
    contenders = {
        name: _compiled(f"event_class({_arguments(fields)})", fields, event_class=event_class)
        for name, event_class in _event_classes().items()
    }
    peer = sse_starlette.event.ServerSentEvent
    arguments = _arguments(fields).replace("raw_data=", "data=")
    contenders["sse-starlette"] = _compiled(f"peer({arguments})", fields, peer=peer)
    return contenders


def framers(text: str) -> dict[str, Call]:
    """Each contender's way from text to bytes."""
    values = {"text": text}
    contenders = {
        name: _compiled("frame(data_str=text)", values, frame=module.format_sse_event)
        for name, module in {**CORES, "fastapi": fastapi.sse}.items()
    }
    peer = sse_starlette.event.ServerSentEvent
    contenders["sse-starlette"] = _compiled("peer(text).encode()", values, peer=peer)
    return contenders


def serializer(to_json: Callable[[Any], bytes], value: object) -> dict[str, Call]:
    """pydantic-core's part, by itself."""
    return {"to_json": _compiled("to_json(value)", {"value": value}, to_json=to_json)}


def encoders(fields: dict[str, Any]) -> dict[str, Call]:
    """Each contender's way to make an event and get its bytes."""
    made = f"event_class({_arguments(fields)})"
    contenders = {
        name: _compiled(f"{made}.encode()", fields, event_class=core.ServerSentEvent)
        for name, core in CORES.items()
    }
    contenders["fastapi"] = _compiled(
        f"encode({made})",
        fields,
        encode=encode_as_fastapi,
        event_class=fastapi.sse.ServerSentEvent,
    )
    peer = _sse_starlette_encoder(fields)
    if peer is not None:
        contenders["sse-starlette"] = peer
    return contenders


def pushers(make_item: Callable[[Any], Any], item_type: Any = None) -> dict[str, Call]:
    """Our two encoders, emptied once after all pushes."""
    contenders = {}
    for name, core in CORES.items():
        encoder = core.Buffer(item_type and item_schema(core, item_type))
        contenders[name] = _pusher(encoder, make_item(core))
    return contenders


def item_schema(core: Any, item_type: Any) -> Any:
    """As the router binds it for a declared item type."""
    validator, serializer = item_type.__pydantic_validator__, item_type.__pydantic_serializer__
    return core.ItemSchema(
        validator.validate_python,
        {"from_attributes": True},
        serializer.to_json,
        {"by_alias": True},
        item_type,
    )


def _pusher(encoder: Any, item: Any) -> Call:
    push, take = encoder.push, encoder.take

    def call(count: int = 1) -> Any:
        for _ in range(count):
            push(item)
        return take()

    return call


def _event_classes() -> dict[str, Any]:
    ours = {name: core.ServerSentEvent for name, core in CORES.items()}
    return {**ours, "fastapi": fastapi.sse.ServerSentEvent}


def _sse_starlette_encoder(fields: dict[str, Any]) -> Call | None:
    """None where sse-starlette has no way to encode the data."""
    text_event = sse_starlette.event.ServerSentEvent
    json_event = sse_starlette.event.JSONServerSentEvent
    arguments = _arguments(fields)
    if "raw_data" in fields:
        arguments = arguments.replace("raw_data=", "data=")
    elif hasattr(fields["data"], "model_dump_json"):
        arguments = arguments.replace("data=data", "data=data.model_dump_json()")
    else:
        try:
            json.dumps(fields["data"])
        except TypeError:
            return None
        return _compiled(f"json_event({arguments}).encode()", fields, json_event=json_event)
    return _compiled(f"text_event({arguments}).encode()", fields, text_event=text_event)


def _arguments(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name}={name}" for name in fields)


def _compiled(expression: str, values: dict[str, Any], **names: Any) -> Call:
    """A function of the expression as users would write it. A call with `**fields` instead would
    add the cost of copying a dict to each contender's time."""
    namespace = {**values, **names}
    lines = "def call(count=1):", " for _ in range(count):", f"  result = {expression}"
    exec("\n".join([*lines, " return result"]), namespace)
    call: Call = namespace["call"]
    return call
