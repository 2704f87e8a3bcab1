"""Threads that do not keep the interpreter from exiting, in which `anyio.from_thread` works.

Trio's own worker threads are daemons. anyio's on asyncio are not, and nothing public lets another
thread be one; so a thread of ours says by the same function as anyio's that it is one. If a future
anyio has none, `anyio.from_thread` raises there what it raises in any other thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import anyio
import anyio.to_thread

from .._runtime.loops import current_token, on_asyncio

try:
    from anyio._core import _eventloop

    _needed = ("claim_worker_thread", "get_async_backend", "threadlocals")
    _anyio: Any = _eventloop if all(hasattr(_eventloop, each) for each in _needed) else None
except ImportError:
    _anyio = None


class Worker:
    """One thread that belongs to the event loop in which this object is made.

    Args:
        name: Its name.
        function: What it calls; must not raise.
        failed: Called with the error in place of `function` if the thread cannot be started
            and `start` could not say so.
    """

    def __init__(
        self, name: str, function: Callable[[], object], failed: Callable[[BaseException], object]
    ) -> None:
        self._name = name
        self._function = function
        self._failed = failed
        self._token = current_token()
        self._on_asyncio = on_asyncio()
        self._backend: Any = _anyio and _anyio.get_async_backend()
        self._scope: Any = anyio.CancelScope()
        if self._on_asyncio and hasattr(self._scope, "_tasks"):
            self._scope._tasks = _Calls(self._is_cancelled)
        self._cancelled = False

    def start(self) -> None:
        """Starts it, from any thread.

        Raises:
            RuntimeError: there cannot be another thread, or the event loop has ended.
        """
        if self._on_asyncio:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        else:
            self._token.run_sync_soon(self._start_on_trio)

    def cancel(self) -> None:
        """Cancels what the thread awaits in the event loop, now or later, each call once; to be
        called in that. From then on `anyio.from_thread.check_cancelled` raises."""
        if on_asyncio():
            # Entered only now, it is the scope of nothing but the thread's calls.
            with self._scope:
                self._scope.cancel()
        else:
            self._scope.cancel()
        self._cancelled = True

    def _is_cancelled(self) -> bool:
        return self._cancelled

    def _run(self) -> None:
        with self._claimed():
            self._function()

    def _claimed(self) -> AbstractContextManager[Any]:
        if self._backend is None:
            return nullcontext()
        _anyio.threadlocals.current_cancel_scope = self._scope
        claimed: AbstractContextManager[Any] = _anyio.claim_worker_thread(
            self._backend, self._token
        )
        return claimed

    def _start_on_trio(self) -> None:
        import trio

        try:
            trio.lowlevel.spawn_system_task(self._run_on_trio)
        except RuntimeError as error:
            self._failed(error)

    async def _run_on_trio(self) -> None:
        if self._cancelled:
            self._failed(CancelledError())
            return
        try:
            with self._scope:
                # The task does not wait for a thread that is cancelled.
                await anyio.to_thread.run_sync(
                    self._function, abandon_on_cancel=True, limiter=_NO_LIMIT
                )
        except RuntimeError as error:
            self._failed(error)


class _Calls(set[Any]):
    """The tasks in which the calls of a thread run, as a scope of anyio's on asyncio keeps them.

    The scope has been left when a call begins after the cancellation, and would not hear of it.
    """

    def __init__(self, is_cancelled: Callable[[], bool]) -> None:
        self._is_cancelled = is_cancelled

    def add(self, task: Any, /) -> None:
        super().add(task)
        if self._is_cancelled():
            task.cancel()


class _NoLimit:
    """A limiter that limits nothing, and is no checkpoint: a thread starts or fails to."""

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        pass

    def release_on_behalf_of(self, borrower: object) -> None:
        pass


_NO_LIMIT: Any = _NoLimit()
