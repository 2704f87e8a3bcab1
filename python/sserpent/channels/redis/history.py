"""A history in Redis that is followed: its name there, and how it is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from ..history.catch_up import CatchUp
from ..history.position import HistoryKey, Position, new_epoch
from ..history.ring import Entry, Retention
from .counting import answered, is_question
from .scripts import Head, Stored, read_ephemeral, read_message


class Source(Protocol):
    """Reads histories, and knows the connections."""

    async def head(self, name: bytes, limits: Retention) -> Head:
        """Returns where a history ends, and renews its expiry."""
        ...

    async def page(self, name: bytes, first: int, count: int) -> list[Stored]:
        """Returns so many entries of a history, from an offset on."""
        ...

    def doubt(self, history: RedisHistory, missing: Position) -> None:
        """Renews the connections, if a history has still not heard of an event when the
        subscription has given all that was sent before now."""
        ...

    def reply(self, inbox: bytes, message: bytes) -> None:
        """Publishes the number of subscribers, for the process that has asked."""
        ...

    def trouble(self) -> str:
        """Returns what is wrong with the connections, if anything is."""
        ...

    def renew(self, history: RedisHistory) -> None:
        """Renews the connections: that for commands and that for subscriptions lead to different
        servers."""
        ...


class RedisHistory(CatchUp):
    """A history in Redis that is followed.

    Args:
        key, limits: Of a channel.
        name: Of the history, in Redis.
        source: Reads it.
        refresh: Schedules a call of `refresh`.

    Attributes:
        users: How many are about to follow.
        is_due: Whether `refresh` is going to be called.
        look_at: When to compare the cursor with the history, by the event loop's clock.
        kept_at: When it was last seen to that the history does not expire, by the same clock.
    """

    def __init__(
        self,
        key: HistoryKey,
        limits: Retention,
        name: bytes,
        source: Source,
        refresh: Callable[[RedisHistory], None],
    ) -> None:
        super().__init__(key, limits)
        self.name = name
        self.users = 0
        self.is_due = False
        self.look_at = self.kept_at = 0.0
        self._source = source
        self._refresh_soon = refresh
        self._who = new_epoch()

    def on_message(self, message: bytes) -> bool:
        try:
            if is_question(message):
                count = sum(each.count() for each in self.followers)
                self._source.reply(*answered(message, self._who, count))
                return False
            ephemeral = read_ephemeral(message)
            if ephemeral is not None:
                return self.on_ephemeral(ephemeral)
            entries = read_message(message)
        except ValueError:
            # Nothing is missing because of it: the next event says what is before that.
            return False
        full = False
        for entry, before in entries:
            full = self.on_entry(entry, before) or full
        return full

    @property
    def is_unused(self) -> bool:
        """Whether nothing was published to it, as far as is known."""
        return self.cursor is None or not self.cursor.offset

    def known(self) -> tuple[bytes, bytes]:
        """Returns the id and the epoch of the newest entry that `LOOK` finds in Redis if nothing is
        missing; what it never finds, if something may be."""
        if self.cursor is None or self.is_behind:
            return b"", b""
        epoch, offset, tag = self.cursor
        return b"%d-%d" % (offset, tag if offset else 1), epoch.encode()

    async def read_head(self) -> Position:
        self.kept_at = asyncio.get_running_loop().time()
        return (await self._source.head(self.name, self.limits)).position

    async def read_page(self, first: int, count: int = 1_000) -> list[Entry]:
        page = await self._source.page(self.name, first, count)
        return [entry for entry, _, _ in page]

    def refresh_soon(self) -> None:
        self._refresh_soon(self)

    def trouble(self) -> str:
        return self._source.trouble()

    def doubt(self, missing: Position) -> None:
        self._source.doubt(self, missing)

    def renew(self) -> None:
        self._source.renew(self)
