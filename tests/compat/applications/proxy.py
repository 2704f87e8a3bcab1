"""Passes on the stream of another server, with pings while that is silent. Written for
sse-starlette."""

import os
from functools import partial
from typing import Any

import anyio
import httpx
from fastapi import FastAPI
from sse_starlette import EventSourceResponse, ServerSentEvent

UPSTREAM = os.environ["UPSTREAM"]
app = FastAPI()


async def read_upstream(path: str, channel: Any) -> None:
    async with channel:
        try:
            async with (
                httpx.AsyncClient(timeout=None) as client,
                client.stream("GET", f"{UPSTREAM}/{path}") as response,
            ):
                async for chunk in response.aiter_bytes():
                    await channel.send(chunk)
        finally:
            print("upstream closed:", path)


@app.get("/{path}")
async def pass_on(path: str) -> EventSourceResponse:
    send, receive = anyio.create_memory_object_stream[bytes](1)
    return EventSourceResponse(
        receive,
        data_sender_callable=partial(read_upstream, path, send),
        ping=1,
        ping_message_factory=lambda: ServerSentEvent(event="ping", data=path),
        send_timeout=1,
    )
