"""The application that a real Prometheus scrapes: each metric has something to say."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from fastapi import FastAPI, Response
from prometheus_client import CollectorRegistry, generate_latest

from sserpent import EventSourceResponse
from sserpent.channels import Channels, LastEventID, Subscription
from sserpent.metrics import instrument_prometheus

registry = CollectorRegistry()
channels = Channels()
news = channels.channel("news", int, history=2)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    stop = instrument_prometheus(registry)
    async with channels:
        yield
    stop()


app = FastAPI(lifespan=lifespan)


@app.get("/metrics")
def metrics() -> Response:
    return Response(generate_latest(registry), media_type="text/plain")


class Single(EventSourceResponse):
    max_streams = 1


class Impatient(EventSourceResponse):
    send_timeout = 0.2


@app.get("/single", response_class=Single)
async def single() -> AsyncIterator[str]:
    yield "there is a place for one"
    await anyio.sleep(3600)


@app.get("/sync", response_class=EventSourceResponse)
def sync() -> Iterator[str]:
    while True:
        yield "from a thread"
        time.sleep(0.01)


@app.get("/late", response_class=EventSourceResponse)
async def late() -> AsyncIterator[str]:
    await anyio.sleep(3)
    yield "late"


@app.get("/fails", response_class=EventSourceResponse)
async def fails() -> AsyncIterator[str]:
    yield "before"
    raise LookupError("failed on purpose")


async def flood() -> AsyncIterator[str]:
    while True:
        yield "x" * 1_000


@app.get("/flood")
def flooded() -> EventSourceResponse:
    """A thread goes on while a `send` waits, up to `max_pending`. An async generator would wait
    too, and nothing would be pending."""
    return EventSourceResponse("x" * 1_000 for _ in itertools.count())


@app.get("/stalled")
async def stalled() -> Impatient:
    return Impatient(flood())


@app.get("/news", response_class=EventSourceResponse)
async def read(last_event_id: LastEventID = None) -> Subscription[Any]:
    return news.subscribe(after=last_event_id)


@app.post("/news")
async def publish(count: int) -> str:
    """Publishes, and returns the id of the first event, which a few more have pushed out."""
    ids = [str(await news.publish(number)) for number in range(count)]
    return ids[0]
