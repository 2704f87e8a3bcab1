"""The application of the soak, which runs in several processes: rooms, runs, and the boards of the
examples, whose states are in a file."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response

from sserpent import EventSourceResponse
from sserpent.channels import (
    BrokerError,
    BrokerUnavailable,
    Channels,
    LastEventID,
    PublishUncertain,
    Subscription,
)
from sserpent.channels.history.broker import Lease

sys.path.append(str(Path(__file__).parents[2] / "examples"))

import boards

# Before anything reads them: a run whose process was killed is to end before the soak does.
Lease.RENEWAL, Lease.DURATION = 1.0, 8.0

channels = Channels(os.environ["REDIS_URL"], publish_timeout=3)
rooms = channels.channel("rooms", int, keyed=True)
runs = channels.runs("answers")
app = FastAPI(lifespan=channels.lifespan)
app.include_router(boards.routes(channels, os.environ["BOARDS_FILE"]))


@app.exception_handler(BrokerError)
async def on_unavailable(request: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), 503)


@app.get("/rooms/{room}", response_class=EventSourceResponse)
async def read(room: str, last_event_id: LastEventID = None) -> Subscription[int]:
    return rooms.subscribe(key=room, after=last_event_id, compress=True)


@app.post("/rooms/{room}/{number}")
async def write(room: str, number: int) -> Response:
    try:
        return PlainTextResponse(await rooms.publish(number, key=room))
    except PublishUncertain:
        return PlainTextResponse("uncertain")
    except BrokerUnavailable:
        return PlainTextResponse("refused")


@app.post("/runs/{id}")
async def start(id: str, numbers: int, pause: float) -> str:
    return (await runs.start(_count(numbers, pause), id=id)).id


@app.get("/runs/{id}", response_class=EventSourceResponse)
async def follow(id: str, last_event_id: LastEventID = None) -> Any:
    return await runs.follow(id, after=last_event_id, compress=True)


async def _count(numbers: int, pause: float) -> AsyncIterator[int]:
    for number in range(numbers):
        yield number
        await anyio.sleep(pause)
