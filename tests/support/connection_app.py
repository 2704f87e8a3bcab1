"""A plain ASGI application that has its connections closed and aborted. Each path is one way."""

import os
import time
from typing import Any

import anyio
import anyio.lowlevel

from delivery_app import note
from sserpent import _shutdown

LARGE = b"x" * 20_000_000


class Stream:
    def shut_down(self) -> None:
        pass


# As a middleware may pass the scope on.
COPIES = {
    "same": lambda scope: scope,
    "copied": dict,
    "headers-copied": lambda scope: {**scope, "headers": list(scope["headers"])},
}


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        for _ in ("startup", "shutdown"):
            await send({"type": f"{(await receive())['type']}.complete"})
        return
    _, way, copy = scope["path"].split("/")
    start = {"type": "http.response.start", "status": 200, "headers": []}
    note(f"pid {os.getpid()}")
    stream = Stream()
    streams = _shutdown.opened(stream, scope)
    scope = COPIES[copy](scope)
    try:
        await send(start)
        await {"close": close, "abort": abort}[way](streams, scope, receive, send)
    finally:
        _shutdown.closed(stream, streams)
        note("ended")


def body(data: bytes) -> Any:
    return {"type": "http.response.body", "body": data, "more_body": True}


async def close(streams: Any, scope: Any, receive: Any, send: Any) -> None:
    """Writes a lot, and closes before it can have gone out."""
    await send(body(b"data: 1\n\n"))
    await send(body(LARGE))
    note(f"close {streams.close_connection(scope)}")
    while (await receive())["type"] != "http.disconnect":
        pass


async def abort(streams: Any, scope: Any, receive: Any, send: Any) -> None:
    """Sends to a client that does not read, and aborts once that waits."""
    sending_since: float | None = None
    left = anyio.Event()

    async def send_until_it_leaves() -> None:
        nonlocal sending_since
        await send(body(b"data: 1\n\n"))
        try:
            while not left.is_set():
                sending_since = time.monotonic()
                await send(body(LARGE))
                # Once the connection is gone, a server's `send` may not wait any more.
                await anyio.lowlevel.checkpoint()
        except Exception as error:
            note(f"send failed: {type(error).__name__}")

    async def wait_until_it_leaves() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        note("left")
        left.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send_until_it_leaves)
        tasks.start_soon(wait_until_it_leaves)
        while sending_since is None or time.monotonic() - sending_since < 0.2:
            await anyio.sleep(0.01)
        note(f"abort {streams.abort_connection(scope)}")
