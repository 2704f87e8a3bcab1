"""An endless stream that counts what becomes of it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import anyio
from fastapi import FastAPI, Request

from sserpent import EventSourceResponse, ServerSentEvent


class Feed:
    """An endless stream, and what becomes of its generators."""

    def __init__(self, **options: Any) -> None:
        self.asked_for: list[str | None] = []
        self.yielded = 0
        self.cleaned_up = 0
        self.app = FastAPI()
        response_class = type("Response", (EventSourceResponse,), options)
        self.app.get("/events", response_class=response_class)(self.events)
        self.app.get("/idle", response_class=response_class)(self.idle)

    async def events(self, request: Request) -> AsyncIterator[ServerSentEvent]:
        last = request.headers.get("last-event-id")
        self.asked_for.append(last)
        try:
            for number in range(int(last or "0") + 1, sys.maxsize):
                self.yielded = number
                yield ServerSentEvent(data={"number": number}, id=str(number))
                await anyio.sleep(0.001)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
            self.cleaned_up += 1

    async def idle(self) -> AsyncIterator[ServerSentEvent]:
        yield ServerSentEvent(data="first", event="hello")
        await anyio.sleep_forever()
