"""The part of a broker that another one need not write again."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from time import time
from typing import TYPE_CHECKING, Any

import anyio

from ..._runtime.loops import call_soon, current_token, has_ended, spawn
from .broker import BrokerError, ChannelsClosed, Item, PublishUncertain, RunBroker
from .position import HistoryKey, Position
from .ring import Entry, Retention

if TYPE_CHECKING:
    # The four methods that each broker has in its own way are those of `Broker`.
    from .broker import Broker
else:
    Broker = object


class BaseBroker(Broker):
    """A broker but for `publish`, `follow`, `unfollow` and `read`.

    Events of `publish_soon` are published one by one, on the event loop where `open` was called, or
    else on the one that published first. A broker overrides more where it can do better: `catch_up`
    where followers may hear late of what another process has published, `runs` if it keeps runs,
    `now` if it has a clock of its own.
    """

    def __init__(self) -> None:
        self._token: Any = None  # of the event loop that publishes what comes from threads
        self._queue: deque[tuple[Future[str], HistoryKey, Retention, Item]] = deque()
        self._is_sending = False
        self._is_closing = False
        self._is_closed = False
        self._sent = anyio.Event()

    @property
    def runs(self) -> RunBroker:
        """The part for runs.

        Raises:
            NotImplementedError: the broker keeps no runs.
        """
        raise NotImplementedError(f"{type(self).__name__} keeps no runs: it has no 'runs'")

    def open(self) -> None:
        self._is_closing = self._is_closed = False
        self._token = current_token()

    def check_open(self) -> None:
        """Raises `ChannelsClosed` after `aclose`: for the methods that publish and follow."""
        if self._is_closed:
            raise ChannelsClosed

    async def ready(self) -> None:
        self.check_open()

    def now(self) -> float:
        return time()

    async def publish_many(
        self, key: HistoryKey, limits: Retention, items: Sequence[Item]
    ) -> list[str]:
        """Publishes events one by one. A broker that can append several at once does."""
        ids: list[str] = []
        try:
            for item in items:
                ids.append(await self.publish(key, limits, item))  # noqa: PERF401
        except BrokerError as error:
            if ids:
                raise PublishUncertain(f"{len(ids)} of {len(items)} are published") from error
            raise
        return ids

    async def count_subscribers(self, key: HistoryKey) -> int:
        raise NotImplementedError(f"{type(self).__name__} counts no subscribers")

    async def position(self, key: HistoryKey, limits: Retention) -> Position:
        follower = _Nobody()
        try:
            return await self.follow(key, limits, follower)
        finally:
            self.unfollow(key, follower)

    async def catch_up(self, key: HistoryKey) -> None:
        """Does nothing: followers are given each event as it is published."""

    def publish_soon(self, key: HistoryKey, limits: Retention, item: Item) -> Future[str]:
        future: Future[str] = Future()
        try:
            token = self._event_loop()
        except RuntimeError as error:
            future.set_exception(error)
        else:
            self._queue.append((future, key, limits, item))
            call_soon(token, self._begin_sending)
        return future

    def _event_loop(self) -> Any:
        if self._is_closing:
            raise ChannelsClosed
        if self._token is None or has_ended(self._token):
            self._token = current_token()
        return self._token

    def _begin_sending(self) -> None:
        if not self._is_sending:
            self._is_sending = True
            spawn(self._send)

    async def _send(self) -> None:
        try:
            while self._queue:
                await self._send_next()
        finally:
            self._is_sending = False
            self._sent.set()

    async def _send_next(self) -> None:
        future, key, limits, item = self._queue.popleft()
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(await self.publish(key, limits, item))
        except Exception as error:
            future.set_exception(error)
        except BaseException:
            future.set_exception(RuntimeError("The event loop of these channels has ended"))
            raise

    async def aclose(self) -> None:
        self._is_closing = True
        while self._queue or self._is_sending:
            self._sent = anyio.Event()
            self._begin_sending()  # the event loop that was asked to may have ended
            await self._sent.wait()
        self._is_closed = True


class _Nobody:
    """A follower that does nothing with what it is given."""

    def receive(self, entry: Entry) -> bool:
        return False

    def receive_ephemeral(self, item: Item) -> bool:
        return False

    def count(self) -> int:
        return 0

    def reset(self, reason: str, head: Position) -> None:
        pass
