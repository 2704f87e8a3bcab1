"""The broker on Redis, for any thread and any asyncio event loop of a process."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from time import monotonic, time
from typing import Any, TypeVar
from weakref import WeakSet

from anyio import from_thread

from ..._runtime.loops import on_asyncio
from ..fanout.owner_disconnects import OwnerDisconnects
from ..history.broker import ChannelsClosed, Follower, Item
from ..history.position import HistoryKey, Position
from ..history.ring import Entry, Retention
from .background import Background, background, keep_for_the_parent
from .client.cluster import ClusterServer
from .client.connection import Server
from .client.sentinel import SentinelServer
from .client.servers import Pace
from .runs import RedisRuns
from .session import Session

T = TypeVar("T")


class RedisBroker:
    """Keeps histories in Redis. Safe to use from any thread, once it runs on an event loop.

    That is the one in which `open` is called, or else the first that uses it, or else the
    background's, where somebody publishes and there is none. Others, and threads, have it do their
    work there.

    Args:
        url: Of the server, as redis-py takes it, or as `SentinelServer` or
            `ClusterServer` do.
        prefix: What the names of all keys begin with.
        pace: How long to wait for the server.
        disconnects: Follows `owner_disconnects.HISTORY`, before any other history is followed.
        shares_limits: Whether `take_slots` will be called.

    Raises:
        ValueError: the URL is none of Redis.
    """

    def __init__(
        self,
        url: str,
        prefix: str = "sserpent",
        pace: Pace | None = None,
        disconnects: OwnerDisconnects | None = None,
        shares_limits: bool = False,
    ) -> None:
        self._server = _server(url)
        self._prefix = prefix
        self._pace = pace or Pace()
        self._disconnects = disconnects
        self._shares_limits = shares_limits
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._background: Background | None = None
        self._closed = False
        self.runs = RedisRuns(self.at_home)
        _brokers.add(self)

    def now(self) -> float:
        session = self._session
        if session is None or session.skew is None:
            return time()
        return monotonic() + session.skew

    # Where it runs

    def open(self) -> None:
        """Runs on this event loop from now on, also after `aclose`."""
        self._closed = False
        self._leave_background()
        self._home()

    def _leave_background(self) -> None:
        """Ends the session of the background, after it has sent what was published there before
        the application began."""
        with self._lock:
            session = self._session
            if session is None or not self._is_in_background(session) or session.is_followed:
                return
            self._session = None
        asyncio.run_coroutine_threadsafe(session.aclose(), session.loop)

    def _is_in_background(self, session: Session) -> bool:
        return self._background is not None and session.loop is self._background.loop

    async def _close_in_background(self) -> None:
        """Sends what was accepted, when the process ends."""
        with self._lock:
            session = self._session
            if session is None or not self._is_in_background(session):
                return
            self._session = None  # a thread that goes on begins another
        await session.aclose()

    def begin_anew(self) -> None:
        """Lets go, in a process that was forked, of what its parent has."""
        keep_for_the_parent((self._session, self._background))
        self._lock = threading.Lock()
        self._session = self._background = None

    def _home(self) -> Session:
        """Returns the session. It begins on this event loop, if there is none."""
        if not on_asyncio():
            raise RuntimeError("Channels on Redis need asyncio: they do not run on Trio")
        with self._lock:
            session = self._running()
            if session is None:
                session = self._session = Session(
                    self._server, self._prefix, self._pace, self._disconnects, self._shares_limits
                )
            return session

    def _running(self) -> Session | None:
        """Returns the session, if there is one and its event loop has not ended."""
        if self._closed:
            raise ChannelsClosed
        session = self._session
        return None if session is None or session.loop.is_closed() else session

    async def ready(self) -> None:
        await self.at_home(Session.ready)

    def at_home(self, run: Callable[[Session], Coroutine[Any, Any, T]]) -> Coroutine[Any, Any, T]:
        """Returns a coroutine that runs another in the event loop of the session: that one itself,
        if this is the event loop."""
        return _run_in(self._home(), run)

    # The protocol of a broker

    def publish_soon(self, key: HistoryKey, limits: Retention, item: Item) -> Future[str]:
        future: Future[str] = Future()

        def publish() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    published = (session or self._home()).publish(key, limits, item)
                except Exception as error:
                    future.set_exception(error)
                else:
                    published.add_done_callback(lambda published: _copy(published, future))

        try:
            session = self._running()
            loop = self._event_loop() if session is None else session.loop
            loop.call_soon_threadsafe(publish)
        except RuntimeError as error:
            future.set_exception(error)
        return future

    def _event_loop(self) -> asyncio.AbstractEventLoop:
        """Returns an event loop for somebody who has come before the application has begun."""
        loop = _callers_loop()
        if loop is None:
            bound = self._pace.timeout + 1
            self._background = background(self._close_in_background, bound)
            loop = self._background.loop
        return loop

    async def publish(self, key: HistoryKey, limits: Retention, item: Item) -> str:
        session = self._home()
        if session.loop is asyncio.get_running_loop():
            return (await session.publish(key, limits, item)).decode()
        return await asyncio.wrap_future(self.publish_soon(key, limits, item))

    async def follow(self, key: HistoryKey, limits: Retention, follower: Follower) -> Position:
        return await self.at_home(lambda session: session.follow(key, limits, follower))

    async def publish_many(
        self, key: HistoryKey, limits: Retention, items: Sequence[Item]
    ) -> list[str]:
        return await self.at_home(lambda session: session.publish_many(key, limits, items))

    async def count_subscribers(self, key: HistoryKey) -> int:
        return await self.at_home(lambda session: session.count_subscribers(key))

    async def take_slots(self, limits: Mapping[Any, int]) -> Callable[[], None] | None:
        return await self.at_home(lambda session: _take_slots(session, limits))

    async def position(self, key: HistoryKey, limits: Retention) -> Position:
        return await self.at_home(lambda session: session.position(key, limits))

    async def catch_up(self, key: HistoryKey) -> None:
        await self.at_home(lambda session: session.catch_up(key))

    def unfollow(self, key: HistoryKey, follower: Follower) -> None:
        session = self._session
        if session is not None:
            try:
                session.loop.call_soon_threadsafe(session.unfollow, key, follower)
            except RuntimeError:
                pass  # its event loop has ended

    async def read(
        self, key: HistoryKey, limits: Retention, first: int, before: int
    ) -> tuple[Position, list[Entry]]:
        return await self.at_home(lambda session: session.read(key, limits, first, before))

    async def aclose(self) -> None:
        with self._lock:
            self._closed = True
            session, self._session = self._session, None
        if session is not None and not session.loop.is_closed():
            await _run_in(session, Session.aclose)


async def _take_slots(session: Session, limits: Mapping[Any, int]) -> Callable[[], None] | None:
    """Takes slots as `SharedLimits`; they go back to the session that they are from."""
    if not await session.slots.take(limits):
        return None

    def give_back() -> None:
        with suppress(RuntimeError):  # its event loop has ended
            session.loop.call_soon_threadsafe(session.slots.give_back, limits)

    return give_back


def _server(url: str) -> Server:
    scheme = url.partition("://")[0]
    if scheme.endswith("+sentinel"):
        return SentinelServer(url)
    if scheme.endswith("+cluster"):
        return ClusterServer(url)
    return Server(url)


def _run_in(
    session: Session, run: Callable[[Session], Coroutine[Any, Any, T]]
) -> Coroutine[Any, Any, T]:
    if session.loop is asyncio.get_running_loop():
        return run(session)
    return _run_elsewhere(session, run)


async def _run_elsewhere(session: Session, run: Callable[[Session], Coroutine[Any, Any, T]]) -> T:
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run(session), session.loop))


def _callers_loop() -> asyncio.AbstractEventLoop | None:
    """Returns the running event loop, or that for which the calling thread works, if any."""
    with suppress(RuntimeError):
        return asyncio.get_running_loop()
    with suppress(RuntimeError):
        return from_thread.run_sync(asyncio.get_running_loop)
    return None


_brokers: WeakSet[RedisBroker] = WeakSet()


def _begin_anew() -> None:
    for broker in list(_brokers):
        broker.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def _copy(published: asyncio.Future[bytes], future: Future[str]) -> None:
    if published.cancelled():
        future.set_exception(RuntimeError("The event loop of these channels has ended"))
        return
    error = published.exception()
    if error is None:
        future.set_result(published.result().decode())
    else:
        future.set_exception(error)
