"""A provider whose stream has no end, and which says how many of its clients are there."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
from fastapi import FastAPI

from sserpent import EventSourceResponse, ServerSentEvent

app = FastAPI()
app.state.came = app.state.left = 0


@app.get("/generate", response_class=EventSourceResponse)
@app.post("/generate", response_class=EventSourceResponse)
@app.post("/v1/chat/completions", response_class=EventSourceResponse)
async def generate() -> AsyncIterator[ServerSentEvent]:
    app.state.came += 1
    try:
        while True:
            yield ServerSentEvent(data={"token": "x"})
            await anyio.sleep(0.01)
    finally:
        app.state.left += 1


@app.get("/clients")
async def clients() -> dict[str, int]:
    return {"came": app.state.came, "left": app.state.left}
