"""The broker of one process: histories in memory, for any thread and event loop."""

from __future__ import annotations

import heapq
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from threading import get_ident
from time import monotonic
from typing import Any
from weakref import WeakSet, ref

import anyio.lowlevel

from ..._runtime.loops import call_every, call_soon, current_token, is_running
from .broker import ChannelsClosed, Fenced, Follower, Item, Lease, RunRecord
from .position import NOWHERE, UNUSED_TTL, HistoryKey, Position, beginning
from .ring import UNLIMITED, Entry, Retention, Ring

# Seconds between two looks for histories that nobody uses.
_LEAST_INTERVAL = 0.05
_MOST_INTERVAL = 60.0


class History:
    """One history: its entries, and its followers.

    Attributes:
        ttl: For how many seconds it is kept when nobody uses it any more.
        pinned: Whether it is in use, whoever follows it.
        is_kept_by_followers: Whether it counts as used by one who has just left.
    """

    __slots__ = ("followers", "is_kept_by_followers", "pinned", "ring", "ttl", "used_at")

    def __init__(self, limits: Retention, ttl: float) -> None:
        self.ring = Ring(limits, beginning())
        self.followers: tuple[Follower, ...] = ()
        self.ttl = ttl
        self.pinned = False
        self.is_kept_by_followers = True
        self.used_at = monotonic()

    @property
    def lifetime(self) -> float:
        """For how many seconds it is kept from when it was used last."""
        return self.ttl if self.ring.head.offset else min(self.ttl, UNUSED_TTL)

    def is_over(self, now: float) -> bool:
        """Returns whether nobody has used it for so long that it is not kept any more."""
        return not (self.followers or self.pinned) and self.used_at + self.lifetime <= now

    def append(self, item: Item, now: float) -> tuple[Entry, bool]:
        """Appends an event and gives it to the followers. Returns its entry, and whether the event
        loop should turn."""
        ring = self.ring
        entry = item.entry(ring.head, now)
        ring.append(entry)
        ring.trim(now)
        self.used_at = now
        full = False
        for follower in self.followers:
            full = follower.receive(entry) or full
        return entry, full


class _Lock:
    """A lock that is entered again where Python runs other code in the middle of what it guards: a
    finalizer, or a signal handler, in the same thread. What such code changes would be changed
    under the hands of what it has interrupted, so it is done `later`.

    Attributes:
        later: What is to be called when the lock is free.
    """

    __slots__ = ("_depth", "_lock", "_owner", "later")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._owner = 0
        self._depth = 0
        self.later: deque[Callable[[], object]] = deque()

    def __enter__(self) -> None:
        self._lock.acquire()
        self._owner = get_ident()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth:
            self._lock.release()
            return
        self._owner = 0
        self._lock.release()
        while self.later:
            try:
                function = self.later.popleft()
            except IndexError:
                return  # another thread was faster
            function()

    @property
    def is_mine(self) -> bool:
        """Whether this thread holds the lock: then this is in the middle of something."""
        return self._owner == get_ident()


