"""The application of the benchmarks of channels: the same events for many clients, by contender.

`/{contender}` streams, and a POST to it publishes:

- `sserpent`: a channel;
- `queues`: sserpent's generators, each with a queue, as one had to write it before;
- `fastapi`, `sse-starlette` and `hand` (`StreamingResponse`, framed once): the same with theirs;
- `loop`: no generator and no queue, a loop awaits each client's `send`: the least that is possible
  through ASGI.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import fastapi.sse
import sse_starlette
from fastapi import FastAPI
from fastapi.responses import Response, StreamingResponse

import sserpent
from benches.core.payloads import ITEM, Item
from sserpent.channels import Channels, Subscription

MEDIA_TYPE = "text/event-stream"
app = FastAPI(openapi_url=None)
channel = Channels().channel("bench", Item)
to_json = Item.__pydantic_serializer__.to_json


class Queues:
    """What everyone writes who has no channels."""

    def __init__(self) -> None:
        self.queues: set[asyncio.Queue[Any]] = set()

    async def stream(self) -> AsyncIterator[Any]:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self.queues.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self.queues.discard(queue)

    def publish(self, item: Any) -> None:
        for queue in self.queues:
            queue.put_nowait(item)


class Loop(Response):
    """A client of the loop: it waits until its client leaves."""

    sends: set[Any] = set()  # noqa: RUF012

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", MEDIA_TYPE.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b": ready\n", "more_body": True})
        self.sends.add(send)
        try:
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            self.sends.discard(send)

    @classmethod
    async def publish(cls, frame: bytes) -> None:
        for send in list(cls.sends):
            await send({"type": "http.response.body", "body": frame, "more_body": True})


def framed() -> bytes:
    return b"data: %b\n\n" % to_json(ITEM)


queues = {name: Queues() for name in ("queues", "fastapi", "sse-starlette", "hand")}


def sserpent_response(content: Any) -> Any:
    return sserpent.EventSourceResponse(content, open_delay=0)


# What is put into the queues, and what streams what is taken out of them.
by_queue: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "queues": (lambda: ITEM, sserpent_response),
    "sse-starlette": (
        lambda: {"data": to_json(ITEM).decode()},
        sse_starlette.EventSourceResponse,
    ),
    "hand": (framed, lambda content: StreamingResponse(content, media_type=MEDIA_TYPE)),
}


@app.get("/sserpent", response_class=sserpent.EventSourceResponse)
async def by_channel() -> Subscription[Item]:
    return channel.subscribe()


@app.get("/loop")
async def by_loop() -> Response:
    return Loop()


@app.get("/fastapi", response_class=fastapi.sse.EventSourceResponse)
async def by_fastapi() -> AsyncIterator[Item]:
    async for item in queues["fastapi"].stream():
        yield item


@app.get("/{name}")
async def by_returned(name: str) -> Response:
    _, respond = by_queue[name]
    response: Response = respond(queues[name].stream())
    return response


@app.post("/{name}")
async def publish(name: str, count: int = 1) -> None:
    for _ in range(count):
        if name == "sserpent":
            await channel.publish(ITEM)
        elif name == "loop":
            await Loop.publish(framed())
        elif name == "fastapi":
            queues[name].publish(ITEM)
        else:
            make, _ = by_queue[name]
            queues[name].publish(make())


@app.get("/{name}/subscribers")
async def subscribers(name: str) -> int | None:
    """How many clients a publish would reach; None where those who have headers are subscribed."""
    if name == "sserpent":
        return None
    return len(Loop.sends if name == "loop" else queues[name].queues)


@app.post("/{name}/stall")
async def stall(name: str) -> float:
    """Publishes once, and returns for how many milliseconds at most the event loop did not turn
    until all was sent."""
    await publish(name)
    longest, last = 0.0, time.perf_counter()
    for _ in range(200):
        await asyncio.sleep(0)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest * 1e3
