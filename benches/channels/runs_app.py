"""The application of the benchmarks of runs: the same generator, streamed and as a run.

`/generator` streams it, `/memory` and `/redis` follow a run of it. Redis's address is that of the
environment variable `REDIS_URL`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI

from sserpent import EventSourceResponse
from sserpent.channels import Channels, Subscription

app = FastAPI(openapi_url=None)
channels = {"memory": Channels()}
if "REDIS_URL" in os.environ:
    channels["redis"] = Channels(os.environ["REDIS_URL"])
runs = {name: each.runs("answers", str) for name, each in channels.items()}


async def tokens(count: int, pause: float) -> AsyncIterator[str]:
    for _ in range(count):
        yield " token"
        await asyncio.sleep(pause)


@app.get("/generator", response_class=EventSourceResponse)
async def streamed(count: int, pause: float = 0) -> AsyncIterator[str]:
    async for token in tokens(count, pause):
        yield token


@app.get("/{name}", response_class=EventSourceResponse)
async def followed(name: str, count: int, pause: float = 0) -> Subscription[str]:
    run = await runs[name].start(tokens(count, pause))
    return run.follow()