class MemoryBroker:
    """Keeps histories in this process. Safe to use from any thread; nothing has to be started.
    `broker.Broker` documents the methods; `lock` is held for those that `MemoryRuns` calls.
    """

    def __init__(self) -> None:
        self.runs = MemoryRuns(self)
        self.begin_anew()
        _brokers.add(self)

    def begin_anew(self) -> None:
        """Begins without histories."""
        self.lock = _Lock()
        self.histories: dict[HistoryKey, History] = {}
        # When to look whether a history is still used.
        self._expiries: list[tuple[float, HistoryKey]] = []
        self._sweeper: _Sweeper | None = None
        # An event loop that has been seen, for a history that begins where there is none.
        self._event_loop: Callable[[], Any] = _no_event_loop
        self._closed = False
        self.runs.begin_anew()

    def now(self) -> float:
        return monotonic()

    # Publishing

    def publish_soon(self, key: HistoryKey, limits: Retention, item: Item) -> Future[str]:
        future: Future[str] = Future()
        if self.lock.is_mine:
            self.lock.later.append(partial(self._publish_for, future, key, limits, item))
        else:
            future.set_result(self.append(key, limits, item)[0])
        return future

    def _publish_for(
        self, future: Future[str], key: HistoryKey, limits: Retention, item: Item
    ) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            event_id, _ = self.append(key, limits, item)
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(event_id)

    async def publish(self, key: HistoryKey, limits: Retention, item: Item) -> str:
        event_id, full = self.append(key, limits, item)
        if full:
            await anyio.lowlevel.checkpoint()
        return event_id

    async def publish_many(
        self, key: HistoryKey, limits: Retention, items: Sequence[Item]
    ) -> list[str]:
        with self.lock:
            appended = [self.append(key, limits, item) for item in items]
        if any(full for _, full in appended):
            await anyio.lowlevel.checkpoint()
        return [event_id for event_id, _ in appended]

    async def count_subscribers(self, key: HistoryKey) -> int:
        with self.lock:
            self.check_open()
            history = self.histories.get(key)
            return 0 if history is None else sum(each.count() for each in history.followers)

    def append(self, key: HistoryKey, limits: Retention, item: Item) -> tuple[str, bool]:
        """Appends an event, and returns its id, and whether the event loop should turn."""
        now = monotonic()
        full = False
        with self.lock:
            self.check_open()
            if item.ephemeral:
                followers = self.histories[key].followers if key in self.histories else ()
                for follower in followers:
                    full = follower.receive_ephemeral(item) or full
                return "", full
            history = self.kept(key, now)
            if history is None:
                history = self.history(key, limits)
            entry, full = history.append(item, now)
            self.sweep_at(now)
        return entry.id, full

    # Following

    async def follow(self, key: HistoryKey, limits: Retention, follower: Follower) -> Position:
        with self.lock:
            self.check_open()
            self._event_loop = ref(current_token())
            history = self.history(key, limits)
            history.followers = (*history.followers, follower)
            return history.ring.head

    async def position(self, key: HistoryKey, limits: Retention) -> Position:
        with self.lock:
            self.check_open()
            history = self.history(key, limits)
            history.used_at = monotonic()
            return history.ring.head

    async def catch_up(self, key: HistoryKey) -> None:
        """Does nothing: followers are given each event as it is published."""

    def unfollow(self, key: HistoryKey, follower: Follower) -> None:
        if self.lock.is_mine:
            self.lock.later.append(partial(self.unfollow, key, follower))
            return
        with self.lock:
            history = self.histories.get(key)
            if history is None:
                return
            history.followers = tuple(f for f in history.followers if f is not follower)
            if history.is_kept_by_followers:
                history.used_at = monotonic()

    async def read(
        self, key: HistoryKey, limits: Retention, first: int, before: int
    ) -> tuple[Position, list[Entry]]:
        with self.lock:
            history = self.kept(key)
            if history is None:
                return NOWHERE, []
            ring = history.ring
            ring.trim(monotonic())
            return ring.read(first, before)

    # A history's life

    def kept(self, key: HistoryKey, now: float | None = None) -> History | None:
        """Returns a history. It expires where it is looked at, not only when the sweeper comes.

        Args:
            now: By the monotonic clock, if the caller has looked at it already.
        """
        history = self.histories.get(key)
        if history is not None and history.is_over(monotonic() if now is None else now):
            self.sweep()
            history = self.histories.get(key)
        return history

    def history(self, key: HistoryKey, limits: Retention, ttl: float | None = None) -> History:
        """Returns a history. It begins, with an epoch, if there is none.

        Args:
            ttl: For how many seconds it is kept when nobody uses it, if not for `history_ttl`.
        """
        history = self.kept(key)
        if history is None:
            history = History(limits, limits.history_ttl if ttl is None else ttl)
            self.histories[key] = history
            heapq.heappush(self._expiries, (monotonic() + history.lifetime, key))
            self._see_to_sweeping(history.lifetime)
        return history

    def _see_to_sweeping(self, ttl: float) -> None:
        if self._sweeper is not None and not self._sweeper.is_late():
            return
        try:
            self._sweeper = _Sweeper(self, min(max(ttl / 2, _LEAST_INTERVAL), _MOST_INTERVAL))
            self._event_loop = ref(current_token())
        except RuntimeError:  # no event loop runs here
            event_loop, self._event_loop = self._event_loop(), _no_event_loop
            if event_loop is not None:
                call_soon(event_loop, partial(self._see_to_sweeping, ttl))

    def sweep(self) -> bool:
        """Lets go of the histories that nobody has published to, or followed, for `history_ttl`,
        and returns whether there are others."""
        with self.lock:
            now = monotonic()
            while self._expiries and self._expiries[0][0] <= now:
                _, key = heapq.heappop(self._expiries)
                history = self.histories.get(key)
                if history is None:
                    continue
                if history.is_over(now):
                    del self.histories[key]
                    self.runs.forget(key)
                else:
                    used_at = now if history.followers or history.pinned else history.used_at
                    heapq.heappush(self._expiries, (used_at + history.lifetime, key))
            if not self._expiries:
                self._sweeper = None
            return bool(self._expiries)

    def is_swept_by(self, sweeper: _Sweeper) -> bool:
        """Returns whether a sweeper is the present one. One that is not ends itself."""
        return sweeper is self._sweeper

    def sweep_at(self, now: float) -> None:
        """Sweeps, if it is time."""
        if self._expiries[0][0] <= now:
            self.sweep()

    def check_open(self) -> None:
        """Raises `ChannelsClosed` after `aclose`."""
        if self._closed:
            raise ChannelsClosed

    def open(self) -> None:
        """Allows publishing again, after `aclose`."""
        self._event_loop = ref(current_token())
        self._closed = False

    async def ready(self) -> None:
        self.check_open()

    async def aclose(self) -> None:
        with self.lock:
            self._closed = True
            for key in list(self.histories):
                self.runs.forget(key)
            self.histories.clear()
            self._expiries.clear()
            self._sweeper = None


