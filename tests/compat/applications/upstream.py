"""Another server's streams: one that pauses, and one that has no end."""

import asyncio
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route


async def pausing(request: Request) -> StreamingResponse:
    async def frames() -> AsyncIterator[str]:
        yield "event: begin\ndata: 1\nid: a\n\ndata: two\n\n"
        await asyncio.sleep(1.5)
        yield "event: end\ndata: 3\nid: b\n\n"

    return StreamingResponse(frames(), media_type="text/event-stream")


async def flood(request: Request) -> StreamingResponse:
    async def frames() -> AsyncIterator[str]:
        while True:
            yield f"data: {10_000 * 'x'}\n\n"
            await asyncio.sleep(0)  # or the event loop would never see that its client has left

    return StreamingResponse(frames(), media_type="text/event-stream")


app = Starlette(routes=[Route("/pausing", pausing), Route("/flood", flood)])
