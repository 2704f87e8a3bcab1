"""The calls of events, frames and the buffer, by contender. `test_calls.py` times them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import fastapi.routing
import fastapi.sse
import orjson
import sse_starlette.event
from fastapi import FastAPI
from fastapi.encoders import jsonable_encoder
from fastapi.sse import ServerSentEvent as FastAPIEvent
from pydantic_core import to_json

import sse_parser
from asgi import Connection
from benches.harness.callgrind import Counted
from sserpent._core import compiled, pure
from sserpent.protocols import OpenAIResponses, ProtocolResponse, VercelUI

from . import payloads
from .payloads import ITEM, ITEM_DICT, ORDER, PRICED, TOKEN, Item, Order, plain

# Makes a number of calls, in a loop of its own, and returns the last result: the call of this
# function would take as long as making an event.
Call = Callable[[int], Any]

TOKEN_EVENT = {"raw_data": TOKEN, "event": "token"}
MODEL_EVENT = {"data": ITEM, "event": "item", "id": "7", "retry": 3000}
LONG = {
    "100 KB in one line": {"raw_data": payloads.LINE_100_KB},
    "100 KB, 1,350 lines": {"raw_data": payloads.LOG_100_KB},
}
# The fields of events, by what is timed.
EVENTS: dict[str, dict[str, dict[str, Any]]] = {
    "construct": {"token with event": TOKEN_EVENT, "model with event, id, retry": MODEL_EVENT},
    "frame": {
        "token": {"raw_data": TOKEN},
        "log of 10 lines": {"raw_data": payloads.LOG},
        "unicode": {"raw_data": payloads.UNICODE},
        **LONG,
    },
    "encode": {
        "token with event": TOKEN_EVENT,
        "model with event, id, retry": MODEL_EVENT,
        "model": {"data": ITEM},
        "dict": {"data": ITEM_DICT},
        "nested model, 10 KB": {"data": ORDER},
        "dict with Decimals, datetime, timedelta": {"data": PRICED},
        **LONG,
    },
}
# Values without a declared type.
VALUES = {
    "dict": ITEM_DICT,
    "dict with UUID and datetime": payloads.RECORD,
    "dict with Decimals, datetime, timedelta": PRICED,
    "dataclass with UUID and datetime": payloads.DATACLASS,
    "list of 100 dicts with UUID and datetime": payloads.RECORDS,
}

# FastAPI before 0.145 does not have it.
_finite = getattr(fastapi.routing, "_normalize_non_finite_floats", lambda value: value)


def fastapi_json(value: object) -> str:
    if hasattr(value, "model_dump_json"):
        return str(value.model_dump_json())
    return json.dumps(_finite(jsonable_encoder(value)))


def fastapi_encode(event: FastAPIEvent) -> bytes:
    """What FastAPI's router does with an event, in a function that cannot be imported;
    `check_fastapi_encode` holds it against the router."""
    text = event.raw_data
    if text is None and event.data is not None:
        text = fastapi_json(event.data)
    return fastapi.sse.format_sse_event(
        data_str=text, event=event.event, id=event.id, retry=event.retry, comment=event.comment
    )


# The names of the expressions below.
NAMES: dict[str, Any] = {
    "Event": compiled.ServerSentEvent,
    "PureEvent": pure.ServerSentEvent,
    "FastAPIEvent": FastAPIEvent,
    "StarletteEvent": sse_starlette.event.ServerSentEvent,
    "StarletteJSONEvent": sse_starlette.event.JSONServerSentEvent,
    "ours_format": compiled.format_sse_event,
    "pure_format": pure.format_sse_event,
    "fastapi_format": fastapi.sse.format_sse_event,
    "fastapi_encode": fastapi_encode,
    "fastapi_json": fastapi_json,
    "dumps": orjson.dumps,
}
EXPRESSIONS = {
    "construct": {
        "fastapi": "FastAPIEvent({fields})",
        "sserpent": "Event({fields})",
        "sserpent-pure": "PureEvent({fields})",
        "sse-starlette": "StarletteEvent({theirs})",
    },
    "frame": {
        "fastapi": "fastapi_format(data_str=raw_data)",
        "sserpent": "ours_format(data_str=raw_data)",
        "sserpent-pure": "pure_format(data_str=raw_data)",
        "sse-starlette": "StarletteEvent(raw_data).encode()",
    },
    "encode": {
        "fastapi": "fastapi_encode(FastAPIEvent({fields}))",
        "sserpent": "Event({fields}).encode()",
        "sserpent-pure": "PureEvent({fields}).encode()",
        "sse-starlette": "{starlette_event}({theirs}).encode()",
    },
}


def calls_of(group: str, fields: dict[str, Any]) -> dict[str, Call]:
    """Each contender's call for an event."""
    data, arguments = fields.get("data"), ", ".join(f"{name}={name}" for name in fields)
    is_model = hasattr(data, "model_dump_json")
    theirs = arguments.replace("raw_data=", "data=")
    if group == "encode" and is_model:
        theirs = arguments.replace("data=data", "data=data.model_dump_json()")
    names = {
        "fields": arguments,
        "theirs": theirs,
        "starlette_event": "StarletteEvent" if data is None or is_model else "StarletteJSONEvent",
    }
    return {
        name: looped(expression.format(**names), **fields)
        for name, expression in EXPRESSIONS[group].items()
        # Its `json.dumps` refuses a Decimal.
        if (name, data) != ("sse-starlette", PRICED)
    }