class _Sweeper:
    """A timer on the event loop where a history began. It holds no reference to the broker, and
    ends itself when the broker has nothing left to expire."""

    def __init__(self, broker: MemoryBroker, interval: float) -> None:
        self._broker = ref(broker)
        self._interval = interval
        self._swept_at = monotonic()
        self._end = call_every(interval, self._sweep)

    def is_late(self) -> bool:
        """Returns whether its event loop seems to have ended."""
        return monotonic() - self._swept_at > 3 * self._interval

    def _sweep(self) -> None:
        self._swept_at = monotonic()
        broker = self._broker()
        if broker is None or not broker.is_swept_by(self) or not broker.sweep():
            self._end()


def _no_event_loop() -> None:
    return None


_brokers: WeakSet[MemoryBroker] = WeakSet()


def _begin_anew() -> None:
    """In a process that was forked: what it publishes is not what its parent publishes, and under
    the parent's epoch an id would seem to be of either. And a thread may have held a lock that is
    not here to release it."""
    for broker in list(_brokers):
        broker.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


class _Lease:
    """The lease of a producer in this process. Nobody else can take over while something blocks its
    event loop, so it is not over as long as that runs, in time or not."""

    __slots__ = ("_token", "_until")

    def __init__(self) -> None:
        self._token = ref(current_token())
        self.renew()

    def renew(self) -> None:
        self._until = monotonic() + Lease.DURATION

    @property
    def is_over(self) -> bool:
        if monotonic() < self._until:
            return False
        token = self._token()
        return token is None or not is_running(token)


class _Run:
    """A run's history, its fence token and lease, and whether a stop was requested."""

    __slots__ = ("end_body", "fence", "history", "lease", "on_stop", "stop")

    def __init__(self, history: History, on_stop: Callable[[str], None]) -> None:
        self.history = history
        self.fence: str | None = os.urandom(8).hex()
        self.lease = _Lease()
        # None when the run has ended: it refers to the generator, and the run is kept for its ttl.
        self.on_stop: Callable[[str], None] | None = on_stop
        self.stop: str | None = None
        self.end_body: bytes | None = None


