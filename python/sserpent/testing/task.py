"""A task for an application, with an owner who ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any

from anyio import CancelScope, Event, move_on_after

from .._runtime.loops import on_asyncio


class Task:
    """Runs a function in a task of its own, on asyncio and Trio.

    No cancel scope of the caller's spans it, so a fixture may open a client in one task and close
    it in another.

    Attributes:
        error: What the function has raised; None while it runs, after it has returned, and after it
            was cancelled.
    """

    def __init__(self, function: Callable[[], Awaitable[object]]) -> None:
        self.error: BaseException | None = None
        self._function = function
        self._scope = CancelScope()
        self._ended = Event()
        # An event loop refers to its tasks weakly.
        self._task = _start(self._run)

    async def _run(self) -> None:
        try:
            with self._scope:
                await self._function()
        except BaseException as error:
            # For the owner: a task that raises would end Trio, or be logged by asyncio.
            self.error = error
        finally:
            self._ended.set()

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._ended.is_set()

    def cancel(self) -> None:
        """Cancels it."""
        self._scope.cancel()

    async def wait(self) -> None:
        """Waits for its end."""
        await self._ended.wait()

    async def has_ended(self, within: float) -> bool:
        """Waits for its end for some seconds, and returns whether it came."""
        with move_on_after(within):
            await self._ended.wait()
        return self.ended


def _start(run: Callable[[], Any]) -> object:
    if on_asyncio():
        return asyncio.get_running_loop().create_task(run())
    import trio

    return trio.lowlevel.spawn_system_task(run, context=copy_context())
