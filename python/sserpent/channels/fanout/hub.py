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
from typing import TYPE_CHECKING

import anyio

from ..._runtime.loops import call_every, call_soon, current_token, has_ended, on_asyncio
from ..history.broker import Log
from ..history.position import NOWHERE, Position, Stream
from ..history.ring import Entry, Limits, Ring, joined

if TYPE_CHECKING:
    from .subscriber import Subscriber

# For how many seconds the event loop may be kept at a stretch.
_SLICE = 0.002
# Seconds between two looks for clients that do not know how far they have come.
_TELL = 5.0
# How many entries, or bytes, may wait for the event loop before a publisher lets it turn.
_FULL = 256, 262_144
# After how many entries that are taken in to look at the time.
_LOOK = 64
_NO_CHUNK: tuple[Position | None, int, bytes, Position] = None, 0, b"", NOWHERE


class Tail:
    """The newest entries of one stream, for the subscribers of one event loop.

    Its ring reaches back as far as somebody has asked for, so that those who come back for the same
    stretch read it once.

    Attributes:
        ring: The entries that subscribers are given.
        subscribers: Who is to be given them.
        offered: The offset up to which each subscriber was told to take them.
        settled: The one up to which each has had the occasion: what is newer is not trimmed.
        users: How many subscribers and listeners there are, those who are about to be included.
    """

    def __init__(self, stream: Stream, limits: Limits, hub: Hub) -> None:
        self.stream = stream
        self.limits = limits
        self.ring = Ring(limits, NOWHERE)
        self.subscribers: dict[Subscriber, None] = {}
        self.offered = 0
        self.settled = 0
        self.users = 0
        self.following = False
        #: Held while the broker is asked.
        self.lock = anyio.Lock()
        self._hub = hub
        self._incoming: deque[Entry | tuple[str, Position]] = deque()
        # Each is changed in one thread only: the first two in that of whoever tells.
        self._received_bytes = self._shed_bytes = self._taken_bytes = 0
        self.woken = False
        #: Whether an event may stand for older ones.
        self.conflates = False
        # What was taken after an offset, in as many bytes at most, and where that ends: nearly all
        # subscribers take the same, from the same entries.
        self._chunks: dict[tuple[int, int], tuple[bytes, Position]] = {}
        #: The one that was taken last: after which position, in how many bytes at most, what, and
        #: where it ends.
        self.newest_chunk = _NO_CHUNK

    # Called in any thread

    def receive(self, entry: Entry) -> bool:
        incoming = self._incoming
        incoming.append(entry)
        self._received_bytes += len(entry.frame)
        self._hub.wake(self)
        size = self._received_bytes - self._shed_bytes - self._taken_bytes
        full = len(incoming) >= _FULL[0] or size >= _FULL[1]
        if full and size > self.limits.history_bytes and len(incoming) > 1:
            self._shed()
        return full

    def _shed(self) -> None:
        """Bounds what waits for an event loop that does not turn: what is let go of becomes a gap
        for its subscribers. One that has ended is not waited for."""
        if self._hub.has_ended():
            self._hub.log.unfollow(self.stream, self)
        with contextlib.suppress(IndexError):  # it has turned just now
            first = self._incoming[0]
            if isinstance(first, Entry):
                self._incoming.popleft()
                self._shed_bytes += len(first.frame)

    def reset(self, reason: str, head: Position) -> None:
        self._incoming.append((reason, head))
        self._hub.wake(self)

    # Called in the event loop

    def begin(self, head: Position) -> None:
        """Begins after a position; what the log has said before is part of it already."""
        self._forget_chunks()
        self.ring = Ring(self.limits, head)
        self.offered = self.settled = head.offset
        self.following = True

    def drain(self, until: float) -> bool:
        """Takes in what the log has said so far, and returns whether there was anything.

        Args:
            until: When to leave the rest for another time, by `monotonic`.
        """
        self.woken = False
        if not self.following:
            return False  # `begin` drains
        said = len(self._incoming)  # another thread may go on
        for taken in range(said):
            if taken % _LOOK == _LOOK - 1 and monotonic() >= until:
                self._hub.wake(self)
                break
            try:
                new = self._incoming.popleft()
            except IndexError:
                break  # the rest was shed just now
            self._take_in(new)
        return said > 0

    def _take_in(self, new: Entry | tuple[str, Position]) -> None:
        if isinstance(new, tuple):
            self._restart(*new)
        else:
            self._taken_bytes += len(new.frame)
            self._append(new)

    def _append(self, entry: Entry) -> None:
        if entry.offset <= self.ring.head.offset:
            return  # it was read from the history
        self._forget_chunks()
        self.ring.append(entry)
        self.ring.trim(entry.time, self.settled)
        self.conflates = self.conflates or entry.conflate is not None

    def _restart(self, reason: str, head: Position) -> None:
        self.begin(head)
        for subscriber in self.subscribers:
            subscriber.reset(self, reason)

    def settle(self, head: Position) -> None:
        """Says that everyone has had the occasion to take what there is up to a position."""
        if head.epoch == self.ring.head.epoch:
            self.settled = head.offset
            self.trim()

    def trim(self) -> None:
        self._forget_chunks()
        self.ring.trim(self._hub.now(), self.settled)

    def position_at(self, offset: int) -> Position | None:
        """Returns the position after the event with an offset, if it is known."""
        entry = self.ring.at(offset)
        if entry is not None:
            return entry.position
        known = (self.ring.head, self.ring.floor)
        return next((position for position in known if position.offset == offset), None)

    def chunk(self, after: Position, size: int) -> tuple[bytes, Position]:
        """Returns the frames after a position as one chunk, and the position that it ends at.

        Args:
            after: Before the head.
            size: How many bytes the chunk may have, if it has more than one event.
        """
        key = after.offset, size
        chunk = self._chunks.get(key)
        if chunk is None:
            entries = upto(self.ring.after(after.offset), size)
            chunk = self._chunks[key] = joined(entries), entries[-1].position
        self.newest_chunk = after, size, *chunk
        return chunk

    def _forget_chunks(self) -> None:
        self._chunks.clear()
        self.newest_chunk = _NO_CHUNK

    async def reach_back(self, log: Log, first: int) -> None:
        """Makes the ring begin with the entry of an offset, or as near as the log can.

        Raises:
            BrokerUnavailable: the broker could not be reached.
        """
        async with self.lock:
            floor = self.ring.floor
            if first > floor.offset:
                return
            read_floor, entries = await log.read(self.stream, self.limits, first, floor.offset + 1)
            # Meanwhile the ring may have moved on, or the history have begun anew.
            continues = bool(entries) and entries[-1].position[:2] == floor[:2]
            if self.ring.floor == floor and continues:
                self.ring.prepend(read_floor, entries)