def looped(expression: str, **values: Any) -> Call:
    """A function of the expression as users would write it. A call with `**fields` instead would
    add the cost of copying a dict to each contender's time."""
    namespace = {**NAMES, **values}
    lines = "def call(count):", " for _ in range(count):", f"  result = {expression}"
    exec("\n".join([*lines, " return result"]), namespace)
    call: Call = namespace["call"]
    return call


def pushing(native: Any, twin: Any, item_type: Any = None) -> dict[str, Call]:
    """Our two buffers, emptied once after all pushes; an item for each."""
    calls = {}
    for name, core, item in (("sserpent", compiled, native), ("sserpent-pure", pure, twin)):
        schema = item_type and core.ItemSchema(
            item_type.__pydantic_validator__.validate_python,
            {"from_attributes": True},
            item_type.__pydantic_serializer__.to_json,
            {"by_alias": True},
            item_type,
        )
        calls[name] = _pusher(core.Buffer(schema), item)
    return calls


def both_events(fields: dict[str, Any]) -> tuple[Any, Any]:
    return compiled.ServerSentEvent(**fields), pure.ServerSentEvent(**fields)


def _pusher(buffer: Any, item: Any) -> Call:
    push, take = buffer.push, buffer.take

    def call(count: int) -> Any:
        for _ in range(count):
            push(item)
        return take()

    return call


def pushing_value(value: Any) -> dict[str, Call]:
    """Also what FastAPI's router does with the value, and orjson where it takes it."""
    calls = {
        "fastapi": looped("fastapi_format(data_str=fastapi_json(value))", value=value),
        **pushing(value, value),
    }
    if value is not PRICED:  # orjson refuses a Decimal
        calls["orjson"] = looped('b"data: %b\\n\\n" % dumps(value)', value=value)
    return calls


def pushing_by(response_class: type[ProtocolResponse], item: Any) -> dict[str, Call]:
    """Our two buffers, as the class has its items, and one without a protocol. Each call begins a
    stream, so that the items of all have the same numbers."""
    calls = {"plain": _stream(compiled.Buffer, None, item)}
    for name, core in (("sserpent", compiled), ("sserpent-pure", pure)):
        rules = core.ItemRules(
            response_class.__name__,
            name_from=response_class.name_from,
            exclude_none=response_class.exclude_none,
            number_as=response_class._number_as,
            leaves_out=response_class._leaves_out,
            keeps_first=response_class.keeps_first,
        )
        calls[name] = _stream(core.Buffer, rules, item)
    return calls


