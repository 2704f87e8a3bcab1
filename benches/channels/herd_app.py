"""The application of `herd`: each route has one event for a client at once, and then waits.

`/sserpent` is a channel, whose clients come back with the id before its newest event. `/hand` is a
`StreamingResponse` with bytes that are framed already, `/asgi` an application without FastAPI.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

import sserpent
from sserpent.channels import Channels, LastEventID, Subscription

MEDIA_TYPE = "text/event-stream"
EVENT = b'data: "news"\nid: 1\n\n'

news = Channels().channel("news")
id_before = ""
streams = 0  # of the others than sserpent
longest_stall = 0.0


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    await begin()
    if "FROZEN" in os.environ:  # as docs/production.md recommends
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 500, 1_000)
    watching = asyncio.ensure_future(watch())
    yield
    watching.cancel()


async def watch() -> None:
    """Notes how late the event loop wakes who sleeps."""
    global longest_stall
    while True:
        due = time.perf_counter() + 0.01
        await asyncio.sleep(0.01)
        longest_stall = max(longest_stall, time.perf_counter() - due)


async def begin() -> None:
    """Publishes the event that clients come back for."""
    global id_before
    id_before = await news.position()
    await news.publish("news")


fastapi = FastAPI(openapi_url=None, lifespan=lifespan)


@fastapi.get("/sserpent", response_class=sserpent.EventSourceResponse)
async def by_channel(last_event_id: LastEventID = None) -> Subscription[str]:
    return news.subscribe(after=last_event_id)


@fastapi.get("/hand")
async def by_hand(last_event_id: LastEventID = None) -> StreamingResponse:
    return StreamingResponse(waiting(), media_type=MEDIA_TYPE)


async def waiting() -> AsyncIterator[bytes]:
    global streams
    streams += 1
    try:
        yield EVENT
        await asyncio.sleep(3_600)
    finally:
        streams -= 1


@fastapi.get("/id")
async def first_id() -> str:
    """The id with which clients come back."""
    return id_before


@fastapi.get("/stall")
async def stall() -> float:
    """The longest stall since the last request for it, in milliseconds."""
    global longest_stall
    longest, longest_stall = longest_stall, 0.0
    return longest * 1e3


@fastapi.get("/empty")
async def until_empty() -> None:
    """Answers when there is no stream."""
    while streams or await news.subscriber_count():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def by_asgi(receive: Any, send: Any) -> None:
    global streams
    streams += 1
    headers = [(b"content-type", MEDIA_TYPE.encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": EVENT, "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass
    streams -= 1


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http" and scope["path"] == "/asgi":
        await by_asgi(receive, send)
    else:
        await fastapi(scope, receive, send)
