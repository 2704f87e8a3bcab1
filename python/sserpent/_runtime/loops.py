"""The caller's event loop, asyncio's or Trio's, as far as this package needs it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator
from types import CoroutineType, FrameType
from typing import Any, cast


def on_asyncio() -> bool:
    """Returns whether the caller runs on asyncio, in a task or a callback, not on Trio."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    # Trio can be a guest of asyncio's loop.
    trio: Any = sys.modules.get("trio")
    return trio is None or asyncio.current_task() is not None or not _runs(trio)


def _runs(trio: Any) -> bool:
    try:
        return trio.lowlevel.current_root_task() is not None
    except RuntimeError:
        return False


def current_token() -> Any:
    """Returns what stands for the running event loop: hashable, and weakly referable.

    Raises:
        RuntimeError: there is no event loop.
    """
    if on_asyncio():
        return asyncio.get_running_loop()
    return _trio().lowlevel.current_trio_token()


def is_outside(token: Any) -> bool:
    """Returns whether the caller is not in the event loop that `current_token` has returned: Python
    closes its task, because that event loop has ended without it."""
    try:
        return current_token() is not token
    except RuntimeError:
        return True


def is_cancellation(error: BaseException) -> bool:
    """Returns whether an exception is a cancellation by the running event loop, or a group of
    nothing else, as older releases of Trio have it."""
    inner: Any = getattr(error, "exceptions", None)  # Python 3.10 has no class for groups
    if isinstance(inner, tuple) and inner:
        return all(map(is_cancellation, cast("tuple[BaseException, ...]", inner)))
    return isinstance(error, asyncio.CancelledError if on_asyncio() else _trio().Cancelled)


def current_time() -> float:
    """Returns the time by the clock of the running event loop, also in one of its callbacks."""
    if on_asyncio():
        return asyncio.get_running_loop().time()
    return float(_trio().current_time())


def _trio() -> Any:
    """Returns Trio, which may not be installed, and is imported where it runs."""
    trio = sys.modules.get("trio")
    if trio is None:
        raise RuntimeError("There is no running event loop")
    return trio


def call_soon(token: Any, function: Callable[[], object]) -> None:
    """Calls a function in the event loop of `token`, unless that has ended. May be called from
    any thread, and from a signal handler."""
    schedule = getattr(token, "call_soon_threadsafe", None) or token.run_sync_soon
    try:
        schedule(function)
    except RuntimeError:
        pass  # the event loop has ended


def has_ended(token: Any) -> bool:
    """Returns whether the event loop of `token` is over."""
    if hasattr(token, "is_closed"):
        return bool(token.is_closed())
    try:
        token.run_sync_soon(nothing)
    except RuntimeError:
        return True
    return False


def is_running(token: Any) -> bool:
    """Returns whether the event loop of `token` runs, however long something blocks it."""
    if hasattr(token, "is_running"):
        return bool(token.is_running())
    return not has_ended(token)


def nothing() -> None:
    """Does nothing, where a callback is called for."""


def call_every(seconds: float, function: Callable[[], object]) -> Callable[[], object]:
    """Calls a function again and again in the running event loop, and returns what ends that.

    Raises:
        RuntimeError: there is no event loop.
    """
    return _Repeated(seconds, function).end if on_asyncio() else _repeat_on_trio(seconds, function)


class _Repeated:
    def __init__(self, seconds: float, function: Callable[[], object]) -> None:
        self._seconds = seconds
        self._function = function
        self._schedule()

    def end(self) -> None:
        self._timer.cancel()

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._call)

    def _call(self) -> None:
        # Before the call, which may end the repetition.
        self._schedule()
        self._function()


def _repeat_on_trio(seconds: float, function: Callable[[], object]) -> Callable[[], object]:
    trio = _trio()
    scope = trio.CancelScope()

    async def repeat() -> None:
        with scope:
            while True:
                await trio.sleep(seconds)
                function()

    trio.lowlevel.spawn_system_task(repeat)
    cancel: Callable[[], object] = scope.cancel
    return cancel


def running_frames() -> Iterator[FrameType]:
    """Returns the frames of all coroutines that the tasks of the running event loop are in. Those
    of the running task come first."""
    for coroutine in _coroutines_on_asyncio() if on_asyncio() else _coroutines_on_trio():
        yield from _frames(coroutine)


def _frames(coroutine: Any) -> Iterator[FrameType]:
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None:
            yield frame
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)


def _coroutines_on_asyncio() -> Iterator[Any]:
    running = asyncio.current_task()
    if running is not None:
        yield running.get_coro()
    for task in asyncio.all_tasks():
        if task is not running:
            yield task.get_coro()


def _coroutines_on_trio() -> Iterator[CoroutineType[Any, Any, Any]]:
    import trio

    try:
        running = trio.lowlevel.current_task()
        yield running.coro
    except RuntimeError:
        running = None  # called by Trio itself
    tasks = [trio.lowlevel.current_root_task()]
    while tasks:
        task = tasks.pop()
        if task is not None:
            if task is not running:
                yield task.coro
            tasks.extend(child for nursery in task.child_nurseries for child in nursery.child_tasks)


# An event loop refers to its tasks weakly.
_running: set[asyncio.Task[Any]] = set()


def spawn(function: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> Callable[[], object]:
    """Starts a task in the running event loop, and returns what cancels it. The task begins in a
    later turn. The function must not raise, and bound its own time."""
    if on_asyncio():
        # Not by the event loop's factory, which may have it begin before this returns.
        task = asyncio.Task(function(*args), loop=asyncio.get_running_loop())
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