def _stream(make_buffer: Any, rules: Any, item: Any) -> Call:
    def call(count: int) -> Any:
        return _pusher(make_buffer(rules=rules), item)(count)

    return call


RESPONSES = "dict through `OpenAIResponses`"
UI = "dict through `VercelUI`"
TO_JSON = {
    "model": (ITEM, Item.__pydantic_serializer__.to_json),
    "nested model, 10 KB": (ORDER, Order.__pydantic_serializer__.to_json),
    "dict": (ITEM_DICT, to_json),
}
CALLS: dict[str, dict[str, dict[str, Call]]] = {
    **{
        group: {case: calls_of(group, fields) for case, fields in cases.items()}
        for group, cases in EVENTS.items()
    },
    "push": {
        "annotated model": pushing(ITEM, ITEM, Item),
        "event with token": pushing(*both_events(TOKEN_EVENT)),
        "event with model": pushing(*both_events(MODEL_EVENT)),
        **{case: pushing_value(value) for case, value in VALUES.items()},
        RESPONSES: pushing_by(OpenAIResponses, payloads.RESPONSES_EVENT),
        UI: pushing_by(VercelUI, payloads.UI_PART),
    },
    "to_json": {
        case: {"to_json": looped("serialize(value)", value=value, serialize=serialize)}
        for case, (value, serialize) in TO_JSON.items()
    },
}


def counted() -> Iterator[Counted]:
    """What valgrind counts."""
    for group in ("encode", "push"):
        for case, calls in CALLS[group].items():
            if case == "model with event, id, retry":
                calls = {**calls, **CALLS["to_json"]["model"]}
            for name in calls:
                events = 2 if "100" in case else 50
                if name in ("sserpent", "plain"):
                    events *= 10  # of 50, one more search of malloc for memory would be 4 %
                if name != "sse-starlette":
                    yield Counted(f"{group}: {case}", name, events, calls[name], process="calls")


def check_event(group: str, case: str, contender: str) -> None:
    """Raises AssertionError unless a client makes the right event of a contender's bytes."""
    fields = EVENTS[group][case]
    is_text = "raw_data" in fields
    wanted = fields["raw_data"] if is_text else plain(fields["data"])
    parsed = sse_parser.parse(CALLS[group][case][contender](1))
    (event,) = parsed.events
    seen = event.type, event.last_event_id, parsed.retry
    assert seen == (fields.get("event", "message"), fields.get("id", ""), fields.get("retry"))
    assert (event.data if is_text else json.loads(event.data)) == wanted


def check_construct(case: str, contender: str) -> None:
    """Raises AssertionError unless an event has the fields that it is made of."""
    event = CALLS["construct"][case][contender](1)
    for name, value in EVENTS["construct"][case].items():
        field = "data" if (name, contender) == ("raw_data", "sse-starlette") else name
        assert getattr(event, field) == value


def check_push(case: str, contender: str) -> None:
    """Raises AssertionError unless a client makes the right events of what a buffer has, and both
    of our buffers have the same bytes."""
    calls = CALLS["push"][case]
    assert calls["sserpent"](100) == calls["sserpent-pure"](100)
    (event,) = sse_parser.parse(calls[contender](1)).events
    if case in VALUES:
        assert json.loads(event.data) == plain(VALUES[case])


def check_to_json(case: str, contender: str) -> None:
    """Raises AssertionError unless the JSON is that of the value."""
    value, _ = TO_JSON[case]
    assert json.loads(CALLS["to_json"][case][contender](1)) == plain(value)


def check_fastapi_encode() -> None:
    """Raises AssertionError unless `fastapi_encode` writes what FastAPI's router writes."""
    app = FastAPI()

    @app.get("/", response_class=fastapi.sse.EventSourceResponse)
    async def events():
        for fields in EVENTS["encode"].values():
            yield FastAPIEvent(**fields)

    connection = Connection()
    asyncio.run(connection.run(app))
    assert connection.body == b"".join(calls["fastapi"](1) for calls in CALLS["encode"].values())
