"""The same proxy on sserpent's own API."""

import os
from collections.abc import AsyncIterator

import httpx
from fastapi import FastAPI

from sserpent import EventSourceResponse, ServerSentEvent

UPSTREAM = os.environ["UPSTREAM"]
app = FastAPI()


async def read_upstream(path: str) -> AsyncIterator[bytes]:
    try:
        async with (
            httpx.AsyncClient(timeout=None) as client,
            client.stream("GET", f"{UPSTREAM}/{path}") as response,
        ):
            async for chunk in response.aiter_bytes():
                yield chunk
    finally:
        print("upstream closed:", path)


@app.get("/{path}")
async def pass_on(path: str) -> EventSourceResponse:
    return EventSourceResponse(
        read_upstream(path),
        framed=True,
        ping_interval=1,
        ping_event=lambda: ServerSentEvent(event="ping", raw_data=path),
        send_timeout=1,
        open_delay=0,
    )
