"""One history that is followed: how far its followers have come, and how that is made good when
something was missed."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable

from ..._runtime.log import SayOnce
from .broker import BrokerUnavailable, Follower, Item
from .position import HistoryKey, Position, parse_id
from .ring import Entry, Retention

# How many entries are kept that come while the history is read. What does not fit is read again.
_WAITING = 1_000
# Seconds within which this process hears what it has published, unless it hears nothing.
_PROMPT = 1.0

Waiters = set["asyncio.Future[None]"]


class CatchUp(ABC):
    """A history that is followed by messages, of which some may get lost.

    Followers are given each entry once and in order: from its message, if that follows what they
    have been given, else from the history. All of it is called in one event loop of asyncio.

    Args:
        key, limits: Of a channel.

    Attributes:
        cursor: The position of what the followers have been given; None before the first look.
        followers: Are given the entries.
    """

    def __init__(self, key: HistoryKey, limits: Retention) -> None:
        self.key = key
        self.limits = limits
        self.cursor: Position | None = None
        self.followers: tuple[Follower, ...] = ()
        # Why the history cannot be read. This and what follows are there where they are needed:
        # there may be ten thousand histories.
        self._warning: SayOnce | None = None
        self._subscribed = 0  # 0 if it is not, else which subscription
        self._subscriptions = 0
        # Whether what is heard is given on. It is not, until nothing is missing before it.
        self._live = False
        self._waiters: Waiters = set()
        # Callers that wait for all that was published before they asked.
        self._asking: Waiters = set()
        self._refreshing = False
        self._waiting: deque[tuple[Entry, int]] | None = None
        self._waiting_bytes = 0
        # How far the last look came, and what it looked for.
        self._came: tuple[Position, Position] | None = None
        # The event in the history whose message has not come; and the one that came, and did not
        # follow the cursor.
        self._missing: Position | None = None
        self._unexpected: Position | None = None
        # The newest that this process has published, and when that must have been heard.
        self._published: asyncio.Future[bytes] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # Each broker has these in its own way

    @abstractmethod
    async def read_head(self) -> Position:
        """Returns the position of the newest event, and has the history live on.

        Raises:
            BrokerUnavailable: the broker could not be reached.
        """

    @abstractmethod
    async def read_page(self, first: int, count: int = 1_000) -> list[Entry]:
        """Returns up to `count` entries in order, the first ones that have at least the offset
        `first`; none only if there is none.

        Raises:
            BrokerUnavailable: the broker could not be reached.
        """

    @abstractmethod
    def refresh_soon(self) -> None:
        """Calls `refresh` soon."""

    def doubt(self, missing: Position) -> None:  # noqa: B027, most brokers need not know
        """Called when the history has an event whose message has not come: it may still come, or
        the subscription may lead to a server where nothing is published."""

    def renew(self) -> None:  # noqa: B027, most brokers need not know
        """Called when messages come of events that the history does not have: the connections lead
        to different servers."""

    def trouble(self) -> str:
        """Returns what is wrong with the connections to the broker, if that is known."""
        return ""

    @property
    def is_behind(self) -> bool:
        """Whether the history is to be read before what is heard is given on."""
        return bool(self._asking) or (bool(self._subscribed) and not self._live)

    def warn(self, reason: str) -> None:
        """Logs why the history cannot be read, once for each reason in a row."""
        if self._warning is None:
            self._warning = SayOnce("Clients of channel '%s' have to wait: %s", self.key.channel)
        self._warning.warn(reason)

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
            await _answered(self._waiters, deadline, self.trouble)
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
        self.refresh_soon()
        await _answered(self._asking, deadline, self.trouble)

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
                self.refresh_soon()

    # Called by the subscription

    def on_subscribed(self) -> None:
        """Says that what is published from now on is heard."""
        self._subscriptions += 1
        self._subscribed = self._subscriptions
        self._missing = None
        self._pause()
        self.refresh_soon()

    def on_lost(self) -> None:
        """Says that what is published from now on is not heard, until `on_subscribed`."""
        self._subscribed = 0
        self._missing = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pause()

    def on_ephemeral(self, item: Item) -> bool:
        """Gives followers an event of no history, unless they are behind.

        Returns:
            Whether the event loop should turn.
        """
        full = False
        if self._live:
            for follower in self.followers:
                full = follower.receive_ephemeral(item) or full
        return full

    def on_entry(self, entry: Entry, before: int) -> bool:
        """Takes an entry that was heard.

        Args:
            before: The tag of the entry before it; 0 if there is none.

        Returns:
            Whether the event loop should turn.
        """
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
            self.refresh_soon()
        return False

    def _wait(self, entry: Entry, before: int) -> None:
        """Keeps what may have to be given later, unless it is better read then."""
        self._waiting_bytes += len(entry.frame)
        if self._waiting_bytes > self.limits.history_bytes:
            self._forget_waiting()
        if self._waiting is None:
            self._waiting = deque(maxlen=_WAITING)
        self._waiting.append((entry, before))

    def _forget_waiting(self) -> None:
        self._waiting = None
        self._waiting_bytes = 0

    def _pause(self) -> None:
        self._live = False

    def _turn_live(self) -> None:
        self._live = True
        if self._warning is not None:
            self._warning.forget()
        _answer(self._waiters)

    # Giving entries to followers

    def _follows(self, entry: Entry, before: int) -> bool:
        """Returns whether an entry is the next one."""
        cursor = self.cursor
        return cursor is not None and cursor == (entry.position.epoch, entry.offset - 1, before)

    def _notice_new_life(self, entry: Entry) -> None:
        cursor = self.cursor
        if cursor is None or entry.offset != 1:
            return
        if cursor.epoch != entry.position.epoch:
            self._reset("epoch", Position(entry.position.epoch, 0, 0))

    def _is_known(self, entry: Entry) -> bool:
        """Returns whether an entry was read from the history already."""
        cursor = self.cursor
        if cursor is None or cursor.epoch != entry.position.epoch:
            return False
        return entry.offset < cursor.offset or entry.position == cursor

    def _has(self, position: Position) -> bool:
        """Returns whether the followers have been given what is up to a position."""
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
        head = await self.read_head()
        if self._live and self.cursor == cursor != head:
            self._pause()
            if head.offset:
                self._missing = head
                self.doubt(head)
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
        head = await self.read_head()
        if unexpected is not None and not _reaches(head, unexpected):
            self.renew()
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
        self._forget_waiting()
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
        """Goes on in another life of the history: with all that is still there of it."""
        first = await self.read_page(1, 1) if head.offset else []
        if first and first[0].position.epoch == head.epoch:
            self._reset("epoch", Position(head.epoch, first[0].offset - 1, 0))
            await self._read_pages(head)
        else:
            self._reset("epoch", head)

    async def _read_pages(self, head: Position) -> None:
        is_more = True
        while is_more and self.cursor is not None:
            page = await self.read_page(self.cursor.offset)
            is_more = await self._give_page(page, head) and self.cursor.offset < head.offset

    async def _give_page(self, page: list[Entry], head: Position) -> bool:
        """Gives what is new of a page, and returns whether there may be more."""
        before = self.cursor
        for entry in page:
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


async def _answered(waiters: Waiters, deadline: float, trouble: Callable[[], str]) -> None:
    """Waits to be answered, among others, up to a deadline by the event loop's clock."""
    # Ten thousand may wait at the same time: `asyncio.wait_for` makes a task for each.
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()
    timer = loop.call_at(deadline, _give_up, waiter, trouble)
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


def _give_up(waiter: asyncio.Future[None], trouble: Callable[[], str]) -> None:
    if not waiter.done():
        parts = ["The broker could not be reached in time", trouble()]
        waiter.set_exception(BrokerUnavailable(": ".join(filter(None, parts))))
