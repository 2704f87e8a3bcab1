"""The application that the tests of deployments run, in one process or in several.

A stream goes on when it is told to, by a request that any worker may get: told is a file. What
happens inside is written to standard output, which the tests read.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
from fastapi import FastAPI

from sserpent import EventSourceResponse, ServerSentEvent
from sserpent.channels import Channels, LastEventID, Subscription

FOLDER = Path(os.environ["DEPLOYMENT_FOLDER"])

channels = Channels(os.environ["REDIS_URL"])
numbers = channels.channel("numbers", int)
board = channels.channel("board", history=5)
app = FastAPI(lifespan=channels.lifespan)


class Pinging(EventSourceResponse):
    ping_interval = 0.25


class Silent(EventSourceResponse):
    ping_interval = None


class Compressed(EventSourceResponse):
    compress = True
    ping_interval = 0.25


@app.get("/pid")
async def pid() -> int:
    return os.getpid()


@app.post("/told/{key}/{number}")
async def tell(key: str, number: int) -> None:
    (FOLDER / f"{key}-{number}").touch()


async def told(key: str, number: int) -> None:
    while not (FOLDER / f"{key}-{number}").exists():
        await anyio.sleep(0.01)


async def steps(key: str, first: int) -> AsyncIterator[ServerSentEvent]:
    """The next event comes once the client has told that it has this one."""
    try:
        for number in range(first, first + 4):
            yield ServerSentEvent(data=number, id=str(number))
            await told(key, number)
    finally:
        os.write(1, f"{key} left\n".encode())


@app.get("/pinging/{key}")
async def pinging(key: str, last_event_id: LastEventID = None) -> Pinging:
    return Pinging(steps(key, int(last_event_id or -1) + 1))


@app.get("/silent/{key}")
async def silent(key: str) -> Silent:
    return Silent(steps(key, 0))


@app.get("/compressed/{key}")
async def compressed(key: str, last_event_id: LastEventID = None) -> Compressed:
    return Compressed(steps(key, int(last_event_id or -1) + 1))


@app.get("/compressed-numbers", response_class=EventSourceResponse)
async def follow_compressed(last_event_id: LastEventID = None) -> Subscription[Any]:
    return numbers.subscribe(after=last_event_id, compress=True)


@app.get("/numbers", response_class=EventSourceResponse)
async def follow(last_event_id: LastEventID = None) -> Subscription[Any]:
    return numbers.subscribe(after=last_event_id)


@app.post("/numbers/{number}")
async def publish(number: int) -> None:
    await numbers.publish(number)


async def total() -> ServerSentEvent:
    """The state: how many events there were, which each of them increases."""
    position = await board.position()
    return ServerSentEvent(data=int(position.split("-")[1]), event="snapshot", id=position)


@app.get("/board", response_class=EventSourceResponse)
async def follow_board(last_event_id: LastEventID = None) -> Subscription[Any]:
    return board.subscribe(after=last_event_id, snapshot=total)


@app.post("/board/{count}")
async def add(count: int) -> None:
    await board.publish_many([1] * count)
