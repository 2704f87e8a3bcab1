"""Counts the bytes that one idle subscriber holds: `python -m benches.channels.held`.

There is no server, so that what is left is ours: a coroutine and a future here stand for those of
the server. The table in docs/architecture.md is made of this.
"""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from pathlib import Path
from typing import Any

import sserpent
from sserpent.channels import Channels

CLIENTS = 1_000
SCOPE = {"type": "http", "method": "GET", "path": "/", "headers": []}
PACKAGE = Path(sserpent.__file__).parent


async def subscribed(count: int) -> dict[str, float]:
    """Returns how many bytes were allocated by each line, for each of so many subscribers."""
    async with Channels() as channels:
        news = channels.channel("news")
        gone = asyncio.Event()
        opened = asyncio.Semaphore(0)

        async def receive() -> Any:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                opened.release()

        async def subscribe(clients: int) -> list[asyncio.Task[None]]:
            streams = [news.subscribe() for _ in range(clients)]
            tasks = [asyncio.ensure_future(each(SCOPE, receive, send)) for each in streams]
            for _ in tasks:
                await opened.acquire()
            return tasks

        warm = await subscribe(50)
        gc.collect()
        tracemalloc.start(1)
        before = tracemalloc.take_snapshot()
        tasks = await subscribe(count)
        gc.collect()
        found = tracemalloc.take_snapshot().compare_to(before, "lineno")
        tracemalloc.stop()
        gone.set()
        await asyncio.gather(*warm, *tasks)
    return {_place(each.traceback[0]): each.size_diff / count for each in found}


def _place(frame: tracemalloc.Frame) -> str:
    path = Path(frame.filename)
    if path.is_relative_to(PACKAGE):
        return f"{path.relative_to(PACKAGE)}:{frame.lineno}"
    return f"elsewhere: {path.name}:{frame.lineno}"


def main() -> None:
    held = asyncio.run(subscribed(CLIENTS))
    for place, size in held.items():
        if size >= 8:
            print(f"{size:8.0f}  {place}")
    ours = sum(size for place, size in held.items() if not place.startswith("elsewhere"))
    print(f"{ours:8.0f}  ours, of {sum(held.values()):.0f}")


if __name__ == "__main__":
    main()
