"""The application of the benchmarks of streams: each contender has the same routes.

`/{contender}/{kind}` for the contenders

- `fastapi` and `sserpent`: the same code, only the import differs;
- `sse-starlette`;
- `typed`: `sserpent` with values of types that have names, where others yield events;
- `hand`: `StreamingResponse` with bytes that the generator frames itself;
- `joined`: the same, but 100 events in each chunk: the least that a burst can cost;
- `asgi`: nothing but a route, no generator, a loop calls `send`: the least that events cost which
  trickle, and the least that an idle connection costs.
"""

# ruff: noqa: F401, the generators use what looks unused
from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import os
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import Annotated, Any

import fastapi.routing
import fastapi.sse
import orjson
import pydantic_core
import sse_starlette
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import TypeAdapter
from starlette.routing import Route, Router

import sserpent
from benches.core import payloads

# Seconds between keep-alives, where a benchmark wants many of them in a short time.
PING_INTERVAL = float(os.environ.get("BENCH_PING_INTERVAL", "15"))
fastapi.routing._PING_INTERVAL = PING_INTERVAL

# The generators, whose text is the same for every contender but for what is yielded.
IDLE = """
async def stream(){returns}:
    yield {item}
    await asyncio.sleep(3600)
"""
TICKING = """
async def stream(){returns}:
    while True:
        yield {item}
        await asyncio.sleep(1)
"""
BURST = """
async def stream(n: int){returns}:
    for _ in range(n):
        yield {item}
"""
NAMED = """
async def stream(n: int){returns}:
    for name, value in itertools.islice(itertools.cycle(NAMED), n):
        yield {item}
"""
JOINED = """
async def stream(n: int):
    for _ in range(0, n, 100):
        yield b"".join([{item} for _ in range(100)])
"""
SYNC = BURST.replace("async ", "")
TURN = BURST + "        await asyncio.sleep(0)\n"
# One event at once; `n` when the start gate opens, each after a pause if one is asked for.
GATED = """
async def stream(n: int, pause: float | None = None){returns}:
    yield {item}
    await gates["start"].wait()
    for _ in range(n):
        if pause is not None:
            await asyncio.sleep(pause)
        yield {item}
    await gates["end"].wait()
"""
# What is streamed, and how.
KINDS = {
    "idle": ("model", IDLE),
    "models": ("model", BURST),
    "events": ("event", BURST),
    "tokens": ("token", BURST),
    "dicts": ("dict", BURST),
    "records": ("record", BURST),
    "named": ("named", NAMED),
    "sync": ("model", SYNC),
    "turn": ("model", TURN),
    "gated": ("model", GATED),
    "ticking": ("model", TICKING),
}
# What each contender's generator yields.
DROP_IN = {
    "model": "ITEM",
    "event": "Event(data=ITEM, event='item', id='7')",
    "token": "Event(raw_data=TOKEN)",
    "dict": "ITEM_DICT",
    "record": "RECORD",
    "named": "Event(data=value, event=name)",
}
# The type of the items that the drop-ins declare, where they do.
DECLARED = {"model": "Item", "event": "Event", "token": "Event", "named": "Event"}
SSE_STARLETTE = {
    "model": "dict(data=ITEM.model_dump_json())",
    "event": "dict(data=ITEM.model_dump_json(), event='item', id='7')",
    "token": "dict(data=TOKEN)",
    "dict": "dict(data=json.dumps(ITEM_DICT))",
    "record": "dict(data=orjson.dumps(RECORD).decode())",
    "named": "dict(data=value.model_dump_json(), event=name)",
}
HAND = {
    "model": r'b"data: %b\n\n" % item_to_json(ITEM)',
    "event": r'b"event: item\ndata: %b\nid: 7\n\n" % item_to_json(ITEM)',
    "token": r'b"data: %b\n\n" % TOKEN.encode()',
    "dict": r'b"data: %b\n\n" % pydantic_core.to_json(ITEM_DICT)',
    "record": r'b"data: %b\n\n" % orjson.dumps(RECORD)',
    "named": r'b"event: %b\ndata: %b\n\n" % (name.encode(), value_to_json(value))',
}


