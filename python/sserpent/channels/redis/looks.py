"""Compares the histories that are followed with Redis now and then, many in one call: a message may
have been lost, and a history that somebody follows must not expire."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from typing import Any

from ..._runtime.loops import end
from ..history.broker import BrokerUnavailable, Refused
from ..history.position import UNUSED_TTL, HistoryKey
from ..history.ring import Retention
from .history import RedisHistory
from .scripts import LOOK

#: How many histories are compared by one call, or at the same time.
TOGETHER = 100
# How many histories are compared as often as a few are. If there are more, each is compared less
# often, but never less often than at `_MOST` times the interval of a few.
_MANY = 2_000
_MOST = 6


class Looks:
    """Compares histories, in the running event loop.

    Args:
        interval: Seconds between two looks at a history, where there are few.
        followed: The histories.
        ask: Returns the answer to a command; its first argument is the history that it is about.
        together: How many histories one call may name: in a cluster, one.
    """

    def __init__(
        self,
        interval: float,
        followed: dict[HistoryKey, RedisHistory],
        ask: Callable[..., asyncio.Future[Any]],
        together: int,
    ) -> None:
        self._shortest = interval
        self._followed = followed
        self._ask = ask
        self._together = together
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def add(self, history: RedisHistory) -> None:
        """Compares a history from now on, as long as it is followed."""
        history.look_at = self._loop.time() + self._interval(history) * random.uniform(0.5, 1)
        if self._timer is None or history.look_at < self._timer.when():
            self._set_timer(history.look_at)

    async def aclose(self) -> None:
        """Compares nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            await end(self._task)

    def _interval(self, history: RedisHistory) -> float:
        return interval(self._shortest, len(self._followed), _ttl(history))

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        if self._task is None or self._task.done():
            due = [history for history in self._followed.values() if history.look_at <= now]
            for history in due:
                history.look_at = now + self._interval(history)
            if due:
                self._task = self._loop.create_task(self._compare(due))
        if self._followed:
            # Not for each alone: there may be ten thousand.
            least = min(map(self._interval, self._followed.values()))
            soonest = min(history.look_at for history in self._followed.values())
            self._set_timer(max(soonest, now + least / 8))

    async def _compare(self, due: list[RedisHistory]) -> None:
        # One part after the other: commands that come meanwhile go in between.
        for start in range(0, len(due), TOGETHER):
            part = due[start : start + TOGETHER]
            step = self._together
            calls = [self._compare_part(part[n : n + step]) for n in range(0, len(part), step)]
            await asyncio.gather(*calls)

    async def _compare_part(self, histories: list[RedisHistory]) -> None:
        """Refreshes the histories that differ from what Redis has."""
        now = self._loop.time()
        args: list[Any] = []
        for history in histories:
            ttl = _ttl(history)
            # To have a history live on takes Redis as long as to look at it.
            expires = ttl < math.inf and now >= history.kept_at + ttl / 4
            args += [*history.known(), max(round(ttl * 1000), 1) if expires else b""]
            if expires:
                history.kept_at = now
        names = [history.name for history in histories]
        try:
            different = await self._ask(names[0], "EVALSHA", LOOK.sha, len(names), *names, *args)
        except Refused:
            different = range(1, len(names) + 1)  # each finds out why
        except BrokerUnavailable:
            return  # whatever is followed is read when Redis is back
        for number in different:
            if histories[number - 1].followers:
                histories[number - 1].refresh_soon()


def interval(shortest: float, count: int, ttl: float) -> float:
    """Returns how many seconds lie between two looks at a history.

    Args:
        shortest: So many if there are few.
        count: How many histories there are.
        ttl: For how many seconds the history lives on from a look at it.
    """
    return min(shortest * min(max(count / _MANY, 1), _MOST), ttl / 3)


def _ttl(history: RedisHistory) -> float:
    """Returns for how many seconds a history lives on in Redis from a look at it."""
    return unused_ttl(history.limits) if history.is_unused else history.limits.history_ttl


def unused_ttl(limits: Retention) -> float:
    """Returns for how many seconds a history lives on to which nothing was published."""
    return min(limits.history_ttl, UNUSED_TTL)
