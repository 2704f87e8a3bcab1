"""Events, frames and the buffer, one call at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from typing import Any

import fastapi.routing
import fastapi.sse
import orjson
import pydantic_core
import sse_parser
import sse_starlette.event
from asgi import Connection
from fastapi import FastAPI
from fastapi.encoders import jsonable_encoder

from benches.harness.callgrind import Counted
from benches.harness.timing import Call, Table, time_calls
from sserpent._core import compiled, pure

from . import payloads
from .payloads import ITEM, ITEM_DICT, ORDER, PRICED, TOKEN, Item, Order, plain

TOKEN_EVENT = {"raw_data": TOKEN, "event": "token"}
MODEL_EVENT = {"data": ITEM, "event": "item", "id": "7", "retry": 3000}
EVENTS: dict[str, dict[str, Any]] = {
    "token with event": TOKEN_EVENT,
    "model with event, id, retry": MODEL_EVENT,
    "model": {"data": ITEM},
    "dict": {"data": ITEM_DICT},
    "nested model, 10 KB": {"data": ORDER},
    "dict with Decimals, datetime, timedelta": {"data": PRICED},
    "100 KB in one line": {"raw_data": payloads.LINE_100_KB},
    "100 KB, 1,350 lines": {"raw_data": payloads.LOG_100_KB},
}
TEXTS = {
    "token": TOKEN,
    "log of 10 lines": payloads.LOG,
    "unicode": payloads.UNICODE,
    "100 KB in one line": payloads.LINE_100_KB,
    "100 KB, 1,350 lines": payloads.LOG_100_KB,
}
ITEMS = {
    "dict": ITEM_DICT,
    "dict with UUID and datetime": payloads.RECORD,
    "dict with Decimals, datetime, timedelta": PRICED,
    "dataclass with UUID and datetime": payloads.DATACLASS,
    "list of 100 dicts with UUID and datetime": payloads.RECORDS,
}
TO_JSON = {
    "model": (Item.__pydantic_serializer__.to_json, ITEM),
    "nested model, 10 KB": (Order.__pydantic_serializer__.to_json, ORDER),
    "dict": (pydantic_core.to_json, ITEM_DICT),
}

# FastAPI before 0.145 does not have it.
_finite = getattr(fastapi.routing, "_normalize_non_finite_floats", lambda value: value)


def fastapi_json(value: object) -> str:
    if hasattr(value, "model_dump_json"):
        return str(value.model_dump_json())
    return json.dumps(_finite(jsonable_encoder(value)))


def fastapi_encode(event: fastapi.sse.ServerSentEvent) -> bytes:
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
    "FastAPIEvent": fastapi.sse.ServerSentEvent,
    "StarletteEvent": sse_starlette.event.ServerSentEvent,
    "StarletteJSONEvent": sse_starlette.event.JSONServerSentEvent,
    "format": compiled.format_sse_event,
    "pure_format": pure.format_sse_event,
    "fastapi_format": fastapi.sse.format_sse_event,
    "fastapi_encode": fastapi_encode,
    "fastapi_json": fastapi_json,
    "dumps": orjson.dumps,
}


def looped(expression: str, **values: Any) -> Call:
    """A function of the expression as users would write it. A call with `**fields` instead would
    add the cost of copying a dict to each contender's time."""
    namespace = {**NAMES, **values}
    lines = "def call(count):", " for _ in range(count):", f"  result = {expression}"
    exec("\n".join([*lines, " return result"]), namespace)
    call: Call = namespace["call"]
    return call


def constructing(fields: dict[str, Any]) -> dict[str, Call]:
    ours = ", ".join(f"{name}={name}" for name in fields)
    theirs = ours.replace("raw_data=", "data=")
    return {
        "fastapi": looped(f"FastAPIEvent({ours})", **fields),
        "sserpent": looped(f"Event({ours})", **fields),
        "sserpent-pure": looped(f"PureEvent({ours})", **fields),
        "sse-starlette": looped(f"StarletteEvent({theirs})", **fields),
    }


def encoding(fields: dict[str, Any]) -> dict[str, Call]:
    """Each contender's way to make an event and get its bytes."""
    ours = ", ".join(f"{name}={name}" for name in fields)
    data = fields.get("data")
    event, theirs = "StarletteEvent", ours.replace("raw_data=", "data=")
    if hasattr(data, "model_dump_json"):
        theirs = ours.replace("data=data", "data=data.model_dump_json()")
    elif data is not None:
        event = "StarletteJSONEvent"
    calls = {
        "fastapi": looped(f"fastapi_encode(FastAPIEvent({ours}))", **fields),
        "sserpent": looped(f"Event({ours}).encode()", **fields),
        "sserpent-pure": looped(f"PureEvent({ours}).encode()", **fields),
        "sse-starlette": looped(f"{event}({theirs}).encode()", **fields),
    }
    if data is PRICED:  # sse-starlette's `json.dumps` refuses a Decimal
        del calls["sse-starlette"]
    return calls


