"""The newest entries of one history, for the subscribers of one event loop."""

from __future__ import annotations

import contextlib
from collections import deque
from operator import itemgetter
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from ..history.broker import Broker, Item
from ..history.position import NOWHERE, HistoryKey, Position
from ..history.ring import BURST, Entry, EphemeralEntry, Retention, Ring, joined

if TYPE_CHECKING:
    from .chain import Chain  # needs zlib

# How many entries, or bytes, may wait for the event loop before a publisher lets it turn.
_FULL, _FULL_BYTES = 256, 262_144
# After how many entries that are taken in to look at the time.
_LOOK = 64
_NO_CHUNK: tuple[Position | None, int | None, bytes, Position] = None, 0, b"", NOWHERE


class TailSubscriber(Protocol):
    """A subscriber as its tail sees it."""

    @property
    def has_filter(self) -> bool:
        """Whether events may be hidden from it."""
        ...

    def reset(self, tail: Any, reason: str) -> None:
        """Takes notice that the history has begun anew."""
        ...

    def expect_ephemeral(self) -> None:
        """Takes notice that there is an event of no history."""
        ...

    def awaits_ephemeral(self, tail: Any) -> bool:
        """Returns whether it has not taken all events of no history."""
        ...


class TailHub(Protocol):
    """A hub as its tails see it."""

    @property
    def broker(self) -> Broker:
        """The broker that keeps the history."""
        ...

    def now(self) -> float:
        """Returns the time by the broker's clock."""
        ...

    def wake(self, tail: Any) -> None:
        """Says that a tail has something to take in. May be called in any thread."""
        ...

    def has_ended(self) -> bool:
        """Returns whether the event loop is closed. May be called in any thread."""
        ...


class _Lock:
    """A lock that takes no turn of the event loop where nobody holds it. anyio's takes two, and
    each key would keep three objects of it."""

    __slots__ = ("_is_held", "_waiting")

    def __init__(self) -> None:
        self._is_held = False
        self._waiting: deque[anyio.Event] | None = None

    async def __aenter__(self) -> None:
        if not self._is_held:
            self._is_held = True
            return
        turn = anyio.Event()
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self._pass_on()
            else:
                self._waiting.remove(turn)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        """Gives it to the one who has waited longest. It is held without a break, so nobody comes
        between."""
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self._is_held = False
            self._waiting = None


