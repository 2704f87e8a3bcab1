"""Streams whose `receive` does not say that the client has left."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import anyio
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sserpent import EventSourceResponse
from sserpent._shutdown import streams

streams._LOOKS_BETWEEN = 2  # connections are looked at twice a second, not each 10 s


class Deaf:
    """A middleware whose `receive` gives the body, and then waits for ever."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_read = scope["type"] != "http" or scope["query_string"] != b"deaf"

        async def receive_body() -> Message:
            nonlocal is_read
            if not is_read:
                is_read = True
                return await receive()
            await anyio.sleep_forever()
            raise AssertionError

        await self.app(scope, receive if is_read else receive_body, send)


class Response(EventSourceResponse):
    ping_interval = float(os.environ.get("SSERPENT_PING", "15"))

    async def on_disconnect(self) -> None:
        print("told")


app = FastAPI()
app.add_middleware(Deaf)


@app.get("/idle", response_class=Response)
async def idle() -> AsyncIterator[Any]:
    try:
        yield "opened"
        await anyio.sleep_forever()
    finally:
        print("closed")


@app.get("/ticking", response_class=Response)
async def ticking() -> AsyncIterator[Any]:
    try:
        while True:
            yield "tick"
            await anyio.sleep(0.05)
    finally:
        print("closed")
