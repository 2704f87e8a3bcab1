"""Threads that do not keep the interpreter from exiting, in which `anyio.from_thread` works.

Trio's own worker threads are daemons. anyio's on asyncio are not, and anyio has no public way to
register a thread of ours. So it is registered by the private function that anyio calls for its own,
with `_Backend` as its event loop. If a future anyio lacks that function, `anyio.from_thread` raises
in the thread what it raises in any other, and on Trio what it awaits is not cancelled.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import anyio

from .._runtime.loops import current_token, on_asyncio

try:
    from anyio._core import _eventloop

    _needed = ("claim_worker_thread", "get_async_backend")
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
        is_tidying_up: Asked in the event loop, while the thread waits for it: returns whether what
            it waits for belongs to its cleanup.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[], object],
        failed: Callable[[BaseException], object],
        is_tidying_up: Callable[[], bool],
    ) -> None:
        self._name = name
        self._function = function
        self._failed = failed
        self._is_tidying_up = is_tidying_up
        self._token = current_token()
        self._on_asyncio = on_asyncio()
        self._cancellation = anyio.get_cancelled_exc_class()
        #: anyio's for this event loop, if `anyio.from_thread` works.
        self.backend: Any = _anyio and _anyio.get_async_backend()
        # On Trio, of the task that waits for the thread.
        self._scope: Any = None if self._on_asyncio else anyio.CancelScope()
        # Cancels what the thread awaits now.
        self._cancel_call: Callable[[], object] | None = None
        self._cancelled = False
        self._is_due = False  # a cancellation, which no call has got yet
        self._is_cut_off = False
        self._has_cancelled = False  # the thread has been given a cancellation

    # Called in the event loop, `start` in any thread

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
        """Cancels what the thread awaits in the event loop, now or else the next time: once, as
        asyncio cancels a task, so that its cleanup may await. What belongs to that already is left
        alone. From then on `anyio.from_thread.check_cancelled` raises."""
        self._cancelled = self._is_due = True
        self._cancel_what_is_due()
        if self._scope is not None:
            self._scope.cancel()

    def cut_off(self) -> None:
        """Cancels whatever the thread awaits from now on: nobody waits for its cleanup any more."""
        self._is_cut_off = True
        self.cancel()

    def _cancel_what_is_due(self) -> None:
        if self._cancel_call is None:
            return
        if self._is_cut_off or (self._is_due and not self._is_tidying_up()):
            self._is_due = False
            self._has_cancelled = True
            self._cancel_call()

    async def call(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Awaits a function for the thread."""
        call = self._call_on_asyncio if self._on_asyncio else self._call_on_trio
        try:
            return await call(function, *args)
        finally:
            self._cancel_call = None

    async def _call_on_asyncio(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        task = asyncio.current_task()
        assert task is not None
        self._cancel_call = task.cancel
        self._cancel_what_is_due()
        return await function(*args)

    async def _call_on_trio(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        cancelled: BaseException | None = None
        with anyio.CancelScope() as scope:
            self._cancel_call = scope.cancel
            self._cancel_what_is_due()
            try:
                return await function(*args)
            except BaseException as error:
                cancelled = error
                raise
        assert cancelled is not None
        try:
            raise cancelled  # in the thread: the scope is none of its own
        finally:
            del cancelled  # its traceback refers to this frame

    async def _run_on_trio(self) -> None:
        import trio

        if self._cancelled:
            self._has_cancelled = True
            self._failed(CancelledError())
            return
        try:
            with self._scope:
                # The task does not wait for a thread that is cancelled.
                await trio.to_thread.run_sync(self._run, abandon_on_cancel=True, limiter=_NO_LIMIT)
        except RuntimeError as error:
            self._failed(error)

    def _start_on_trio(self) -> None:
        import trio

        try:
            trio.lowlevel.spawn_system_task(self._run_on_trio)
        except RuntimeError as error:
            self._failed(error)

    # Called in the thread

    def _run(self) -> None:
        with self._claimed():
            self._function()

    def _claimed(self) -> AbstractContextManager[Any]:
        if self.backend is None:
            return nullcontext()
        claimed: AbstractContextManager[Any] = _anyio.claim_worker_thread(
            _Backend(self), self._token
        )
        return claimed

    def check_cancelled(self) -> None:
        """Raises a cancellation if there was one."""
        if self._cancelled:
            self._has_cancelled = True
            if self._on_asyncio:
                raise self._cancellation(f"{self._name} is to end")
        if not self._on_asyncio:
            self.backend.check_cancelled()

    def has_caused(self, error: BaseException) -> bool:
        """Returns whether an error is a cancellation that the thread was given."""
        return self._has_cancelled and isinstance(error, (self._cancellation, CancelledError))


class _Backend:
    """anyio's backend, as the thread of a worker sees it: what is awaited can be cancelled."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker.backend, name)

    def check_cancelled(self) -> None:
        self._worker.check_cancelled()

    def run_async_from_thread(
        self, function: Callable[..., Any], args: tuple[Any, ...], *rest: Any, **more: Any
    ) -> Any:
        worker = self._worker
        return worker.backend.run_async_from_thread(worker.call, (function, *args), *rest, **more)


class _NoLimit:
    """A limiter that limits nothing, and is no checkpoint: a thread starts or fails to."""

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        pass

    def release_on_behalf_of(self, borrower: object) -> None:
        pass


_NO_LIMIT: Any = _NoLimit()
