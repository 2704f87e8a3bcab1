"""Streams of `sserpent.compat.sse_starlette` and of `sse-starlette`, on a server."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from typing import Any

import anyio
import sse_starlette
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from sserpent.compat import sse_starlette as compat


async def items() -> AsyncIterator[Any]:
    yield "text"
    yield {"data": "a\nb", "event": "e", "id": 5 * "1", "retry": 3}
    yield b": ready\r\n"


async def ours(request: Request) -> Any:
    return compat.EventSourceResponse(items())


async def theirs(request: Request) -> Any:
    return sse_starlette.EventSourceResponse(items())


async def closing(request: Request) -> Any:
    async def closed(message: Any) -> None:
        print("closed by", message["type"])

    async def silent() -> AsyncIterator[Any]:
        yield "open"
        await anyio.sleep_forever()

    return compat.EventSourceResponse(silent(), client_close_handler_callable=closed)


async def graceful(request: Request) -> Any:
    shutdown = anyio.Event()

    async def polite() -> AsyncIterator[Any]:
        yield "open"
        await shutdown.wait()
        await anyio.sleep(0.1)
        yield "bye"

    return compat.EventSourceResponse(polite(), shutdown_event=shutdown, shutdown_grace_period=10)


async def undrained(request: Request) -> Any:
    compat.AppStatus.disable_automatic_graceful_drain()
    signal.signal(signal.SIGUSR1, lambda *_: setattr(compat.AppStatus, "should_exit", True))
    return await closing(request)


app = Starlette(
    routes=[
        Route(f"/{each.__name__}", each) for each in (ours, theirs, closing, graceful, undrained)
    ]
)
