"""Hands what is new to the subscribers of one event loop, in slices that the loop does not feel.

One callback for the whole loop: no task and no queue for each subscriber. A subscriber that can
take what is new sends it in this very callback; one whose `send` waits is left out, and takes what
has gathered when that `send` ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from ..._runtime.loops import call_every, call_soon, current_token, has_ended, on_asyncio
from ..history.broker import Broker
from ..history.position import HistoryKey
from ..history.ring import Retention
from .tail import Tail, TailSubscriber

# For how many seconds the event loop may be kept at a stretch.
_SLICE = 0.002
# Seconds between two looks for clients that do not know how far they have come.
_TELL = 5.0


class HubSubscriber(TailSubscriber, Protocol):
    """A subscriber as the hub sees it.

    Attributes:
        queued: Whether the hub is going to call `flush`.
        owner: The user whose stream it is.
        disconnected: Whether `disconnect` has ended it.
    """

    queued: bool
    disconnected: bool

    @property
    def owner(self) -> str | None: ...

    @property
    def flush(self) -> Callable[[], object]:
        """Sends pending frames unless a send is in progress."""
        ...

    def say_position(self) -> None:
        """Tells the client how far it has come."""
        ...

    def end(self) -> None:
        """Ends the stream."""
        ...


class Hub:
    """The tails and subscribers of one event loop, the running one.

    Args:
        log: Where the streams come from.
        forget: Called with this hub when no stream is followed any more.

    Attributes:
        subscribers: Those that are open, or about to be.
        now: Returns the time by the clock of the log.
    """

    def __init__(self, log: Broker, forget: Callable[[Hub], None]) -> None:
        self.log = log
        self.now = log.now
        self.subscribers: set[HubSubscriber] = set()
        self._forget = forget
        self._token = current_token()
        self._asyncio_loop = asyncio.get_running_loop() if on_asyncio() else None
        self._thread = threading.get_ident()
        self._context = contextvars.Context()
        self._tails: dict[HistoryKey, Tail] = {}
        self._scheduled = False
        self._woken: deque[Tail] = deque()
        # Who is to take something, and the tails that had news since all could.
        self._ready: deque[HubSubscriber] = deque()
        self._unsettled: dict[Tail, None] = {}
        self._untold: set[HubSubscriber] = set()
        self._end_telling: Callable[[], object] | None = None

    # Called in any thread

    def wake(self, tail: Tail) -> None:
        """Says that a tail has something to take in."""
        if not tail.woken:
            tail.woken = True
            self._woken.append(tail)
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._run)

    def _call_soon(self, function: Callable[[], object]) -> None:
        if self._asyncio_loop is not None and self._thread == threading.get_ident():
            with contextlib.suppress(RuntimeError):  # the event loop has ended
                self._asyncio_loop.call_soon(function, context=self._context)
        else:
            call_soon(self._token, function)

    def has_ended(self) -> bool:
        """Whether the event loop is closed."""
        return has_ended(self._token)

    # Called in the event loop

    async def follow(self, stream: HistoryKey, limits: Retention) -> Tail:
        """Returns the tail of a stream, for one more user, who is to `leave` it.

        Raises:
            BrokerUnavailable: the broker could not be reached.
        """
        tail = self._tails.get(stream)
        if tail is None:
            tail = self._tails[stream] = Tail(stream, limits, self)
        tail.users += 1
        try:
            if not tail.following:
                async with tail.lock:
                    if not tail.following:
                        tail.begin(await self.log.follow(stream, limits, tail))
        except BaseException:
            self.leave(tail)
            raise
        if tail.drain(until=math.inf):
            self._offer(tail)
        tail.trim()
        return tail

    async def catch_up(self, tail: Tail) -> None:
        """Has a tail take in all that was published before the call, also where that has not come
        to this process yet.

        Raises:
            BrokerUnavailable: the broker could not be reached.
        """
        await self.log.catch_up(tail.stream)
        if tail.drain(until=math.inf):
            self._offer(tail)

    def leave(self, tail: Tail) -> None:
        tail.users -= 1
        if not tail.users:
            del self._tails[tail.stream]
            self.log.unfollow(tail.stream, tail)
            if not self._tails:
                self._forget(self)

    def enqueue(self, subscriber: HubSubscriber) -> None:
        """Lets a subscriber take what is pending, in its turn."""
        if not subscriber.queued:
            subscriber.queued = True
            self._ready.append(subscriber)
            self._schedule()

    def _offer(self, tail: Tail) -> None:
        subscribers, ready = tail.subscribers, self._ready
        for subscriber in subscribers:
            if not subscriber.queued:
                subscriber.queued = True
                ready.append(subscriber)
        if subscribers:  # another is the first, next time
            first = next(iter(subscribers))
            del subscribers[first]
            subscribers[first] = None
        self._unsettled[tail] = None

    def _run(self) -> None:
        self._scheduled = False
        until = monotonic() + _SLICE
        for _ in range(len(self._woken)):
            tail = self._woken.popleft()
            if tail.drain(until):
                self._offer(tail)
        ready = self._ready
        try:
            while ready:
                subscriber = ready.popleft()
                subscriber.queued = False
                subscriber.flush()
                if monotonic() >= until:
                    break
        finally:  # a filter may raise what nobody catches
            if ready:
                self._schedule()
            elif self._unsettled:
                self._settle()

    def _settle(self) -> None:
        heads = {tail: tail.ring.head for tail in self._unsettled}
        self._unsettled.clear()
        for tail, head in heads.items():
            tail.offered = head.offset

        def settle() -> None:
            for tail, head in heads.items():
                tail.settle(head)

        # Listeners, and all on Trio, take in a task of their own, in the next turn; of that, Trio
        # does not say what comes first.
        self._call_soon(lambda: self._call_soon(settle))

    # What filters hide

    def tell_later(self, subscriber: HubSubscriber) -> None:
        """Has a client told how far it has come, within twice `_TELL`."""
        self._untold.add(subscriber)
        if self._end_telling is None:
            self._end_telling = call_every(_TELL, self._tell)

    def _tell(self) -> None:
        for subscriber in self._untold:
            subscriber.say_position()
        self._untold.clear()
        self._stop_telling()

    def leave_out(self, subscriber: HubSubscriber) -> None:
        """Leaves out a subscriber that has ended."""
        self._untold.discard(subscriber)
        if not self._untold:
            self._stop_telling()

    def _stop_telling(self) -> None:
        if self._end_telling is not None:
            self._end_telling()
            self._end_telling = None

    # The end

    def end(self, wanted: Callable[[HubSubscriber], bool]) -> int:
        """Ends the streams of some subscribers, and returns how many it was the first to end. May
        be called in any thread."""
        ending = [each for each in list(self.subscribers) if not each.disconnected and wanted(each)]
        for subscriber in ending:
            subscriber.disconnected = True
        call_soon(self._token, lambda: _end(ending))
        return len(ending)


def _end(subscribers: list[HubSubscriber]) -> None:
    for subscriber in subscribers:
        subscriber.end()