class MemoryRuns:
    """Keeps runs in this process; `broker.RunBroker` documents the methods."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self.begin_anew()

    def begin_anew(self) -> None:
        """Begins without runs."""
        self._runs: dict[HistoryKey, _Run] = {}
        # Of each key: who holds it.
        self._holders: dict[HistoryKey, tuple[str, _Lease]] = {}

    async def start(
        self, run: HistoryKey, ttl: float, on_stop: Callable[[str], None]
    ) -> str | None:
        with self._broker.lock:
            self._broker.check_open()
            if self._kept(run) is not None:
                return None
            history = self._broker.history(run, UNLIMITED, ttl)
            kept = self._runs[run] = _Run(history, on_stop)
            history.ttl = ttl  # somebody may have followed it before
            history.pinned = True
            history.is_kept_by_followers = False  # its time is counted from its end
            return kept.fence

    async def append(self, run: HistoryKey, fence: str, items: Sequence[Item]) -> None:
        if self._append_all(run, fence, items):
            # Items whose append is cancelled here would be appended again.
            await anyio.lowlevel.cancel_shielded_checkpoint()

    def _append_all(self, run: HistoryKey, fence: str, items: Sequence[Item]) -> bool:
        full = False
        with self._broker.lock:
            history, now = self._check(run, fence).history, monotonic()
            for item in items:
                full = history.append(item, now)[1] or full
            self._broker.sweep_at(now)
        return full

    append_now = _append_all

    async def renew(self, run: HistoryKey, fence: str) -> str | None:
        with self._broker.lock:
            kept = self._check(run, fence)
            kept.lease.renew()
            return kept.stop

    def _check(self, run: HistoryKey, fence: str) -> _Run:
        kept = self._runs.get(run)  # it does not expire before its end
        if kept is None or kept.fence != fence:
            raise Fenced(f"The run '{run.key}' has ended")
        return kept

    async def end(self, run: HistoryKey, fence: str | None, item: Item) -> bool:
        with self._broker.lock:
            kept = self._kept(run)
            if kept is None or kept.fence is None:
                return False
            if kept.fence != fence and (fence is not None or not kept.lease.is_over):
                return False
            kept.fence = kept.on_stop = None
            self._broker.append(run, UNLIMITED, item)
            self._broker.histories[run].pinned = False
            kept.end_body = item.body
            return True

    async def release(self, run: HistoryKey, fence: str) -> None:
        """Does nothing: who produces a run is forgotten with its history."""

    async def stop(self, run: HistoryKey, reason: str) -> bool:
        with self._broker.lock:
            kept = self._kept(run)
            if kept is None:
                return False
            if kept.fence is None or kept.stop is not None:
                return True
            kept.stop, on_stop = reason, kept.on_stop
        if on_stop is not None:
            on_stop(reason)
        return True

    async def status(self, run: HistoryKey) -> RunRecord | None:
        with self._broker.lock:
            kept = self._kept(run)
            if kept is None:
                return None
            head = self._broker.histories[run].ring.head
            is_alive = kept.fence is not None and not kept.lease.is_over
            return RunRecord(head, kept.end_body, is_alive=is_alive)

    async def claim(
        self, key: HistoryKey, holder: str, instead_of: str | None = None
    ) -> str | None:
        with self._broker.lock:
            self._broker.check_open()
            known = self._holder(key)
            if known is not None and known not in (holder, instead_of):
                return known
            self._holders[key] = holder, _Lease()
            return None

    async def holder(self, key: HistoryKey) -> str | None:
        with self._broker.lock:
            return self._holder(key)

    async def free(self, key: HistoryKey, holder: str) -> None:
        with self._broker.lock:
            if self._holder(key) == holder:
                del self._holders[key]

    def _holder(self, key: HistoryKey) -> str | None:
        known = self._holders.get(key)
        if known is None:
            return None
        holder, lease = known
        if lease.is_over:
            del self._holders[key]
            return None
        return holder

    def _kept(self, run: HistoryKey) -> _Run | None:
        return None if self._broker.kept(run) is None else self._runs.get(run)

    def forget(self, key: HistoryKey) -> None:
        """Forgets the run of a history that has expired."""
        self._runs.pop(key, None)