def framing(text: str) -> dict[str, Call]:
    return {
        "fastapi": looped("fastapi_format(data_str=text)", text=text),
        "sserpent": looped("format(data_str=text)", text=text),
        "sserpent-pure": looped("pure_format(data_str=text)", text=text),
        "sse-starlette": looped("StarletteEvent(text).encode()", text=text),
    }


def pushing(items: tuple[Any, Any], item_type: Any = None) -> dict[str, Call]:
    """Our two buffers, emptied once after all pushes; an item for each."""
    cores = {"sserpent": compiled, "sserpent-pure": pure}
    return {
        name: _pusher(core.Buffer(item_type and item_schema(core, item_type)), item)
        for (name, core), item in zip(cores.items(), items, strict=True)
    }


def pushing_plain(value: Any) -> dict[str, Call]:
    """Values without a declared type, also by what FastAPI's router does with each, and by orjson
    framed by hand where it takes them."""
    calls = {
        "fastapi": looped("fastapi_format(data_str=fastapi_json(value))", value=value),
        **pushing((value, value)),
    }
    if value is not PRICED:  # orjson refuses a Decimal
        calls["orjson"] = looped('b"data: %b\\n\\n" % dumps(value)', value=value)
    return calls


def item_schema(core: Any, item_type: Any) -> Any:
    """As the router binds it for a declared item type."""
    validator, serializer = item_type.__pydantic_validator__, item_type.__pydantic_serializer__
    options = {"from_attributes": True}, {"by_alias": True}
    return core.ItemSchema(
        validator.validate_python, options[0], serializer.to_json, options[1], item_type
    )


def _pusher(buffer: Any, item: Any) -> Call:
    push, take = buffer.push, buffer.take

    def call(count: int) -> Any:
        for _ in range(count):
            push(item)
        return take()

    return call


def both_cores(fields: dict[str, Any]) -> tuple[Any, Any]:
    return compiled.ServerSentEvent(**fields), pure.ServerSentEvent(**fields)


CALLS: dict[str, dict[str, dict[str, Call]]] = {
    "construct": {case: constructing(EVENTS[case]) for case in list(EVENTS)[:2]},
    "frame": {case: framing(text) for case, text in TEXTS.items()},
    "encode": {case: encoding(fields) for case, fields in EVENTS.items()},
    "push": {
        "annotated model": pushing((ITEM, ITEM), Item),
        "event with token": pushing(both_cores(TOKEN_EVENT)),
        "event with model": pushing(both_cores(MODEL_EVENT)),
        **{case: pushing_plain(value) for case, value in ITEMS.items()},
    },
    "to_json": {
        case: {"to_json": looped("to_json(value)", to_json=to_json, value=value)}
        for case, (to_json, value) in TO_JSON.items()
    },
}


def run(quick: bool) -> Iterable[Table]:
    check()
    return time_calls(CALLS, quick)


def counted() -> Iterator[Counted]:
    """What valgrind counts."""
    model = {"to_json": CALLS["to_json"]["model"]["to_json"]}
    for group in ("encode", "push"):
        for case, calls in CALLS[group].items():
            extra = model if case == "model with event, id, retry" else {}
            for name, call in {**calls, **extra}.items():
                if name != "sse-starlette":
                    yield Counted(f"{group}: {case}", name, 2 if "100" in case else 50, call)


def check() -> None:
    """Raises if what a client makes of any contender's bytes is not right."""
    check_fastapi_encode()
    for case, fields in EVENTS.items():
        wanted = fields["raw_data"] if "raw_data" in fields else plain(fields["data"])
        for name, call in CALLS["encode"][case].items():
            parsed = sse_parser.parse(call(1))
            assert not parsed.is_cut
            (event,) = parsed.events
            data = event.data if "raw_data" in fields else json.loads(event.data)
            named = fields.get("event", "message"), fields.get("id", ""), fields.get("retry")
            assert (event.type, event.last_event_id, parsed.retry) == named, (case, name)
            assert data == wanted, (case, name)
    for case, text in TEXTS.items():
        for name, call in CALLS["frame"][case].items():
            assert [each.data for each in sse_parser.parse(call(1)).events] == [text], (case, name)
    for case, calls in CALLS["push"].items():
        assert calls["sserpent"](100) == calls["sserpent-pure"](100), case
        for name, call in calls.items():
            events = sse_parser.parse(call(1)).events
            if case in ITEMS:
                assert [json.loads(each.data) for each in events] == [plain(ITEMS[case])], name
            assert len(events) == 1, (case, name)


def check_fastapi_encode() -> None:
    app = FastAPI()

    @app.get("/", response_class=fastapi.sse.EventSourceResponse)
    async def events():
        for fields in EVENTS.values():
            yield fastapi.sse.ServerSentEvent(**fields)

    connection = Connection()
    asyncio.run(connection.run(app))
    assert connection.body == b"".join(calls["fastapi"](1) for calls in CALLS["encode"].values())
