"""What the browser tests stream. `/seen` tells with which Last-Event-ID each path was asked."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.responses import HTMLResponse

from sserpent import EventSourceResponse, ServerSentEvent

app = FastAPI()

seen: defaultdict[str, list[str | None]] = defaultdict(list)
wake_up: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

LastEventId = Annotated[int | None, Header()]


class CutError(Exception):
    """Breaks the connection of the stream that raises it."""


@app.middleware("http")
async def note_the_last_event_id(request: Request, call_next):
    seen[request.url.path].append(request.headers.get("last-event-id"))
    return await call_next(request)


@app.get("/seen")
async def tell_what_was_seen(path: str) -> list[str | None]:
    return seen[path]


@app.get("/", response_class=HTMLResponse)
async def page() -> str:
    return "<!doctype html><meta charset=utf-8><link rel=icon href=data:><title>test</title>"


async def forever() -> None:
    await asyncio.Event().wait()


@app.get("/fields", response_class=EventSourceResponse)
async def stream_fields() -> AsyncIterator[ServerSentEvent]:
    yield ServerSentEvent(comment="no event")
    yield ServerSentEvent(raw_data="plain")
    yield ServerSentEvent(raw_data="named", event="greeting", id="first")
    yield ServerSentEvent(raw_data="one\ntwo\r\nthree\rfour\n\n  six")
    yield ServerSentEvent(raw_data="id only here", id="zwei €")
    yield ServerSentEvent(raw_data=" leading and trailing ")
    yield ServerSentEvent(raw_data=": no comment\ndata: no field")
    yield ServerSentEvent(raw_data="", event="empty")
    yield ServerSentEvent(raw_data="the id is gone", id="")
    yield ServerSentEvent(data={"unicode": "é 漢字 🐍 \u2028\u2029\x85\x0b\x0c\ufeff\0"})
    yield ServerSentEvent(raw_data="é 漢字 🐍 \u2028\u2029\x85\x0b\x0c\ufeff\0")
    await forever()


@app.get("/silent", response_class=EventSourceResponse)
async def stream_nothing() -> AsyncIterator[ServerSentEvent]:
    await forever()
    yield ServerSentEvent()


@app.get("/retry", response_class=EventSourceResponse)
async def stream_once(milliseconds: int) -> AsyncIterator[ServerSentEvent]:
    yield ServerSentEvent(raw_data="one", retry=milliseconds)


@app.get("/resume", response_class=EventSourceResponse)
async def stream_three_and_break(last_event_id: LastEventId = None) -> AsyncIterator[object]:
    start = 0 if last_event_id is None else last_event_id + 1
    for number in range(start, start + 3):
        yield ServerSentEvent(data=number, id=str(number), retry=50)
    if start >= 9:
        await forever()
    raise CutError


@app.get("/restart", response_class=EventSourceResponse)
async def stream_one_more(last_event_id: LastEventId = None) -> AsyncIterator[ServerSentEvent]:
    number = 0 if last_event_id is None else last_event_id + 1
    yield ServerSentEvent(data=number, id=str(number), retry=200)
    await forever()


@app.get("/refused", response_class=EventSourceResponse)
async def stream_once_and_refuse(
    status: int, last_event_id: LastEventId = None
) -> AsyncIterator[ServerSentEvent]:
    if last_event_id is not None:
        raise HTTPException(status)
    yield ServerSentEvent(raw_data="once", id=str(status), retry=50)


class Pinging(EventSourceResponse):
    ping_interval = 0.05


@app.get("/pings", response_class=Pinging)
async def stream_with_pings() -> AsyncIterator[ServerSentEvent]:
    yield ServerSentEvent(raw_data="before", id="7")
    await asyncio.sleep(1)
    yield ServerSentEvent(raw_data="after")
    await forever()


@app.get("/many", response_class=EventSourceResponse)
async def stream_many() -> AsyncIterator[int]:
    for number in range(10_000):
        yield number
    await forever()


@app.get("/steps", response_class=EventSourceResponse)
async def stream_steps(key: str) -> AsyncIterator[ServerSentEvent]:
    """Each event waits for `/step`, so that nothing is sent after one that did not arrive."""
    for number in range(10):
        yield ServerSentEvent(data=number)
        await wake_up[key].wait()
        wake_up[key].clear()


@app.post("/step")
async def step(key: str) -> None:
    wake_up[key].set()
