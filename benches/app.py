"""The application of the stream benchmarks: each contender's routes stream the same events.

`/{contender}/{kind}?n=...` for the contenders

- `fastapi` and `sserpent`: the same code, only the import differs;
- `sse-starlette`;
- `hand`: `StreamingResponse` with bytes that the generator frames itself around pydantic-core's
  `to_json`;
- `joined`: the same, but 100 events in each chunk: the least that a burst can cost;
- `asgi`: nothing but a route, no generator, a loop calls `send`: the least that events cost which
  trickle, and the least that an idle connection costs.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Iterable, Iterator
from typing import Any

import fastapi.routing
import fastapi.sse
import pydantic_core
import sse_starlette
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from starlette.routing import Route, Router

import sserpent

from .payloads import ITEM, ITEM_DICT, TOKEN, Item

# One application for each contender, so that each finds its routes at the same price.
control = FastAPI()
applications: dict[str, Any] = {}


def app(scope: Any, receive: Any, send: Any) -> Awaitable[None]:
    """Hands over to the application that the path begins with, without a frame of its own."""
    name = scope.get("path", "").split("/", 2)[1] if scope["type"] == "http" else ""
    return applications.get(name, control)(scope, receive, send)


# Seconds between keep-alives, where a benchmark wants many of them in a short time.
PING_INTERVAL = float(os.environ.get("BENCH_PING_INTERVAL", "15"))
fastapi.routing._PING_INTERVAL = PING_INTERVAL


class Gate:
    """Holds streams until a request opens it, and then again."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    async def wait(self) -> None:
        await self._event.wait()

    def open(self) -> None:
        event, self._event = self._event, asyncio.Event()
        event.set()


gates = {"start": Gate(), "end": Gate()}


@control.post("/gates/{name}")
async def open_gate(name: str) -> None:
    gates[name].open()


async def gated(item: Any, n: int, pause: float | None) -> AsyncIterator[Any]:
    """One event at once, `n` when the start gate opens, each after a pause if one is asked for;
    stays until the end gate opens."""
    yield item
    await gates["start"].wait()
    for _ in range(n):
        if pause is not None:
            await asyncio.sleep(pause)
        yield item
    await gates["end"].wait()


def drop_in(prefix: str, response_class: Any, event_class: Any) -> FastAPI:
    """The routes of `fastapi.sse`, and of what can be imported instead."""
    app = FastAPI()

    @app.get(f"{prefix}/idle", response_class=response_class)
    async def idle() -> AsyncIterable[Item]:
        yield ITEM
        await asyncio.sleep(3600)

    @app.get(f"{prefix}/models", response_class=response_class)
    async def models(n: int) -> AsyncIterable[Item]:
        for _ in range(n):
            yield ITEM

    @app.get(f"{prefix}/events", response_class=response_class)
    async def events(n: int) -> AsyncIterable[event_class]:
        for _ in range(n):
            yield event_class(data=ITEM, event="item", id="7")

    @app.get(f"{prefix}/tokens", response_class=response_class)
    async def tokens(n: int) -> AsyncIterable[event_class]:
        for _ in range(n):
            yield event_class(raw_data=TOKEN)

    @app.get(f"{prefix}/dicts", response_class=response_class)
    async def dicts(n: int):
        for _ in range(n):
            yield ITEM_DICT

    @app.get(f"{prefix}/sync", response_class=response_class)
    def sync(n: int) -> Iterable[Item]:
        for _ in range(n):
            yield ITEM

    @app.get(f"{prefix}/turn", response_class=response_class)
    async def turn(n: int) -> AsyncIterable[Item]:
        for _ in range(n):
            yield ITEM
            await asyncio.sleep(0)

    @app.get(f"{prefix}/gated", response_class=response_class)
    async def gated_items(n: int, pause: float | None = None) -> AsyncIterable[Item]:
        async for item in gated(ITEM, n, pause):
            yield item

    return app


class SserpentResponse(sserpent.EventSourceResponse):
    ping_interval = PING_INTERVAL


applications["fastapi"] = drop_in(
    "/fastapi", fastapi.sse.EventSourceResponse, fastapi.sse.ServerSentEvent
)
applications["sserpent"] = drop_in("/sserpent", SserpentResponse, sserpent.ServerSentEvent)


def sse_starlette_response(content: Any) -> sse_starlette.EventSourceResponse:
    return sse_starlette.EventSourceResponse(content, ping=int(PING_INTERVAL))


applications["sse-starlette"] = FastAPI()


