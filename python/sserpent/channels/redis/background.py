"""An event loop in a thread of its own, for processes without an application that runs one: a
script, a worker of a queue, a WSGI server."""

from __future__ import annotations

import asyncio
import atexit
import os
import socket
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import wait
from typing import Any

from ..._runtime.loops import nothing

_lock = threading.Lock()
_current: Background | None = None
# Those of the parent of a process that was forked. What they have belongs to the parent: to collect
# them would take its connections out of its event loop.
_inherited: list[object] = []


def background(close: Callable[[], Coroutine[Any, Any, None]], bound: float) -> Background:
    """Returns the background of this process. The first use starts it.

    Args:
        close: Called in its event loop when the process ends, to send what was accepted.
        bound: After how many seconds to wait no longer for that.
    """
    global _current
    with _lock:
        if _current is None or not _current.add(close, bound):
            _current = Background(_current)
            _current.add(close, bound)
        return _current


class Background:
    """An event loop in a thread. It ends when the main thread has ended, and what was accepted is
    sent, or has failed.

    Args:
        before: The one before it, which is ending: what was published there comes first.

    Attributes:
        loop: That.
    """

    def __init__(self, before: Background | None) -> None:
        self.loop = _Loop()
        self._wait_before = nothing if before is None else before.wait
        self._closing: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._bound = 0.0
        self._is_ending = False
        # A thread that hangs in the system's resolver must not hold the process up.
        self._thread = threading.Thread(target=self._run, name="sserpent", daemon=True)
        self._thread.start()
        # It is no daemon, so the interpreter waits for it; also in a child of multiprocessing,
        # where functions of atexit are not called.
        self._end_thread = threading.Thread(target=self._end, name="sserpent-end", daemon=False)
        self._end_thread.start()

    def add(self, close: Callable[[], Coroutine[Any, Any, None]], bound: float) -> bool:
        """Registers a function to call at the end, and returns whether there is still time for
        it."""
        if self._is_ending or self.loop.is_closed():
            return False
        if close not in self._closing:
            self._closing.append(close)
        self._bound = max(self._bound, bound)
        return True

    def _run(self) -> None:
        self._wait_before()
        self.loop.run_forever()
        self.loop.close()

    def _end(self) -> None:
        threading.main_thread().join()
        self._wait_before()
        with _lock:
            self._is_ending = True
        closing = asyncio.run_coroutine_threadsafe(self._close(), self.loop)
        wait([closing], self._bound)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(1)

    async def _close(self) -> None:
        await asyncio.gather(*[close() for close in self._closing], return_exceptions=True)

    def wait(self) -> None:
        """Waits until it has ended."""
        self._end_thread.join(self._bound + 1)


class _Loop(asyncio.SelectorEventLoop):
    """Resolves names also while the interpreter ends: no executor takes any more work then."""

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        try:
            return await super().getaddrinfo(host, port, **options)
        except RuntimeError:
            return socket.getaddrinfo(host, port, **options)


def keep_for_the_parent(thing: object) -> None:
    """Keeps, in a process that was forked, what belongs to its parent."""
    _inherited.append(thing)


def _begin_anew() -> None:
    global _lock, _current
    _lock = threading.Lock()
    keep_for_the_parent(_current)
    _current = None


@atexit.register
def _wait() -> None:
    """Waits until the events are sent that other functions of atexit have published."""
    if _current is not None:
        _current.wait()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
