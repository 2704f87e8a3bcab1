"""The same chat on sserpent's own API."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from sserpent import EventSourceResponse, ServerSentEvent

logger = logging.getLogger("uvicorn.error")
app = FastAPI()
listeners: dict[str, asyncio.Queue[dict[str, Any]]] = {}


class Message(BaseModel):
    author: str
    text: str


def broadcast(event: str, **content: Any) -> None:
    for queue in listeners.values():
        queue.put_nowait({"event": event, **content})


@app.post("/messages")
async def post(message: Message) -> dict[str, int]:
    broadcast("message", data=message)
    return {"listeners": len(listeners)}


@app.get("/listen/{name}")
async def listen(name: str) -> EventSourceResponse:
    queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def events() -> AsyncIterator[ServerSentEvent]:
        listeners[name] = queue
        broadcast("joined", raw_data=name)
        number = 0
        try:
            while True:
                event = await queue.get()
                number += 1
                yield ServerSentEvent(**event, id=f"{name}-{number}")
        finally:
            del listeners[name]
            broadcast("left", raw_data=name)

    def closed() -> None:
        logger.info("%s has left", name)

    return EventSourceResponse(
        events(),
        headers={"Cache-Control": "no-store, private"},
        on_disconnect=closed,
        open_delay=0,
    )
