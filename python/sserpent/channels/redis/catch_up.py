"""One history that is followed: how far its followers have come, and how that is made good when
something was missed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from ..._runtime.log import SayOnce
from ..history.broker import BrokerUnavailable, Follower
from ..history.position import HistoryKey, Position, parse_id
from ..history.ring import Entry, Retention
from .scripts import Head, Stored, read_message

# How many entries are kept that come while the history is read. What does not fit is read again.
_WAITING = 1_000
# Seconds within which this process hears what it has published, unless it hears nothing.
_PROMPT = 1.0

Waiters = set["asyncio.Future[None]"]


class Source(Protocol):
    """Where the history is read."""

    async def head(self, name: bytes, limits: Retention) -> Head:
        """Returns where a history ends, and has it live on."""
        ...

    async def page(
        self, name: bytes, first: int, count: int = 1_000, last: int | None = None
    ) -> list[Stored]:
        """Returns entries of a history: so many, from an offset on, up to another."""
        ...

    def doubt(self, followed: CatchUp, missing: Position) -> None:
        """Renews the connections, if `followed` has still not heard of an event when the
        subscription has given all that was sent before now."""
        ...

    def renew(self, followed: CatchUp) -> None:
        """Renews the connections: that for commands and that for subscriptions lead to different
        servers."""
        ...


class CatchUp:
    """A history, its followers and their cursor. All of it is called in the session's event loop.

    Args:
        key, limits: Of a channel.
        name: Of the history, in Redis.
        source: Where the history is read.
        refresh: Has `refresh` called soon.

    Attributes:
        cursor: After what the followers have been given; None before the first look.
        followers: Who is told.
        users: How many are about to follow.
        is_due: Whether `refresh` is going to be called.
        look_at: When to compare the cursor with the history, by the event loop's clock.
        warning: Logs why the history cannot be read.
    """

    def __init__(
        self,
        key: HistoryKey,
        limits: Retention,
        name: bytes,
        source: Source,
        refresh: Callable[[CatchUp], None],
    ) -> None:
        self.key = key
        self.limits = limits
        self.name = name
        self.cursor: Position | None = None
        self.followers: tuple[Follower, ...] = ()
        self.users = 0
        self.is_due = False
        self.look_at = 0.0
        self.warning = SayOnce("Clients of channel '%s' have to wait: %s", key.channel)
        self._source = source
        self._refresh = refresh
        self._subscribed = 0  # 0 if it is not, else which subscription
        self._subscriptions = 0
        # Whether what is heard is given on. It is not, until nothing is missing before it.
        self._live = False
        self._waiters: Waiters = set()
        # Who waits for what was published before they asked.
        self._asking: Waiters = set()
        self._refreshing = False
        self._waiting: deque[tuple[Entry, int]] = deque(maxlen=_WAITING)
        self._waiting_bytes = 0
        # How far the last look came, and what it looked for.
        self._came: tuple[Position, Position] | None = None
        # What was found in the history, and its message has not come; and what came, and did not
        # follow the cursor.
        self._missing: Position | None = None
        self._unexpected: Position | None = None
        # The newest that this process has published, and when that must have been heard.
        self._published: asyncio.Future[bytes] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_behind(self) -> bool:
        """Whether the history is to be read before what is heard is given on."""
        return bool(self._asking) or (bool(self._subscribed) and not self._live)

    def has_missed(self, missing: Position) -> bool:
        """Says that the message of an event must have come by now, and returns whether it has
        not."""
        if self._missing != missing:
            return False
        self._missing = None
        return True

    async def live(self, deadline: float) -> Position:
        """Returns the cursor, once there is nothing missing before what is heard.

        Args:
            deadline: When to give up, by the event loop's clock.

        Raises:
            BrokerUnavailable: then.
        """
        while not self._live:
            await _answered(self._waiters, deadline)
        assert self.cursor is not None
        return self.cursor

    async def caught_up(self, deadline: float) -> None:
        """Returns once the followers have been given all that was published before the call, even
        if the subscription is late or away.

        Args:
            deadline: When to give up, by the event loop's clock.

        Raises:
            BrokerUnavailable: then.
        """
        self._refresh(self)
        await _answered(self._asking, deadline)

    def watch(self, published: asyncio.Future[bytes]) -> None:
        """Looks soon whether what this process has published is heard here."""
        self._published = published
        if self._timer is None:
            self._look_soon()

    def _look_soon(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_PROMPT, self._look)

    def _look(self) -> None:
        self._timer = None
        published = self._published
        if published is None or not self._live:
            return
        if not published.done():
            self._look_soon()
        elif not published.cancelled() and published.exception() is None:
            position = parse_id(published.result().decode())
            if position is not None and not self._has(position):
                self._refresh(self)

    # Called by the subscription

    def on_subscribed(self) -> None:
        self._subscriptions += 1
        self._subscribed = self._subscriptions
        self._missing = None
        self._pause()
        self._refresh(self)

    def on_lost(self) -> None:
        self._subscribed = 0
        self._missing = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pause()

    def on_message(self, message: bytes) -> bool:
        try:
            entry, before = read_message(message)
        except ValueError:
            # Nothing is missing because of it: the next event says what is before that.
            return False
        if entry.position == self._missing:
            self._missing = None
        if not self._live:
            self._wait(entry, before)
            return False
        self._notice_new_life(entry)
        if self._follows(entry, before):
            return self._give(entry)
        if not self._is_known(entry):
            self._unexpected = entry.position
            self._pause()
            self._refresh(self)
        return False

    def _wait(self, entry: Entry, before: int) -> None:
        """Keeps what may have to be given later, unless it is better read then."""
        self._waiting_bytes += len(entry.frame)
        if self._waiting_bytes > self.limits.history_bytes:
            self._forget_waiting()
        self._waiting.append((entry, before))

    def _forget_waiting(self) -> None:
        self._waiting.clear()
        self._waiting_bytes = 0

    def _pause(self) -> None:
        self._live = False

    def _turn_live(self) -> None:
        self._live = True
        self.warning.forget()
        _answer(self._waiters)

    # Giving entries to followers

    def _follows(self, entry: Entry, before: int) -> bool:
        """Whether an entry is the next one."""
        cursor = self.cursor
        return cursor is not None and cursor == (entry.position.epoch, entry.offset - 1, before)

    def _notice_new_life(self, entry: Entry) -> None:
        cursor = self.cursor
        if cursor is None or entry.offset != 1:
            return
        if cursor.epoch != entry.position.epoch:
            self._reset("epoch", Position(entry.position.epoch, 0, 0))

    def _is_known(self, entry: Entry) -> bool:
        """Whether an entry was read from the history already."""
        cursor = self.cursor
        if cursor is None or cursor.epoch != entry.position.epoch:
            return False
        return entry.offset < cursor.offset or entry.position == cursor

    def _has(self, position: Position) -> bool:
        """Whether the followers have been given what is up to a position."""
        cursor = self.cursor
        if cursor is None or cursor.epoch != position.epoch:
            return False
        return cursor.offset >= position.offset

    def _give(self, entry: Entry) -> bool:
        self.cursor = entry.position
        full = False
        for follower in self.followers:
            full = follower.receive(entry) or full
        return full

    def _reset(self, reason: str, head: Position) -> None:
        self.cursor = head
        for follower in self.followers:
            follower.reset(reason, head)

    # Making good what was missed

    async def refresh(self) -> None:
        """Compares the cursor with the history, and gives what is missing.

        Raises:
            BrokerUnavailable: the broker could not be reached.
        """
        if self._refreshing:
            return  # that goes on until nothing is missing
        self._refreshing = True
        try:
            is_first = self._live
            while is_first or self.is_behind:
                is_first = False
                await (self._compare() if self._live else self._catch_up())
        finally:
            self._refreshing = False

    async def _compare(self) -> None:
        cursor = self.cursor
        asking = set(self._asking)
        head = (await self._source.head(self.name, self.limits)).position
        if self._live and self.cursor == cursor != head:
            self._pause()
            if head.offset:
                self._missing = head
                self._source.doubt(self, head)
        if self._has(head):
            self._answer(asking)
        elif asking:
            self._pause()

    async def _catch_up(self) -> None:
        """Gives what is missing before what is heard from now on, and then that."""
        # The history has what was heard before it is read.
        self._forget_waiting()
        subscription, asking = self._subscribed, set(self._asking)
        unexpected, self._unexpected = self._unexpected, None
        head = (await self._source.head(self.name, self.limits)).position
        if unexpected is not None and not _reaches(head, unexpected):
            self._source.renew(self)
        if self.cursor is None:
            self.cursor = head
        elif self.cursor != head:
            await self._read_on(self.cursor, head)
        is_all = self._has(head)
        if is_all:
            self._answer(asking)
        else:
            self._notice_no_way(self.cursor, head)
        if is_all and subscription and subscription == self._subscribed and self._give_waiting():
            self._turn_live()

    def _answer(self, asking: Waiters) -> None:
        _answer(asking)
        self._asking -= asking

    def _notice_no_way(self, cursor: Position, head: Position) -> None:
        """Goes on at the head if two looks for it have come no further: what is between is not
        ours, or of other lives of the history."""
        if self._came == (cursor, head):
            self._reset("diverged", head)
        self._came = cursor, head

    def _give_waiting(self) -> bool:
        while self._waiting:
            entry, before = self._waiting.popleft()
            self._notice_new_life(entry)
            if self._follows(entry, before):
                self._give(entry)
            elif not self._is_known(entry):
                self._unexpected = entry.position
                return False
        return True

    async def _read_on(self, cursor: Position, head: Position) -> None:
        """Gives what is in the history after a cursor."""
        if cursor.epoch != head.epoch:
            await self._begin_anew(head)
        elif head.offset < cursor.offset:
            self._reset("diverged", head)
        else:
            await self._read_pages(head)

    async def _begin_anew(self, head: Position) -> None:
        """Goes on in another life of the history: from its beginning, if that is still there."""
        first = await self._source.page(self.name, 1, 1) if head.offset else []
        if first and first[0].entry.position[:2] == (head.epoch, 1):
            self._reset("epoch", Position(head.epoch, 0, 0))
            await self._read_pages(head)
        else:
            self._reset("epoch", head)

    async def _read_pages(self, head: Position) -> None:
        is_more = True
        while is_more and self.cursor is not None:
            page = await self._source.page(self.name, self.cursor.offset)
            is_more = await self._give_page(page, head) and self.cursor.offset < head.offset

    async def _give_page(self, page: list[Stored], head: Position) -> bool:
        """Gives what is new of a page, and returns whether there may be more."""
        before = self.cursor
        for entry, _, _ in page:
            cursor = self.cursor
            assert cursor is not None
            if entry.position.epoch != head.epoch:
                return False
            if entry.offset == cursor.offset and entry.position.tag != cursor.tag and cursor.tag:
                self._reset("diverged", head)
                return False
            if entry.offset > cursor.offset and self._give(entry):
                await asyncio.sleep(0)
        return self.cursor != before


def _reaches(head: Position, position: Position) -> bool:
    return head.epoch == position.epoch and head.offset >= position.offset


async def _answered(waiters: Waiters, deadline: float) -> None:
    """Waits to be answered, among others, up to a deadline by the event loop's clock."""
    # Ten thousand may wait at the same time: `asyncio.wait_for` makes a task for each.
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()
    timer = loop.call_at(deadline, _give_up, waiter)
    waiters.add(waiter)
    try:
        await waiter
    finally:
        timer.cancel()
        waiters.discard(waiter)


def _answer(waiters: Waiters) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)


def _give_up(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(BrokerUnavailable("Redis could not be reached in time"))
