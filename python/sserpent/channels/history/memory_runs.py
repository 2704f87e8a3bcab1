"""The runs of one process."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING

import anyio.lowlevel

from ..runs import lease
from .broker import Fenced, Item, RunStatus
from .position import Position, Stream
from .ring import Limits

if TYPE_CHECKING:
    from .memory import MemoryLog

#: Nothing of a run is trimmed.
UNLIMITED = Limits(sys.maxsize, math.inf, sys.maxsize)


class _Run:
    """Who may append, until when, and what has been asked of him."""

    __slots__ = ("end", "fence", "lease_until", "on_stop", "stop")

    def __init__(self, on_stop: Callable[[str], None]) -> None:
        self.fence: str | None = os.urandom(8).hex()
        self.lease_until = monotonic() + lease.DURATION
        self.on_stop = on_stop
        self.stop: str | None = None
        self.end: Position | None = None


class MemoryRuns:
    """Keeps runs in this process; `broker.RunLog` documents the methods."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._runs: dict[Stream, _Run] = {}

    async def start(self, run: Stream, ttl: float, on_stop: Callable[[str], None]) -> str | None:
        with self._log.lock:
            self._log.check_open()
            if self._kept(run) is not None:
                return None
            kept = self._runs[run] = _Run(on_stop)
            history = self._log.history(run, UNLIMITED, ttl)
            history.ttl = ttl  # somebody may have followed it before
            history.pinned = True
            history.is_kept_by_followers = False  # its time is counted from its end
            return kept.fence

    async def append(self, run: Stream, fence: str, items: Sequence[Item]) -> None:
        full = False
        with self._log.lock:
            self._check(run, fence)
            for item in items:
                full = self._log.append(run, UNLIMITED, item)[1] or full
        if full:
            # What is cancelled here would be appended again.
            await anyio.lowlevel.cancel_shielded_checkpoint()

    async def renew(self, run: Stream, fence: str) -> str | None:
        with self._log.lock:
            kept = self._check(run, fence)
            kept.lease_until = monotonic() + lease.DURATION
            return kept.stop

    def _check(self, run: Stream, fence: str) -> _Run:
        kept = self._kept(run)
        if kept is None or kept.fence != fence:
            raise Fenced(f"The run '{run.key}' has ended")
        return kept

    async def end(self, run: Stream, fence: str | None, item: Item) -> bool:
        with self._log.lock:
            kept = self._kept(run)
            if kept is None or kept.fence is None:
                return False
            if kept.fence != fence and (fence is not None or monotonic() < kept.lease_until):
                return False
            kept.fence = None
            self._log.append(run, UNLIMITED, item)
            history = self._log.histories[run]
            history.pinned = False
            kept.end = history.ring.head
            return True

    async def leave(self, run: Stream, fence: str) -> None:
        """Does nothing: who produces a run is forgotten with its history."""

    async def stop(self, run: Stream, reason: str) -> bool:
        with self._log.lock:
            kept = self._kept(run)
            if kept is None:
                return False
            if kept.fence is None or kept.stop is not None:
                return True
            kept.stop = reason
        kept.on_stop(reason)
        return True

    async def status(self, run: Stream) -> RunStatus | None:
        with self._log.lock:
            kept = self._kept(run)
            return None if kept is None else RunStatus(kept.end)

    def _kept(self, run: Stream) -> _Run | None:
        return None if self._log.kept(run) is None else self._runs.get(run)

    def forget(self, stream: Stream) -> None:
        """Called when a history has expired."""
        self._runs.pop(stream, None)