def upto(entries: list[Entry], size: int) -> list[Entry]:
    """Returns the first entries that have so many bytes, and at least one."""
    total = 0
    for count, entry in enumerate(entries):
        total += len(entry.frame)
        if total > size:
            return entries[: count or 1]
    return entries


class Hub:
    """The tails and subscribers of one event loop, the running one.

    Args:
        log: Where the streams come from.
        forget: Called with this hub when no stream is followed any more.

    Attributes:
        subscribers: Those that are open, or about to be.
        now: Returns the time by the clock of the log.
    """

    def __init__(self, log: Log, forget: Callable[[Hub], None]) -> None:
        self.log = log
        self.now = log.now
        self.subscribers: set[Subscriber] = set()
        self._forget = forget
        self._token = current_token()
        self._asyncio_loop = asyncio.get_running_loop() if on_asyncio() else None
        self._thread = threading.get_ident()
        self._context = contextvars.Context()
        self._tails: dict[Stream, Tail] = {}
        self._scheduled = False
        self._woken: deque[Tail] = deque()
        # Who is to take something, and the tails that had news since all could.
        self._ready: deque[Subscriber] = deque()
        self._unsettled: dict[Tail, None] = {}
        self._untold: set[Subscriber] = set()
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

    async def follow(self, stream: Stream, limits: Limits) -> Tail:
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

    def enqueue(self, subscriber: Subscriber) -> None:
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

    def tell_later(self, subscriber: Subscriber) -> None:
        """Has a client told how far it has come, within twice `_TELL`."""
        self._untold.add(subscriber)
        if self._end_telling is None:
            self._end_telling = call_every(_TELL, self._tell)

    def _tell(self) -> None:
        for subscriber in self._untold:
            subscriber.say_position()
        self._untold.clear()
        self._stop_telling()

    def leave_out(self, subscriber: Subscriber) -> None:
        """Leaves out a subscriber that has ended."""
        self._untold.discard(subscriber)
        if not self._untold:
            self._stop_telling()

    def _stop_telling(self) -> None:
        if self._end_telling is not None:
            self._end_telling()
            self._end_telling = None

    # The end

    def end(self, wanted: Callable[[Subscriber], bool]) -> int:
        """Ends the streams of some subscribers, and returns how many it was the first to end. May
        be called in any thread."""
        ending = [each for each in list(self.subscribers) if not each.disconnected and wanted(each)]
        for subscriber in ending:
            subscriber.disconnected = True
        call_soon(self._token, lambda: _end(ending))
        return len(ending)


def _end(subscribers: list[Subscriber]) -> None:
    for subscriber in subscribers:
        subscriber.end()