class Tail:
    """The newest entries of one history, for the subscribers of one event loop.

    Its ring reaches back as far as somebody has asked for, so that those who come back for the same
    stretch read it once.

    Attributes:
        ring: The entries that subscribers are given.
        subscribers: Those that are given the entries.
        offered: The offset up to which each subscriber was told to take them.
        settled: The one up to which each has had the occasion: what is newer is not trimmed.
        taken_in_parts: How often a subscriber has taken a part of what there was, and not all.
        users: How many subscribers and listeners there are, those who are about to be included.
    """

    def __init__(self, key: HistoryKey, limits: Retention, hub: TailHub) -> None:
        self.key = key
        self.limits = limits
        self.ring = Ring(limits, NOWHERE)
        self.subscribers: dict[Any, None] = {}
        self.offered = 0
        self.settled = 0
        self.taken_in_parts = 0
        self.users = 0
        self.following = False
        #: Held while the broker is asked.
        self.lock = _Lock()
        self._hub = hub
        self._incoming: deque[Entry | tuple[str, Position]] = deque()
        # Each is changed in one thread only: the first two in that of the broker.
        self._received_bytes = self._shed_bytes = self._taken_bytes = 0
        # How many bytes are kept of what not everyone has had the occasion to take.
        self._most_bytes = max(limits.history_bytes, BURST)
        self.woken = False
        #: Whether an event may stand for older ones.
        self.conflates = False
        # Chunks by the offset before them and their most bytes, and where they end: nearly all
        # subscribers take the same, from the same entries.
        self._chunks: dict[tuple[int, int], tuple[bytes, Position]] = {}
        #: The one that was taken last, or has come since: after which position, in how many bytes
        #: at most (None for a single entry, which is taken whatever its size), what, and where it
        #: ends.
        self.newest_chunk = _NO_CHUNK
        # Events that are in no history, by their number, until each subscriber has had the occasion
        # to take them; after that the newest of each `conflate`, until each has. One that was
        # replaced and that a filter may need has its number as its key.
        self.newest_ephemeral = self.settled_ephemeral = 0
        self._ephemeral: deque[tuple[int, EphemeralEntry]] = deque()
        self._newest_of: dict[str | int, tuple[int, EphemeralEntry]] = {}
        self._ephemeral_bytes = 0
        # After which offsets entries are kept for those who wait for a snapshot, by its call.
        self._held: dict[object, int] = {}
        #: Its compressed events, while a client shares them.
        self.chain: Chain | None = None

    # Called in any thread

    def receive(self, entry: Entry) -> bool:
        incoming = self._incoming
        incoming.append(entry)
        self._received_bytes += len(entry.frame)
        self._hub.wake(self)
        size = self._received_bytes - self._shed_bytes - self._taken_bytes
        full = len(incoming) >= _FULL or size >= _FULL_BYTES
        if full:
            self._bound(size)
        return full

    def receive_ephemeral(self, item: Item) -> bool:
        return self.receive(EphemeralEntry(item.body, item.raw, item.conflate))

    def count(self) -> int:
        return len(self.subscribers)

    def _bound(self, size: int) -> None:
        """Bounds what waits for an event loop that does not turn: what is let go of becomes a gap
        for its subscribers. One that has ended is not waited for."""
        if self._hub.has_ended():
            self._hub.broker.unfollow(self.key, self)
        elif size > self._most_bytes and len(self._incoming) > 1:
            self._shed()

    def _shed(self) -> None:
        with contextlib.suppress(IndexError):  # it has turned just now
            first = self._incoming[0]
            if isinstance(first, Entry):
                self._incoming.popleft()
                self._shed_bytes += len(first.frame)

    def reset(self, reason: str, head: Position) -> None:
        self._incoming.append((reason, head))
        self._hub.wake(self)

    # Called in the event loop

    def add_subscriber(self, subscriber: TailSubscriber) -> None:
        """Tells a subscriber of what is new, from now on."""
        self.subscribers[subscriber] = None

    def remove_subscriber(self, subscriber: TailSubscriber) -> None:
        """Forgets a subscriber that has left."""
        self.subscribers.pop(subscriber, None)

    def begin(self, head: Position) -> None:
        """Begins after a position, which what the broker has given before is part of."""
        self._forget_chunks()
        self.ring = Ring(self.limits, head)
        self.chain = None
        self.offered = self.settled = head.offset
        self.following = True

    def drain(self, until: float) -> bool:
        """Takes in what the broker has given so far, and returns whether there was anything.

        Args:
            until: When to leave the rest for another time, by `monotonic`.
        """
        self.woken = False
        if not self.following:
            return False  # `begin` drains
        count = len(self._incoming)  # another thread may go on
        for taken in range(count):
            if taken % _LOOK == _LOOK - 1 and monotonic() >= until:
                self._hub.wake(self)
                break
            try:
                new = self._incoming.popleft()
            except IndexError:
                break  # the rest was shed just now
            self._take_in(new)
        return count > 0

    def _take_in(self, new: Entry | tuple[str, Position]) -> None:
        if isinstance(new, tuple):
            self._restart(*new)
            return
        self._taken_bytes += len(new.frame)
        if new.offset > self.ring.head.offset:
            self._append(new)
        elif isinstance(new, EphemeralEntry):
            self._append_ephemeral(new)
        # Any other was read from the history.

    def _append(self, entry: Entry) -> None:
        before = self.ring.head
        self.ring.append(entry)
        self._forget_chunks()
        if entry.offset == before.offset + 1:
            self.newest_chunk = before, None, entry.frame, entry.position
        self.ring.trim(entry.time, self._untrimmed, self.settled)
        if entry.conflate is not None:
            self.conflates = True

    def _append_ephemeral(self, entry: EphemeralEntry) -> None:
        self.newest_ephemeral += 1
        self._ephemeral.append((self.newest_ephemeral, entry))
        self._ephemeral_bytes += len(entry.frame)
        while self._ephemeral_bytes > self._most_bytes and self._ephemeral_count > 1:
            self._forget_oldest_ephemeral()
        for subscriber in self.subscribers:
            subscriber.expect_ephemeral()

    @property
    def _ephemeral_count(self) -> int:
        return len(self._ephemeral) + len(self._newest_of)

    def _forget_oldest_ephemeral(self) -> None:
        if self._newest_of:
            _, entry = self._newest_of.pop(next(iter(self._newest_of)))
        else:
            _, entry = self._ephemeral.popleft()
        self._ephemeral_bytes -= len(entry.frame)

    def ephemeral_after(self, number: int) -> list[EphemeralEntry]:
        """Returns the events of no history that came after the one with a number, and can still be
        taken."""
        if number == self.newest_ephemeral:
            return []
        numbered = [*self._ephemeral, *self._newest_of.values()]
        return [entry for n, entry in sorted(numbered, key=itemgetter(0)) if n > number]

    def _settle_ephemeral(self, number: int) -> None:
        """Forgets the events of no history up to a number, but for those that stand for others and
        that somebody has not taken."""
        self.settled_ephemeral = number
        conflated: list[tuple[int, EphemeralEntry]] = []
        while self._ephemeral and self._ephemeral[0][0] <= number:
            numbered = self._ephemeral.popleft()
            if numbered[1].conflate is None:
                self._ephemeral_bytes -= len(numbered[1].frame)
            else:
                conflated.append(numbered)
        if conflated or self._newest_of:
            self._keep_newest(conflated)

    def _keep_newest(self, conflated: list[tuple[int, EphemeralEntry]]) -> None:
        """Keeps the newest of each `conflate` for those who have not taken it."""
        newest_of = self._newest_of
        awaiting = [each for each in self.subscribers if each.awaits_ephemeral(self)]
        is_filtered = any(each.has_filter for each in awaiting)
        for numbered in conflated:
            conflate = numbered[1].conflate
            assert conflate is not None
            before = newest_of.pop(conflate, None)
            newest_of[conflate] = numbered
            if before is None:
                continue
            if is_filtered:  # a filter may hide the newer one
                newest_of[before[0]] = before
            else:
                self._ephemeral_bytes -= len(before[1].frame)
        while newest_of and (not awaiting or self._ephemeral_bytes > self.limits.history_bytes):
            self._forget_oldest_ephemeral()

    def _restart(self, reason: str, head: Position) -> None:
        self.begin(head)
        for subscriber in self.subscribers:
            subscriber.reset(self, reason)

    def settle(self, head: Position, ephemeral: int) -> None:
        """Says that everyone has had the occasion to take what there is up to a position, and up to
        the number of an event of no history."""
        self._settle_ephemeral(ephemeral)
        if head.epoch == self.ring.head.epoch:
            self.settled = head.offset
            self.trim()

    def trim(self) -> None:
        """Forgets entries that are beyond the limits, unless a subscriber has still to get them."""
        self._forget_chunks()
        self.ring.trim(self._hub.now(), self._untrimmed, self.settled)

    @property
    def _untrimmed(self) -> int:
        """The offset after which entries are trimmed only for the sake of `history_bytes`."""
        return min(self.settled, *self._held.values()) if self._held else self.settled

    def hold(self, holder: object, offset: int) -> None:
        """Keeps what comes after an offset, within `history_bytes`, until `let_go`."""
        self._held[holder] = offset

    def let_go(self, holder: object) -> None:
        """Keeps what was held until each subscriber has had the occasion to take it, no longer."""
        offset = self._held.pop(holder, None)
        if offset is not None:
            self.settled = min(self.settled, offset)

    def keeps(self, position: Position) -> bool:
        """Returns whether all that comes after a position is there to be taken."""
        return self.why_not(position) is None and position.offset >= self.ring.floor.offset

    def why_not(self, after: Position) -> str | None:
        """Returns why what is there now does not continue a position, if it does not: the reason of
        the event `reset`."""
        head = self.ring.head
        if after.epoch != head.epoch:
            return "epoch"
        if after.offset > head.offset:
            return "ahead"
        known = self.position_at(after.offset)
        if known is not None and known.tag != after.tag and known.tag and after.tag:
            return "diverged"
        return None

    def position_at(self, offset: int) -> Position | None:
        """Returns the position after the event with an offset, if it is known."""
        ring = self.ring
        if offset == ring.head.offset:
            return ring.head
        if offset == ring.floor.offset:
            return ring.floor
        entry = ring.at(offset)
        return None if entry is None else entry.position

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

    async def reach_back(self, broker: Broker, first: int) -> bool:
        """Makes the ring begin with the entry of an offset, or as near as the broker has one.

        Returns:
            Whether the broker has what is before the ring. If not, that is trimmed, or the history
            is lost and this tail has not heard of it.

        Raises:
            BrokerUnavailable: the broker could not be reached.
        """
        if first > self.ring.floor.offset:
            return True  # as for most: a lock that is free takes a turn of the event loop too
        async with self.lock:
            floor = self.ring.floor
            if first > floor.offset:
                return True
            read_floor, entries = await broker.read(self.key, self.limits, first, floor.offset + 1)
            # Meanwhile the ring may have moved on, or the history have begun anew.
            continues = bool(entries) and entries[-1].position[:2] == floor[:2]
            if self.ring.floor == floor and continues:
                self.ring.prepend(read_floor, entries)
            return continues


def upto(entries: list[Entry], size: int) -> list[Entry]:
    """Returns the first entries that have so many bytes, and at least one."""
    total = 0
    for count, entry in enumerate(entries):
        total += len(entry.frame)
        if total > size:
            return entries[: count or 1]
    return entries
