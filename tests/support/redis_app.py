"""An application whose channels are on Redis, to be run in several processes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from sserpent import EventSourceResponse
from sserpent.channels import Channels, LastEventID, Subscription

channels = Channels(os.environ["REDIS_URL"])
numbers = channels.channel("numbers", int)
_publishing: set[asyncio.Task[Any]] = set()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with channels:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/numbers", response_class=EventSourceResponse)
async def follow(last_event_id: LastEventID = None) -> Subscription[int]:
    return numbers.subscribe(after=last_event_id, start="earliest")


@app.post("/numbers")
async def publish(count: int, tasks: int) -> None:
    async def publish_some() -> None:
        for number in range(count // tasks):
            await numbers.publish(number)

    for _ in range(tasks):
        task = asyncio.create_task(publish_some())
        _publishing.add(task)
        task.add_done_callback(_publishing.discard)
