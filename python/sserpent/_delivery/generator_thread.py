"""Sync generators: each runs in a thread of its own, never in the pool that sync routes share.

The thread pushes into the stream's buffer, or to what gathers the events of a run, and notifies the
event loop once for whatever has gathered, so that a fast generator costs a hop for each batch, not
for each item, and an event is on its way as soon as it is yielded, even if the next `next()`
blocks.

`from_thread` has how the thread is started, and how it calls back into the event loop.
"""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary, WeakSet

from .._runtime.log import logger
from .from_thread import Worker
from .in_finally import is_in_finally
from .options import Streamable, sets

CallSoon = Callable[[Callable[[], object]], object]


class ThreadSlots:
    """How many generator threads a class of responses, or all of some runs, have; further ones wait
    in line."""

    def __init__(self) -> None:
        with _slots_lock:
            _all_slots.add(self)
        self._lock = threading.Lock()
        self.running = 0
        self._waiting: deque[GeneratorThread] = deque()
        self._told = False

    def acquire(self, thread: GeneratorThread, limit: int) -> None:
        """Begins a thread as soon as there is a slot, now or from the thread that frees one."""
        with self._lock:
            if waits := self.running >= limit:
                self._waiting.append(thread)
            else:
                self.running += 1
            tell = waits and not self._told
            self._told = self._told or waits
        if tell:
            logger.warning(
                "All of max_threads (%d) sync generators are running: others wait", limit
            )
        if not waits and not thread.begin():
            self.release()

    def forget(self, thread: GeneratorThread) -> bool:
        """Leaves the line; False if the thread has begun already."""
        with self._lock:
            try:
                self._waiting.remove(thread)
            except ValueError:
                return False
            return True

    def release(self) -> None:
        """Passes the slot on to the first in line that can begin."""
        while True:
            with self._lock:
                if not self._waiting:
                    self.running -= 1
                    return
                thread = self._waiting.popleft()
            if thread.begin():
                return


_all_slots: WeakSet[ThreadSlots] = WeakSet()
_slots: WeakKeyDictionary[type[Streamable], ThreadSlots] = WeakKeyDictionary()
_slots_lock = threading.RLock()


def running_threads() -> int:
    """Returns how many threads run in this process."""
    with _slots_lock:
        return sum(slots.running for slots in _all_slots)


class ThreadOptions(NamedTuple):
    """The bounds of a generator's thread.

    Attributes:
        name: Whose thread it is, for its name and the log.
        slots: Where it is counted.
        max_threads: How many there may be of these.
        max_pending: How many bytes of events may wait before the generator has to.
        keeps_last: Whether what it yields in the step in which it is stopped is still taken.
    """

    name: object
    slots: ThreadSlots
    max_threads: int
    max_pending: int
    keeps_last: bool = False


def options_of(response: Streamable) -> ThreadOptions:
    """Returns those of a response. It is counted with the others of the class that sets
    `max_threads`, and with those of its subclasses that do not."""
    with _slots_lock:
        owner = sets(response, "max_threads")
        slots = _slots.get(owner)
        if slots is None:
            slots = _slots[owner] = ThreadSlots()
    return ThreadOptions(response._origin, slots, response.max_threads, response.max_pending)


class Pushed(Protocol):
    """Takes what a generator yields: called in its thread."""

    @property
    def pending(self) -> int:
        """How many bytes wait to be taken."""
        ...

    def push(self, item: Any, /) -> bool:
        """Takes an item, and returns whether to look if there is room for more."""
        ...


class GeneratorThread:
    """Drives one sync iterator from first item to close, in one thread."""

    def __init__(
        self,
        content: Iterable[Any],
        buffer: Pushed,
        options: ThreadOptions,
        explain: Callable[[Exception, object], Exception],
    ) -> None:
        self._content = content
        self._buffer = buffer
        self._options = options
        self._explain = explain
        self._iterator: Iterator[Any] | None = None
        self._closing = False  # the generator's `close` has been called
        self._stopped = False
        self._error: BaseException | None = None
        self._notified = False
        self._room = threading.Event()
        self.finished = False
        #: The error of an item that cannot be encoded, as soon as there is one.
        self.refusal: Exception | None = None

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
        name = f"sserpent {self._options.name}"
        self._worker = Worker(name, self._main, self._end, self._is_tidying_up)
        self._options.slots.acquire(self, self._options.max_threads)

    def take_notice(self) -> bool:
        """Returns whether the pending events are the last. To be called before they are taken."""
        finished = self.finished
        self._notified = False
        return finished

    def resume(self) -> None:
        """Lets a thread go on that waits for pending events to be taken."""
        self._room.set()

    def stop(self) -> None:
        """Asks the thread to end after the `next()` it is in, and to close the generator. What
        that `next()` awaits through `anyio.from_thread` is cancelled, once, as in a task of
        asyncio: the generator's cleanup may await."""
        if self._stopped or self.finished:
            return
        self._stopped = True
        self._room.set()
        if self._options.slots.forget(self):
            # It never ran, so there is nothing to clean up but the generator object itself.
            self.finished = True
        else:
            self._worker.cancel()

    def cut_off(self) -> None:
        """Stops it, and cancels what its cleanup awaits too: nobody waits for that any more."""
        self.stop()
        if not self.finished:
            self._worker.cut_off()

    def _is_tidying_up(self) -> bool:
        return self._closing or is_in_finally(self._iterator)

    def raise_error(self) -> None:
        """Raises what the generator has raised, if anything."""
        if self._error is not None:
            raise self._error

    # Called in any thread

    def begin(self) -> bool:
        """Starts the thread; False if there cannot be another, which ends this stream alone."""
        try:
            self._worker.start()
        except RuntimeError as error:
            self._error = error
            self.finished = True
            self._notify()
            return False
        return True

    # Called in the thread

    def _main(self) -> None:
        error: BaseException | None = None
        try:
            self._context.run(self._drive)
        except BaseException as raised:
            error = raised
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        if not self._stopped:
            self._error = error
        elif error is not None and error is not self.refusal and not self._worker.has_caused(error):
            # The stream is over, and nobody asks for its error.
            logger.error("The cleanup of %s failed", self._options.name, exc_info=error)
        self._options.slots.release()
        self.finished = True
        self._notify()

    def _drive(self) -> None:
        self._iterator = iterator = iter(self._content)
        try:
            if not self._stopped:  # while it was given its slot
                self._push_all(iterator)
        finally:
            self._closing = True
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    def _push_all(self, iterator: Iterator[Any]) -> None:
        push = self._buffer.push
        for item in iterator:
            if self._stopped and not self._options.keeps_last:
                break
            try:
                due = push(item)
            except Exception as error:
                self.refusal = self._explain(error, item)
                self._notify()
                raise self.refusal from error.__cause__
            if self._stopped:
                break
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
