"""Clocks that jump to the next timer as soon as nothing else is left to do, threads included."""

from __future__ import annotations

import asyncio
import selectors
import sys
import threading
from collections.abc import Callable
from typing import Any

# How often an event loop may turn without its clock moving on.
_TURNS = 5_000


class Stuck(BaseException):
    """An event loop that turns and turns in the same moment."""


class Threads:
    """The threads of sync generators, which a clock has to wait for."""

    def __init__(self) -> None:
        #: Whether there may be any: looking for them takes time.
        self.are_expected = False

    def running(self) -> list[threading.Thread]:
        if not self.are_expected:
            return []
        return [each for each in threading.enumerate() if each.name.startswith("sserpent ")]

    def are_busy(self) -> bool:
        """Returns whether one may still do something before the event loop does."""
        running = self.running()
        frames = sys._current_frames() if running else {}
        return any(not _waits(frames.get(each.ident or 0)) for each in running)


def _waits(frame: Any) -> bool:
    """Returns whether a thread waits for a condition that nobody has notified it of."""
    if frame is None or frame.f_code is not threading.Condition.wait.__code__:
        return False
    waiter = frame.f_locals.get("waiter")
    return waiter is not None and waiter in frame.f_locals["self"]._waiters


class _Selector(selectors.DefaultSelector):  # type: ignore[valid-type, misc]
    def __init__(self, threads: Threads) -> None:
        super().__init__()
        self.now = 0.0
        self.turns = 0
        self.threads = threads
        self.are_ready: Callable[[], Any] = bool

    def select(self, timeout: float | None = None) -> Any:
        if timeout == 0 and not self.threads.are_expected:
            self.turns += 1
            if self.turns > _TURNS:
                self.turns = 0
                raise Stuck
            return []
        if self.threads.are_busy():
            return super().select(0 if timeout == 0 else 0.001)
        if timeout is None:
            return super().select(0.001)
        if not self.are_ready():  # a thread may have said something since it was asked
            self.now += timeout
            self.turns = 0
        return super().select(0) if self.threads.are_expected else []


class JumpingLoop(asyncio.SelectorEventLoop):
    """asyncio's event loop with such a clock."""

    def __init__(self) -> None:
        self.threads = Threads()
        self._jumping = _Selector(self.threads)
        super().__init__(self._jumping)
        self._jumping.are_ready = lambda: self._ready  # type: ignore[attr-defined]
        #: All that were made; `asyncio.all_tasks` goes through all that anybody still refers to.
        self.tasks: list[asyncio.Task[Any]] = []
        self.set_task_factory(_make_task)

    def time(self) -> float:
        return self._jumping.now

    def begin_anew(self) -> None:
        """Sets the clock to 0: sums of other times would not be exactly the same."""
        self._jumping.now = 0.0


def _make_task(loop: Any, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
    loop.tasks.append(task)
    return task


class JumpingClock:
    """Such a clock for Trio, which knows of no threads."""

    def __init__(self) -> None:
        self._now = 0.0

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self._now

    def begin_anew(self) -> None:
        self._now = 0.0

    def deadline_to_sleep_time(self, deadline: float) -> float:
        from trio._core._run import GLOBAL_RUN_CONTEXT

        if deadline == float("inf"):
            return 0.001
        if GLOBAL_RUN_CONTEXT.runner.entry_queue.queue:
            return 0.0
        self._now = max(self._now, deadline)
        return 0.0
