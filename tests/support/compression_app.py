"""The application whose compressed streams real clients read.

`end` says how a stream ends: "whole", "untold" (gzip's end is missing, as of a server that writes
its own) or "cut" (so is the end of the body).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from sserpent import EventSourceResponse, ServerSentEvent
from sserpent._delivery.compression import Window
from sserpent.channels import Channels, LastEventID

channels = Channels()
numbers = channels.channel("numbers", int, keyed=True, history=1_000)
app = FastAPI(lifespan=channels.lifespan)
told: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)


class CutError(Exception):
    """Breaks the connection of the stream that raises it."""


class Untold(Window):
    def end(self, last: bytes) -> bytes:
        return self.say(last) if last else b""


class Compressed(EventSourceResponse):
    compress = True
    ping_interval = 0.1


class WithoutEnd(Compressed):
    def _make_compression(self, plain: Any) -> Any:
        return Untold(plain)


@app.get("/", response_class=HTMLResponse)
async def page() -> str:
    return "<!doctype html><meta charset=utf-8><link rel=icon href=data:><title>test</title>"


async def steps(key: str, end: str) -> AsyncIterator[ServerSentEvent]:
    """Each event waits for the client to tell that it has the one before."""
    for number in range(5):
        yield ServerSentEvent(data=number, retry=60_000)
        await told[f"{key}-{number}"].wait()
    if end == "cut":
        raise CutError


@app.get("/steps/{end}/{key}")
async def stream(end: str, key: str) -> EventSourceResponse:
    return (WithoutEnd if end == "untold" else Compressed)(steps(key, end))


@app.post("/told/{key}/{number}")
async def tell(key: str, number: int) -> None:
    told[f"{key}-{number}"].set()


@app.get("/numbers/{key}")
async def follow(key: str, last_event_id: LastEventID = None) -> EventSourceResponse:
    return numbers.subscribe(
        key=key, after=last_event_id, compress=True, ping_interval=0.2, max_duration=1.5
    )


@app.post("/numbers/{key}/{number}")
async def publish(key: str, number: int) -> None:
    await numbers.publish(number, key=key)