@applications["sse-starlette"].get("/sse-starlette/{kind}")
async def with_sse_starlette(kind: str, n: int = 0, pause: float | None = None):
    async def models() -> AsyncIterator[dict[str, str]]:
        for _ in range(n):
            yield {"data": ITEM.model_dump_json()}

    async def events() -> AsyncIterator[dict[str, str]]:
        for _ in range(n):
            yield {"data": ITEM.model_dump_json(), "event": "item", "id": "7"}

    async def tokens() -> AsyncIterator[dict[str, str]]:
        for _ in range(n):
            yield {"data": TOKEN}

    async def dicts() -> AsyncIterator[dict[str, str]]:
        for _ in range(n):
            yield {"data": json.dumps(ITEM_DICT)}

    def sync() -> Iterator[dict[str, str]]:
        for _ in range(n):
            yield {"data": ITEM.model_dump_json()}

    async def each_turn() -> AsyncIterator[dict[str, str]]:
        for _ in range(n):
            yield {"data": ITEM.model_dump_json()}
            await asyncio.sleep(0)

    async def gated_items() -> AsyncIterator[dict[str, str]]:
        async for item in gated(ITEM, n, pause):
            yield {"data": item.model_dump_json()}

    async def idle() -> AsyncIterator[dict[str, str]]:
        yield {"data": ITEM.model_dump_json()}
        await asyncio.sleep(3600)

    kinds = {
        "models": models,
        "events": events,
        "tokens": tokens,
        "dicts": dicts,
        "sync": sync,
        "turn": each_turn,
        "gated": gated_items,
        "idle": idle,
    }
    return sse_starlette_response(kinds[kind]())


item_to_json = Item.__pydantic_serializer__.to_json


applications["hand"] = FastAPI()


@applications["hand"].get("/hand/{kind}")
async def framed_by_hand(kind: str, n: int = 0, pause: float | None = None) -> StreamingResponse:
    async def models() -> AsyncIterator[bytes]:
        for _ in range(n):
            yield b"data: %b\n\n" % item_to_json(ITEM)

    async def events() -> AsyncIterator[bytes]:
        for _ in range(n):
            yield b"event: item\ndata: %b\nid: 7\n\n" % item_to_json(ITEM)

    async def tokens() -> AsyncIterator[bytes]:
        for _ in range(n):
            yield b"data: %b\n\n" % TOKEN.encode()

    async def dicts() -> AsyncIterator[bytes]:
        for _ in range(n):
            yield b"data: %b\n\n" % pydantic_core.to_json(ITEM_DICT)

    def sync() -> Iterator[bytes]:
        for _ in range(n):
            yield b"data: %b\n\n" % item_to_json(ITEM)

    async def each_turn() -> AsyncIterator[bytes]:
        for _ in range(n):
            yield b"data: %b\n\n" % item_to_json(ITEM)
            await asyncio.sleep(0)

    async def gated_items() -> AsyncIterator[bytes]:
        async for item in gated(ITEM, n, pause):
            yield b"data: %b\n\n" % item_to_json(item)

    async def idle() -> AsyncIterator[bytes]:
        yield b"data: %b\n\n" % item_to_json(ITEM)
        await asyncio.sleep(3600)

    kinds = {
        "models": models,
        "events": events,
        "tokens": tokens,
        "dicts": dicts,
        "sync": sync,
        "turn": each_turn,
        "gated": gated_items,
        "idle": idle,
    }
    return StreamingResponse(kinds[kind](), media_type="text/event-stream")


applications["joined"] = FastAPI()


@applications["joined"].get("/joined/{kind}")
async def joined_by_hand(kind: str, n: int) -> StreamingResponse:
    frames = {
        "models": lambda: b"data: %b\n\n" % item_to_json(ITEM),
        "events": lambda: b"event: item\ndata: %b\nid: 7\n\n" % item_to_json(ITEM),
        "tokens": lambda: b"data: %b\n\n" % TOKEN.encode(),
        "dicts": lambda: b"data: %b\n\n" % pydantic_core.to_json(ITEM_DICT),
    }
    frame = frames[kind]

    async def chunks() -> AsyncIterator[bytes]:
        for first in range(0, n, 100):
            yield b"".join([frame() for _ in range(min(100, n - first))])

    return StreamingResponse(chunks(), media_type="text/event-stream")


class BareASGI:
    """Starlette routes to objects like this one without a layer of its own."""

    def __init__(self, idle: bool) -> None:
        self._idle = idle

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(int(scope["query_string"].removeprefix(b"n=") or 1)):
            body = b"data: %b\n\n" % item_to_json(ITEM)
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await asyncio.sleep(3600 if self._idle else 0)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


applications["asgi"] = Router(
    [Route("/asgi/idle", BareASGI(idle=True)), Route("/asgi/turn", BareASGI(idle=False))]
)
