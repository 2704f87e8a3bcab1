"""Events, frames and the encoder, one call at a time.

Each case first checks what a client would decode, for every contender, and only then is timed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import fastapi.sse
import pydantic_core
import pytest
from fastapi import FastAPI

from . import contenders, payloads
from .decode import decode
from .in_process import body_of
from .payloads import ITEM, ITEM_DICT, ORDER, SLOW_DICT, TOKEN, Item, Order

# For each call that is timed.
EVENTS = 100

CONSTRUCT = {
    "token with event": {"raw_data": TOKEN, "event": "token"},
    "model with event, id, retry": {"data": ITEM, "event": "item", "id": "7", "retry": 3000},
}
FRAME = {
    "token": TOKEN,
    "log of 10 lines": payloads.LOG,
    "unicode": payloads.UNICODE,
    "100 KB in one line": payloads.LINE_100_KB,
    "100 KB of log lines": payloads.LOG_100_KB,
}
ENCODE = {
    **CONSTRUCT,
    "model": {"data": ITEM},
    "dict": {"data": ITEM_DICT},
    "nested model, 10 KB": {"data": ORDER},
    "dict with Decimals and datetimes": {"data": SLOW_DICT},
    "100 KB in one line": {"raw_data": payloads.LINE_100_KB},
    "100 KB of log lines": {"raw_data": payloads.LOG_100_KB},
}
PUSH: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "annotated model": (lambda core: ITEM, Item),
    "dict": (lambda core: ITEM_DICT, None),
    "event with token": (lambda core: core.ServerSentEvent(raw_data=TOKEN, event="token"), None),
    "event with model": (lambda core: core.ServerSentEvent(data=ITEM, event="item", id="7"), None),
}
TO_JSON = {
    "model": (Item.__pydantic_serializer__.to_json, ITEM),
    "nested model, 10 KB": (Order.__pydantic_serializer__.to_json, ORDER),
    "dict": (pydantic_core.to_json, ITEM_DICT),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One timed test for each contender of each case, a case's contenders next to each other."""
    if "contender" in metafunc.fixturenames:
        group = metafunc.function.__name__.removeprefix("test_")
        pairs = [(case, name) for case, names in GROUPS[group].items() for name in names]
        metafunc.parametrize(("case", "contender"), pairs)


def timed(benchmark: Any, group: str, case: str, contender: str) -> None:
    benchmark.group = f"{group}: {case}"
    benchmark.extra_info.update(table=group, case=case, contender=contender, events=EVENTS)
    benchmark(GROUPS[group][case][contender], EVENTS)


def meaning(framed: bytes, is_json: bool) -> list[tuple[Any, ...]]:
    """What a client makes of a stream; JSON is compared by value."""
    return [
        (each.event, json.loads(each.data) if is_json else each.data, each.id, each.retry)
        for each in decode(framed)
    ]


def expected(fields: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What the standard makes of an event's fields, worked out without any contender."""
    data = fields["raw_data"] if "raw_data" in fields else PLAIN[id(fields["data"])]
    return [(fields.get("event", "message"), data, fields.get("id", ""), fields.get("retry"))]


PLAIN = {
    id(ITEM): ITEM_DICT,
    id(ITEM_DICT): ITEM_DICT,
    id(ORDER): json.loads(ORDER.model_dump_json()),
    id(SLOW_DICT): {
        "price": 999.99,
        "at": "2026-01-02T03:04:05+00:00",
        "lasts": 90.0,
        "lines": [{"quantity": 2, "price": 1.5}],
    },
}

GROUPS: dict[str, dict[str, dict[str, contenders.Call]]] = {
    "construct": {case: contenders.constructors(fields) for case, fields in CONSTRUCT.items()},
    "frame": {case: contenders.framers(text) for case, text in FRAME.items()},
    "encode": {case: contenders.encoders(fields) for case, fields in ENCODE.items()},
    "push": {case: contenders.pushers(*arguments) for case, arguments in PUSH.items()},
    "to_json": {case: contenders.serializer(*pair) for case, pair in TO_JSON.items()},
}


def test_fastapi_contender() -> None:
    """`encode_as_fastapi` writes the bytes that FastAPI's router writes."""
    app = FastAPI()

    @app.get("/", response_class=fastapi.sse.EventSourceResponse)
    async def events(case: str):
        yield fastapi.sse.ServerSentEvent(**ENCODE[case])

    for case in ENCODE:
        routed = asyncio.run(body_of(app, "/", f"case={case}"))
        assert routed == GROUPS["encode"][case]["fastapi"]()


def test_construct(benchmark: Any, case: str, contender: str) -> None:
    fields = CONSTRUCT[case]
    event = GROUPS["construct"][case][contender]()
    for name, value in fields.items():
        attribute = "data" if name == "raw_data" and contender == "sse-starlette" else name
        assert getattr(event, attribute) == value
    timed(benchmark, "construct", case, contender)


def test_frame(benchmark: Any, case: str, contender: str) -> None:
    framed = GROUPS["frame"][case][contender]()
    assert meaning(framed, is_json=False) == expected({"raw_data": FRAME[case]})
    timed(benchmark, "frame", case, contender)


def test_encode(benchmark: Any, case: str, contender: str) -> None:
    fields = ENCODE[case]
    encoded = GROUPS["encode"][case][contender]()
    assert meaning(encoded, is_json="data" in fields) == expected(fields)
    timed(benchmark, "encode", case, contender)


def test_push(benchmark: Any, case: str, contender: str) -> None:
    pushed = GROUPS["push"][case][contender](EVENTS)
    assert pushed == GROUPS["push"][case]["sserpent-pure"](EVENTS)
    assert len(decode(pushed)) == EVENTS
    timed(benchmark, "push", case, contender)


def test_to_json(benchmark: Any, case: str, contender: str) -> None:
    _, value = TO_JSON[case]
    assert json.loads(GROUPS["to_json"][case][contender]()) == PLAIN[id(value)]
    timed(benchmark, "to_json", case, contender)
