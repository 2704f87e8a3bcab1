"""The same jobs on sserpent's own API."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from sserpent import EventSourceResponse, ServerSentEvent

finished: list[str] = []


async def progress(request: Request) -> EventSourceResponse:
    job = request.path_params["job"]
    begin = int(request.headers.get("Last-Event-ID", "0"))

    async def events() -> AsyncIterator[ServerSentEvent[Any]]:
        yield ServerSentEvent(comment=f"job {job}", retry=500)
        for number in range(begin + 1, 4):
            await asyncio.sleep(0.01)
            data = {"percent": number * 25, "step": f"step {number}\nof 4"}
            yield ServerSentEvent(data=data, event="progress", id=str(number))
        yield ServerSentEvent(raw_data="nearly\ndone")
        yield ServerSentEvent(raw_data="all done", event="end", id="4")

    background = BackgroundTask(finished.append, job)
    headers = {"X-Job": job}
    return EventSourceResponse(events(), headers=headers, background=background)


async def log(request: Request) -> EventSourceResponse:
    def lines() -> Iterator[ServerSentEvent[Any]]:
        for number in range(3):
            yield ServerSentEvent(raw_data=f"line {number}", event="log", retry=100)

    return EventSourceResponse(lines(), ping_interval=5)


async def done(request: Request) -> JSONResponse:
    return JSONResponse(finished)


app = Starlette(
    routes=[
        Route("/jobs/{job}", progress),
        Route("/jobs/{job}/log", log),
        Route("/finished", done),
    ]
)
