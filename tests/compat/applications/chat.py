"""A chat: what one posts, all who listen get. Written for sse-starlette."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from pydantic import BaseModel
from sse_starlette.sse import EventSourceResponse

logger = logging.getLogger("uvicorn.error")
app = FastAPI()
listeners: dict[str, asyncio.Queue[dict[str, str]]] = {}


class Message(BaseModel):
    author: str
    text: str


def broadcast(event: str, data: str) -> None:
    for queue in listeners.values():
        queue.put_nowait({"event": event, "data": data})


@app.post("/messages")
async def post(message: Message) -> dict[str, int]:
    broadcast("message", json.dumps(message.model_dump()))
    return {"listeners": len(listeners)}


@app.get("/listen/{name}")
async def listen(name: str, request: Request) -> EventSourceResponse:
    queue: asyncio.Queue[dict[str, str]] = asyncio.Queue()

    async def events() -> AsyncIterator[dict[str, str]]:
        listeners[name] = queue
        broadcast("joined", name)
        number = 0
        try:
            while not await request.is_disconnected():
                event = await queue.get()
                number += 1
                yield {**event, "id": f"{name}-{number}"}
        finally:
            del listeners[name]
            broadcast("left", name)

    async def closed(message: object) -> None:
        logger.info("%s has left", name)

    return EventSourceResponse(
        events(),
        ping=15,
        headers={"Cache-Control": "no-store, private"},
        client_close_handler_callable=closed,
    )
