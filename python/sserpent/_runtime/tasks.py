"""Tasks that belong to the event loop, not to the request that starts them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from .loops import on_asyncio

# An event loop refers to its tasks weakly.
_running: set[asyncio.Task[Any]] = set()


def spawn(function: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> Callable[[], object]:
    """Starts a task in the running event loop, and returns what cancels it. The function must not
    raise, and bound its own time."""
    if on_asyncio():
        task = asyncio.get_running_loop().create_task(function(*args))
        _running.add(task)
        task.add_done_callback(_running.discard)
        return task.cancel
    import trio

    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            await function(*args)

    trio.lowlevel.spawn_system_task(run)
    return scope.cancel


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancels tasks and waits until they have ended. Again and again: before Python 3.12
    `asyncio.wait_for` loses a cancellation that comes when what it waits for has just ended."""
    try:
        while pending := [task for task in tasks if not task.done()]:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=1)
    finally:
        for task in tasks:
            # An error that nobody asks for is logged when the task is collected.
            if task.done():
                _take_error(task)
            else:
                task.add_done_callback(_take_error)


def _take_error(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()