# What the templates hold streams with, until a request opens it.
gates = {"start": asyncio.Event(), "end": asyncio.Event()}
value_to_json = TypeAdapter(payloads.Item | payloads.Change | payloads.Removal).dump_json
item_to_json = payloads.Item.__pydantic_serializer__.to_json


def stream_of(shape: str, item: str, declared: str | None = None, event_class: Any = None) -> Any:
    """A generator function, whose template may name what this module and `payloads` have."""
    iterable = "AsyncIterable" if "async" in shape else "Iterable"
    returns = f" -> {iterable}[{declared}]" if declared else ""
    namespace = {**globals(), **vars(payloads), "Event": event_class}
    exec(shape.format(item=item, returns=returns), namespace)
    return namespace["stream"]


def drop_in(prefix: str, response_class: Any, event_class: Any) -> FastAPI:
    """The routes of `fastapi.sse`, and of what can be imported instead."""
    app = FastAPI()
    for kind, (item, shape) in KINDS.items():
        stream = stream_of(shape, DROP_IN[item], DECLARED.get(item), event_class)
        app.get(f"{prefix}/{kind}", response_class=response_class)(stream)
    return app


def typed(prefix: str) -> FastAPI:
    """The route of events that a union of types declares."""
    app = FastAPI()
    kinds = (
        f"Annotated[{type(value).__name__}, sserpent.Named({name!r})]"
        for name, value in payloads.NAMED
    )
    stream = stream_of(NAMED, "value", " | ".join(kinds))
    app.get(f"{prefix}/named", response_class=SserpentResponse)(stream)
    return app


def returned(prefix: str, items: dict[str, str], response: Callable[[Any], Any]) -> FastAPI:
    """The routes of those whose endpoints return a response."""
    app = FastAPI()

    def endpoint_of(stream: Any) -> Any:
        async def endpoint(**arguments: Any) -> Any:
            return response(stream(**arguments))

        endpoint.__signature__ = inspect.signature(stream)  # type: ignore[attr-defined]
        return endpoint

    for kind, (item, shape) in KINDS.items():
        if prefix == "/joined" and kind != "named":
            shape = JOINED
        app.get(f"{prefix}/{kind}")(endpoint_of(stream_of(shape, items[item])))
    return app


class BareASGI:
    """Starlette routes to objects like this one without a layer of its own."""

    def __init__(self, pause: float) -> None:
        self._pause = pause

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(int(scope["query_string"].removeprefix(b"n=") or 1)):
            body = b"data: %b\n\n" % item_to_json(payloads.ITEM)
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await asyncio.sleep(self._pause)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class SserpentResponse(sserpent.EventSourceResponse):
    ping_interval = PING_INTERVAL


def sse_starlette_response(content: Any) -> sse_starlette.EventSourceResponse:
    return sse_starlette.EventSourceResponse(content, ping=int(PING_INTERVAL))


def streaming_response(content: Any) -> StreamingResponse:
    return StreamingResponse(content, media_type="text/event-stream")


# One application for each contender, so that each finds its routes at the same price.
applications: dict[str, Any] = {
    "fastapi": drop_in("/fastapi", fastapi.sse.EventSourceResponse, fastapi.sse.ServerSentEvent),
    "sserpent": drop_in("/sserpent", SserpentResponse, sserpent.ServerSentEvent),
    "typed": typed("/typed"),
    "sse-starlette": returned("/sse-starlette", SSE_STARLETTE, sse_starlette_response),
    "hand": returned("/hand", HAND, streaming_response),
    "joined": returned("/joined", HAND, streaming_response),
    "asgi": Router([Route("/asgi/idle", BareASGI(3600)), Route("/asgi/turn", BareASGI(0))]),
}
control = FastAPI()


@control.post("/gates/{name}")
async def open_gate(name: str) -> None:
    gates.pop(name).set()
    gates[name] = asyncio.Event()


@control.get("/plain")
async def plain() -> payloads.Item:
    return payloads.ITEM


def app(scope: Any, receive: Any, send: Any) -> Awaitable[None]:
    """Hands over to the application that the path begins with, without a frame of its own."""
    name = scope.get("path", "").split("/", 2)[1] if scope["type"] == "http" else ""
    return applications.get(name, control)(scope, receive, send)
