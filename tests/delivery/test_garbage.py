"""D7: nothing of a stream waits for the garbage collector."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from asgi import Connection
from sserpent import EventSourceResponse


async def endless() -> AsyncIterator[str]:
    yield "a"
    await asyncio.sleep(3600)


async def at_its_yield() -> AsyncIterator[str]:
    while True:
        yield "a" * 10_000


async def finite() -> AsyncIterator[str]:
    yield "a"
    await asyncio.sleep(0.001)


async def failing() -> AsyncIterator[str]:
    yield "a"
    raise LookupError


async def stream(content: Any, leave: str) -> None:
    connection = Connection()

    async def run() -> None:
        with contextlib.suppress(LookupError):
            await connection.run(EventSourceResponse(content, send_timeout=0.01))

    task = asyncio.create_task(run())
    await connection.until(lambda: connection.bodies)
    if leave == "disconnect":
        connection.disconnect()
    elif leave == "stall":
        connection.stall()
    elif leave == "cancel":
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("content", "leave"),
    [
        (finite, "at the end"),
        (failing, "at the end"),
        (endless, "disconnect"),
        (at_its_yield, "disconnect"),
        (at_its_yield, "stall"),
        (endless, "cancel"),
    ],
)
def test_d7_nothing_of_a_stream_waits_for_the_garbage_collector(content: Any, leave: str) -> None:
    async def count() -> int:
        for _ in range(3):  # what is made once
            await stream(content(), leave)
        gc.collect()
        gc.disable()
        try:
            for _ in range(10):
                await stream(content(), leave)
            await asyncio.sleep(0)
            return gc.collect()
        finally:
            gc.enable()

    assert asyncio.run(count()) == 0
