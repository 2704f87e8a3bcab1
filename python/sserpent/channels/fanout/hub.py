"""Hands what is new to the subscribers of one event loop, in slices that the loop does not feel.

One callback for the whole loop: no task and no queue for each subscriber. A subscriber that can
take what is new sends it in this very callback; one whose `send` waits is left out, and takes what
has gathered when that `send` ends.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Protocol

import anyio

from ..._runtime.loops import call_every, call_soon, current_token, has_ended, on_asyncio
from ..history.broker import Broker
from ..history.position import HistoryKey, Position
from ..history.ring import UNLIMITED, Retention
from .owner_disconnects import HISTORY, LIMITS, Owned, OwnerDisconnects
from .snapshots import SnapshotCalls
from .tail import Tail, TailSubscriber

# For how many seconds the event loop may be kept at a stretch.
_SLICE = 0.002
# Seconds until a client whose filter has hidden the newest events is sent its position.
_POSITION_INTERVAL = 5.0


class Flush(Protocol):
    """A function without arguments. Not a `Callable`: pyright takes one in a slot for a method."""

    def __call__(self) -> object: ...


class HubSubscriber(TailSubscriber, Protocol):
    """A subscriber as the hub sees it.

    Attributes:
        queued: Whether the hub is going to call `flush`.
        owner: The user whose stream it is.
        disconnected: Whether `disconnect` has ended it.
        flush: Sends pending frames unless a send is in progress.
    """

    queued: bool
    disconnected: bool
    flush: Flush

    @property
    def owner(self) -> str | None:
        """The user it belongs to, or None."""
        ...

    def send_position(self) -> None:
        """Sends the client its position, if a filter has hidden the newest events."""
        ...

    def end(self) -> None:
        """Ends the stream."""
        ...


class Hub:
    """The tails and subscribers of one event loop, the running one.

    Args:
        broker: Keeps the histories.
        forget: Called with this hub when it follows no history any more.
        end_disconnected: Ends the streams of some owners, of which the hub hears by following
            `owner_disconnects.HISTORY`; None where the broker does that itself.

    Attributes:
        subscribers: Those that are open, or about to be.
        now: Returns the time by the broker's clock.
        snapshots: The calls of functions that return the state of a channel.
    """

    def __init__(
        self,
        broker: Broker,
        forget: Callable[[Hub], None],
        end_disconnected: Callable[[Callable[[Owned], bool]], object] | None = None,
    ) -> None:
        self.broker = broker
        self.now = broker.now
        self.subscribers: set[HubSubscriber] = set()
        self._forget = forget
        self._disconnects = OwnerDisconnects(end_disconnected) if end_disconnected else None
        self._lock = anyio.Lock()
        self._is_told_of_disconnects = False
        self._token = current_token()
        self._asyncio_loop = asyncio.get_running_loop() if on_asyncio() else None
        self._thread = threading.get_ident()
        self._context = contextvars.Context()
        self._tails: dict[HistoryKey, Tail] = {}
        self._scheduled = False
        # Between `hold` and `let_go`, and whether a turn was asked for meanwhile.
        self._held = self._put_off = False
        self._woken: deque[Tail] = deque()
        # The subscribers to flush, and the tails that had news since all could take them.
        self._ready: deque[HubSubscriber] = deque()
        self._unsettled: dict[Tail, None] = {}
        self._positions_due: set[HubSubscriber] = set()
        self.snapshots = SnapshotCalls()
        self._end_timer: Callable[[], object] | None = None

    # Called in any thread

    def wake(self, tail: Tail) -> None:
        """Says that a tail has something to take in."""
        if not tail.woken:
            tail.woken = True
            self._woken.append(tail)
            self._schedule()

    def _schedule(self) -> None:
        if self._scheduled:
            return
        self._scheduled = True
        if self._held and self._thread == threading.get_ident():
            self._put_off = True
        else:
            self._call_soon(self._run)

    def _call_soon(self, function: Callable[[], object]) -> None:
        if self._asyncio_loop is not None and self._thread == threading.get_ident():
            try:
                self._asyncio_loop.call_soon(function, context=self._context)
            except RuntimeError:
                pass  # the event loop has ended
        else:
            call_soon(self._token, function)

    def has_ended(self) -> bool:
        """Returns whether the event loop is closed."""
        return has_ended(self._token)

    # Called in the event loop

    async def acquire(self, key: HistoryKey, limits: Retention) -> Tail:
        """Returns the tail of a history, for one more user, who has to `release` it.

        Raises:
            BrokerUnavailable: the broker could not be reached.
        """
        tail = self._tails.get(key)
        if tail is None:
            tail = self._tails[key] = Tail(key, limits, self)
        tail.users += 1
        try:
            if self._disconnects is not None and not self._is_told_of_disconnects:
                await self._follow_disconnects(self._disconnects)
            if not tail.following:
                async with tail.lock:
                    if not tail.following:
                        tail.begin(await self.broker.follow(key, limits, tail))
        except BaseException:
            self.release(tail)
            raise
        if tail.drain(until=math.inf):
            self._broadcast(tail)
        tail.trim()
        return tail

    async def _follow_disconnects(self, disconnects: OwnerDisconnects) -> None:
        async with self._lock:
            if not self._is_told_of_disconnects:
                await self.broker.follow(HISTORY, LIMITS, disconnects)
                self._is_told_of_disconnects = True

    async def catch_up(self, tail: Tail) -> None:
        """Returns once a tail has taken in everything that was published before the call, even if
        that had not come to this process yet.

        Raises:
            BrokerUnavailable: the broker could not be reached.
        """
        await self.broker.catch_up(tail.key)
        if tail.drain(until=math.inf):
            self._broadcast(tail)

    async def reach(self, tail: Tail, after: Position) -> str | None:
        """Extends a tail back to a position that a client has named, or as near to it as it can.

        Returns:
            Why continuity cannot be proved, if it cannot: the reason of the event `reset`.

        Raises:
            BrokerUnavailable: the broker could not be reached.
        """
        reason = tail.why_not(after)
        if reason is not None:
            # Another process may have given the id out, of an event that has not come here yet.
            await self.catch_up(tail)
            reason = tail.why_not(after)
        if reason is None:
            if not await tail.reach_back(self.broker, after.offset or 1):
                await self.catch_up(tail)
            reason = tail.why_not(after)  # meanwhile the history may have begun anew
        return reason

    def release(self, tail: Tail) -> None:
        """Gives a tail back that `acquire` has returned. The last user ends it."""
        tail.users -= 1
        if not tail.users:
            del self._tails[tail.key]
            self.broker.unfollow(tail.key, tail)
            self.forget_if_unused()

    def forget_if_unused(self) -> None:
        """Ends this hub, if it has nothing that another subscriber could use."""
        if self._tails or self.snapshots.has_recent:
            return
        if self._disconnects is not None:
            self.broker.unfollow(HISTORY, self._disconnects)
            self._is_told_of_disconnects = False
        self._forget(self)

    def enqueue(self, subscriber: HubSubscriber) -> None:
        """Lets a subscriber take what is pending, in its turn."""
        if not subscriber.queued:
            subscriber.queued = True
            self._ready.append(subscriber)
            self._schedule()

    def enqueue_again(self, subscriber: HubSubscriber, tail: Tail) -> None:
        """Lets a subscriber take more of a tail, in its turn, before that may be trimmed."""
        tail.taken_in_parts += 1
        self._unsettled[tail] = None
        self.enqueue(subscriber)

    def hold(self) -> None:
        """Puts off what is to be told, until `let_go` in the same turn of the event loop."""
        self._held = True

    def let_go(self) -> None:
        """Tells the follower of a run at once, if that is all there is to tell; otherwise in a turn
        of its own."""
        self._held = False
        if not self._put_off:
            return
        # Before the look at what there is: what another thread adds after that has its own turn.
        self._put_off = self._scheduled = False
        if len(self._woken) == 1 and not (self._ready or self._unsettled):
            tail = self._woken[0]
            if tail.limits is UNLIMITED and len(tail.subscribers) <= 1:
                contextvars.Context().run(self._tell_one)
                return
        self._schedule()

    def _tell_one(self) -> None:
        tail = self._woken.popleft()
        if tail.drain(math.inf):
            for subscriber in [*tail.subscribers]:
                subscriber.flush()

    def settle_later(self, tail: Tail) -> None:
        """Keeps what a tail has until all its subscribers have had the occasion to take it."""
        self._unsettled[tail] = None
        self._schedule()

    def _broadcast(self, tail: Tail) -> None:
        """Queues the subscribers of a tail that has new entries."""
        subscribers, ready = tail.subscribers, self._ready
        for subscriber in subscribers:
            if not subscriber.queued:
                subscriber.queued = True
                ready.append(subscriber)
        if len(subscribers) > 1:  # another is the first, next time
            first = next(iter(subscribers))
            del subscribers[first]
            subscribers[first] = None
        if tail.limits is not UNLIMITED:  # else nothing is trimmed when all have taken it
            self._unsettled[tail] = None

    def _run(self) -> None:
        self._scheduled = False
        until = monotonic() + _SLICE
        woken, ready = self._woken, self._ready
        while woken:
            tail = woken.popleft()
            if tail.drain(until):
                self._broadcast(tail)
            if woken and monotonic() >= until:
                break
        try:
            while ready:
                subscriber = ready.popleft()
                subscriber.queued = False
                subscriber.flush()
                if monotonic() >= until:
                    break
        finally:  # a filter may raise what nobody catches
            if ready or woken:
                self._schedule()
            elif self._unsettled:
                self._settle()

    def _settle(self) -> None:
        heads = [
            (tail, tail.ring.head, tail.newest_ephemeral, tail.taken_in_parts)
            for tail in self._unsettled
        ]
        self._unsettled.clear()
        for tail, head, *_ in heads:
            tail.offered = head.offset

        # Listeners, and all on Trio, take in a task of their own, in the next turn; of that, Trio
        # does not say what comes first.
        settle = partial(self._settle_as_offered, heads)
        self._call_soon(lambda: self._call_soon(settle))

    def _settle_as_offered(self, offered: list[tuple[Tail, Position, int, int]]) -> None:
        until = monotonic() + _SLICE
        while offered:
            tail, head, ephemeral, parts = offered.pop()
            if tail.taken_in_parts == parts:  # else there is another turn for it
                tail.settle(head, ephemeral)
            if offered and monotonic() >= until:
                self._call_soon(partial(self._settle_as_offered, offered))
                break

    # Positions of clients whose filter hides what is new

    def schedule_position(self, subscriber: HubSubscriber) -> None:
        """Sends a client its position within `_POSITION_INTERVAL`."""
        self._positions_due.add(subscriber)
        if self._end_timer is None:
            self._end_timer = call_every(_POSITION_INTERVAL, self._send_positions)

    def _send_positions(self) -> None:
        for subscriber in self._positions_due:
            subscriber.send_position()
        self._positions_due.clear()
        self._stop_timer()

    def add_subscriber(self, subscriber: HubSubscriber) -> None:
        """Counts a subscriber among those whose streams `end` can end."""
        self.subscribers.add(subscriber)

    def remove_subscriber(self, subscriber: HubSubscriber) -> None:
        """Forgets a subscriber that has ended."""
        self.subscribers.discard(subscriber)
        self._positions_due.discard(subscriber)
        if not self._positions_due:
            self._stop_timer()

    def _stop_timer(self) -> None:
        if self._end_timer is not None:
            self._end_timer()
            self._end_timer = None

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
