"""The application that the tests of channels run on real servers."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import anyio
import psutil
from fastapi import BackgroundTasks, FastAPI

from sserpent import EventSourceResponse
from sserpent.channels import Channels, LastEventID, Subscription

channels = Channels(max_subscribers_per_owner=2)
news = channels.channel("news", history=int(os.environ.get("HISTORY", "1000")))
app = FastAPI(lifespan=channels.lifespan)


@app.get("/news", response_class=EventSourceResponse)
async def read(
    last_event_id: LastEventID = None, start: str = "live", owner: str | None = None
) -> Subscription[Any]:
    return news.subscribe(
        after=last_event_id,
        start="earliest" if start == "earliest" else "live",
        owner=owner,
        cleanup_timeout=2,
        send_timeout=5,
    )


@app.post("/publish/{count}")
async def publish(count: int, tasks: BackgroundTasks, size: int = 0, pause: float = 0.0) -> str:
    """Publishes numbers, in the background."""

    async def numbers() -> None:
        for n in range(count):
            await news.publish([n, "x" * size])
            if n % 10 == 0:
                await anyio.sleep(pause)

    tasks.add_task(numbers)
    return "begun"


@app.get("/resources")
async def resources() -> dict[str, int]:
    process = psutil.Process()
    return {
        "tasks": len(asyncio.all_tasks()),
        "files": process.num_fds(),
        "memory": process.memory_info().rss,
        "subscribers": sum(len(hub.subscribers) for hub in channels._hubs._by_loop.values()),
    }
