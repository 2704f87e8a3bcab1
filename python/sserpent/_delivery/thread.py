"""Sync generators: each runs in a thread of its own, never in the pool that sync routes share.

The thread pushes into the stream's buffer and notifies the event loop once for whatever has
gathered, so that a fast generator costs a hop for each batch, not for each item, and an event is
on its way as soon as it is yielded, even if the next `next()` blocks.
"""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .._core import Buffer
from .options import Streamable

CallSoon = Callable[[Callable[[], object]], object]


class _Slots:
    """How many generator threads may run in this process; further streams wait in line."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._waiting: deque[Callable[[], object]] = deque()

    def acquire(self, limit: int, begin: Callable[[], object]) -> None:
        """Calls `begin` as soon as there is a slot, now or from the thread that frees one."""
        with self._lock:
            if self._running >= limit:
                self._waiting.append(begin)
                return
            self._running += 1
        begin()

    def forget(self, begin: Callable[[], object]) -> bool:
        """Leaves the line; False if `begin` was called already."""
        with self._lock:
            try:
                self._waiting.remove(begin)
            except ValueError:
                return False
            return True

    def release(self) -> None:
        with self._lock:
            if not self._waiting:
                self._running -= 1
                return
            begin = self._waiting.popleft()
        begin()


_slots = _Slots()


class GeneratorThread:
    """Drives one sync iterator from first item to close, in one thread."""

    def __init__(
        self,
        content: Iterable[Any],
        buffer: Buffer,
        options: Streamable,
        explain: Callable[[Exception, object], Exception],
    ) -> None:
        self._content = content
        self._buffer = buffer
        self._options = options
        self._explain = explain
        self._stopped = False
        self._error: BaseException | None = None
        self._notified = False
        self._room = threading.Event()
        self.finished = False

    # Called in the event loop

    def start(self, call_soon: CallSoon, wake: Callable[[], object]) -> None:
        """Starts the thread when there is a slot.

        Args:
            call_soon: Schedules a callback in the event loop, from any thread.
            wake: What it schedules when there is something to `take_notice` of.
        """
        self._call_soon = call_soon
        self._wake = wake
        self._context = contextvars.copy_context()
        _slots.acquire(self._options.max_threads, self._begin)

    def take_notice(self) -> bool:
        """To be called before the pending events are taken: whether these are the last."""
        finished = self.finished
        self._notified = False
        return finished

    def resume(self) -> None:
        """Lets a thread go on that waits for pending events to be taken."""
        self._room.set()

    def stop(self) -> None:
        """Asks the thread to end after the `next()` it is in, and to close the generator."""
        self._stopped = True
        self._room.set()
        if _slots.forget(self._begin):
            # It never ran, so there is nothing to clean up but the generator object itself.
            self.finished = True

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    # Called in any thread

    def _begin(self) -> None:
        name = f"sserpent {self._options.origin}"
        threading.Thread(target=self._main, name=name, daemon=True).start()

    # Called in the thread

    def _main(self) -> None:
        try:
            self._context.run(self._drive)
        except BaseException as error:
            self._error = error
        finally:
            _slots.release()
            self.finished = True
            self._notify()

    def _drive(self) -> None:
        iterator = iter(self._content)
        try:
            self._push_all(iterator)
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    def _push_all(self, iterator: Iterator[Any]) -> None:
        push = self._buffer.push
        for item in iterator:
            if self._stopped:
                break
            try:
                due = push(item)
            except Exception as error:
                raise self._explain(error, item) from error.__cause__
            if not self._notified:
                self._notified = True
                self._notify()
            if due:
                self._wait_for_room()

    def _wait_for_room(self) -> None:
        self._room.clear()
        if self._buffer.pending >= self._options.max_pending and not self._stopped:
            self._room.wait()

    def _notify(self) -> None:
        try:
            self._call_soon(self._wake)
        except RuntimeError:
            self._stopped = True  # the event loop is closed: nobody waits for events any more
