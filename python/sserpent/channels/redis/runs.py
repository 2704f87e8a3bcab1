"""The runs on Redis, of which any process may be the producer."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ..._runtime.loops import spawn
from ..history.broker import BrokerUnavailable, ChannelsClosed, Fenced, Item, Lease, RunRecord
from ..history.position import HistoryKey, new_epoch, new_tag
from .run_scripts import read_status, record_of
from .scripts import index_of

if TYPE_CHECKING:
    from .session import Session

T = TypeVar("T")

# For how many milliseconds the end of a run is kept of which Redis has forgotten everything.
_FORGOTTEN = 60_000


class AtHome(Protocol):
    """Returns a coroutine that runs another in the event loop of the session."""

    def __call__(
        self, run: Callable[[Session], Coroutine[Any, Any, T]]
    ) -> Coroutine[Any, Any, T]: ...


class RedisRuns:
    """Keeps runs in Redis; `broker.RunBroker` documents the methods."""

    append_now = None

    def __init__(self, at_home: AtHome) -> None:
        self._at_home = at_home
        # By fence.
        self._produced: dict[str, _Produced] = {}

    async def start(
        self, run: HistoryKey, ttl: float, on_stop: Callable[[str], None]
    ) -> str | None:
        fence = os.urandom(16).hex()
        milliseconds = max(round(ttl * 1000), 1)
        if not await self._at_home(
            lambda session: session.start_run(run, fence, _lease(), milliseconds)
        ):
            return None
        produced = _Produced(self, run, fence, on_stop)
        self._produced[fence] = produced
        await self._at_home(produced.subscribe)
        return fence

    async def append(self, run: HistoryKey, fence: str, items: Sequence[Item]) -> None:
        produced = self._produced.get(fence)
        if produced is None:
            raise _fenced(run)
        newest, entries = (produced.offset, produced.tag), produced.entries(items)
        if not await self._ask("append", run, fence, _lease(), *newest, new_epoch(), *entries):
            raise _fenced(run)
        produced.appended(len(items))

    async def renew(self, run: HistoryKey, fence: str) -> str | None:
        reason = await self._ask("renew", run, fence, _lease())
        if reason is None:
            raise _fenced(run)
        return reason.decode() or None

    async def end(self, run: HistoryKey, fence: str | None, item: Item) -> bool:
        produced = self._produced.get(fence or "")
        if produced is None:
            offset, entry = 0, _entries([new_tag()], [item])
        else:
            offset, entry = produced.offset, produced.entries([item])
        ended = await self._ask("end", run, fence or "", _FORGOTTEN, offset, new_epoch(), *entry)
        if ended:
            with suppress(ChannelsClosed):  # it stays as it is
                await self._at_home(partial(_compact, run))
        return bool(ended)

    async def release(self, run: HistoryKey, fence: str) -> None:
        produced = self._produced.pop(fence, None)
        if produced is not None:
            try:
                await self._at_home(produced.unsubscribe)
            except ChannelsClosed:
                pass  # its subscriptions have ended with them

    async def stop(self, run: HistoryKey, reason: str) -> bool:
        return bool(await self._ask("stop", run, reason))

    async def status(self, run: HistoryKey) -> RunRecord | None:
        return read_status(await self._ask("status", run))

    async def claim(
        self, key: HistoryKey, holder: str, instead_of: str | None = None
    ) -> str | None:
        known = await self._at_home(
            lambda session: session.claim_key(key, holder, _lease(), instead_of or "")
        )
        return None if known is None else known.decode(errors="replace")

    async def holder(self, key: HistoryKey) -> str | None:
        known = await self._at_home(lambda session: session.ask_of_key("holder", key, ""))
        return None if known is None else known.decode(errors="replace")

    async def free(self, key: HistoryKey, holder: str) -> None:
        try:
            await self._at_home(lambda session: session.free_key(key, holder, _lease()))
        except ChannelsClosed:
            pass  # it is free when its time is over

    async def _ask(self, script: str, run: HistoryKey, *args: Any) -> Any:
        return await self._at_home(lambda session: session.ask_of_run(script, run, *args))


class _Produced:
    """A run of this process: what it has appended, and whoever is to hear that it is to stop.

    Args:
        runs: Where it is kept.
        run: Which one.
        fence: The producer's.
        on_stop: Called with the reason.

    Attributes:
        name: What the script that stops it publishes to.
        offset, tag: Of the newest event that is known to be in the history.
    """

    def __init__(
        self, runs: RedisRuns, run: HistoryKey, fence: str, on_stop: Callable[[str], None]
    ) -> None:
        self.name = b""
        self.fence = fence
        self.offset = self.tag = 0
        # Of the next events: those that are appended again keep theirs, by which Redis knows them.
        self._tags: list[int] = []
        self._runs = runs
        self._run = run
        self._on_stop = on_stop

    def entries(self, items: Sequence[Item]) -> tuple[bytes, bytes]:
        """Returns what is added to the history for the next events."""
        self._tags += [new_tag() for _ in items[len(self._tags) :]]
        return _entries(self._tags, items)

    def appended(self, count: int) -> None:
        """Says that so many of them are in the history."""
        self.offset += count
        self.tag = self._tags[count - 1]
        del self._tags[:count]

    async def subscribe(self, session: Session) -> None:
        self.name = record_of(session.name_of(self._run))
        session.servers.add(self)

    async def unsubscribe(self, session: Session) -> None:
        session.servers.discard(self)

    # Called by the subscription

    def on_subscribed(self) -> None:
        spawn(self._look)  # it may have been stopped before

    def on_message(self, message: bytes) -> bool:
        spawn(self._look)
        return False

    def on_lost(self) -> None:
        """Does nothing: each renewal of the lease looks too."""

    async def _look(self) -> None:
        try:
            reason = await self._runs.renew(self._run, self.fence)
        except (BrokerUnavailable, ChannelsClosed, Fenced):
            return  # the producer comes to know when it renews its lease
        if reason is not None:
            self._on_stop(reason)


def _lease() -> int:
    return round(Lease.DURATION * 1000)


def _entries(tags: Sequence[int], items: Sequence[Item]) -> tuple[bytes, bytes]:
    """Returns the index of events, and their bodies."""
    return index_of(tags, items), b"".join([item.body for item in items])


async def _compact(run: HistoryKey, session: Session) -> None:
    session.compact(run)


def _fenced(run: HistoryKey) -> Fenced:
    return Fenced(f"The run '{run.key}' has ended, or another produces it")
