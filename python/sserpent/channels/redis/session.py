"""The broker's part on one event loop: its connections, and the histories that it follows."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any

from ..._runtime.log import SayOnce, logger
from ..._runtime.loops import end
from ..fanout.owner_disconnects import HISTORY, LIMITS, OwnerDisconnects
from ..history.broker import BrokerUnavailable, ChannelsClosed, Follower, Item, Refused
from ..history.position import HistoryKey, Position, new_epoch, new_tag, parse_id
from ..history.ring import Entry, Retention
from .client.cluster import Cluster, ClusterServer
from .client.command import MOST, Command, Ephemeral, Publish, Question, Timely
from .client.commands import Setup
from .client.connection import Server, text_of
from .client.script import RIGHTS, Script
from .client.servers import OneServer, Pace, Servers
from .counting import Inbox
from .history import RedisHistory
from .looks import TOGETHER, Looks, unused_ttl
from .names import name_of
from .run_scripts import compacted_of, key_of, record_of, run_scripts
from .scripts import (
    HEAD,
    LOOK,
    Head,
    Stored,
    ephemeral_message,
    marks,
    offset_of,
    publish_script,
    read_entries,
    read_head,
)
from .shared_slots import SLOTS, SharedSlots

# How many histories are looked at at the same time: Redis looks at as many as go in one call while
# what it has said of others is taken.
_TOGETHER = 2 * MOST
# How many entries are read at once.
_PAGE = 1_000
# How many of them are looked at in one turn of the event loop.
_SLICE = 100
# The history that commands are tried on: no channel has an empty name.
_NOBODYS = HistoryKey("", "rights")
# Seconds between two attempts to look at a history.
_PAUSE = 0.5


class Session:
    """Publishes, follows and reads, in the running event loop.

    Attributes:
        loop: The event loop.
        servers: The Redis servers that it is connected to.
    """

    def __init__(
        self,
        server: Server,
        prefix: str,
        pace: Pace,
        disconnects: OwnerDisconnects | None,
        shares_limits: bool = False,
    ) -> None:
        self._prefix = prefix
        self._database = server.database
        self._server = server
        self._pace = pace
        self.loop = asyncio.get_running_loop()
        # The names of a cluster are in different slots, so one call is about one of them.
        is_cluster = self._is_cluster = isinstance(server, ClusterServer)
        command = "SPUBLISH" if is_cluster else "PUBLISH"
        self._publish = publish_script(command)
        self._publish_many = publish_script(command, many=True)
        self._run_scripts = run_scripts(command)
        setup = Setup(
            (
                self._publish,
                self._publish_many,
                SLOTS,
                HEAD,
                LOOK,
                RIGHTS,
                *self._run_scripts.values(),
            ),
            (
                *(RIGHTS.sha, 0, command, name_of(prefix, server.database, _NOBODYS)),
                b"1" if shares_limits else b"",
            ),
            prefix,
        )
        self.servers: Servers = (
            Cluster(server, setup, pace)
            if isinstance(server, ClusterServer)
            else OneServer(server, setup, pace)
        )
        self._followed: dict[HistoryKey, RedisHistory] = {}
        self._looks = Looks(pace.compare, self._followed, self._send, 1 if is_cluster else TOGETHER)
        # Of streams without a key: as many as the application has channels. Keys come from clients,
        # who would fill it.
        self._names: dict[str, bytes] = {}
        # The histories to look at now, and the tasks that do.
        self._due: deque[RedisHistory] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        # Tasks that give back the ids and keys of runs that nobody produces, and the memory of runs
        # that have ended.
        self._afterwards: set[asyncio.Task[None]] = set()
        self._too_large = SayOnce(
            "Runs that have ended take more memory than they need at %s: %s", server.place
        )
        self._closed = False
        self._renewed_at = -math.inf
        self._inbox: Inbox | None = None
        self.slots = SharedSlots(self._send, self.name_of)
        self._disconnects: RedisHistory | None = None
        # Now, so that it is logged at once if Redis cannot be used.
        self._first = self._ask_time()
        self._first.add_done_callback(lambda first: first.cancelled() or first.exception())
        if disconnects is not None:
            self._disconnects = self._begin(HISTORY, LIMITS)
            self._disconnects.followers = (disconnects,)

    @property
    def skew(self) -> float | None:
        """Seconds from the event loop's time to the server's, if known."""
        return self.servers.skew

    def _ask_time(self) -> asyncio.Future[Any]:
        return self._send(self.name_of(HISTORY), "TIME")

    async def ready(self) -> None:
        """Returns when the server answers, and what is published there is heard.

        Raises:
            BrokerUnavailable: neither, within the timeout.
        """
        deadline = self._deadline()
        await self._ask_time()
        if self._disconnects is not None:
            await self._disconnects.live(deadline)

    @property
    def is_followed(self) -> bool:
        """Whether any history is followed but that of `owner_disconnects`."""
        return any(each is not self._disconnects for each in self._followed.values())

    # Publishing

    def publish(self, key: HistoryKey, limits: Retention, item: Item) -> asyncio.Future[bytes]:
        """Publishes an event, and returns a future for its id."""
        if self._closed:
            raise ChannelsClosed
        if item.ephemeral:
            return self._publish_ephemeral(key, item)
        about = marks(item.raw, item.conflate)
        return self._send_publish(self._publish, key, limits, new_tag(), about, item.body)

    def _send_publish(
        self, script: Script, key: HistoryKey, limits: Retention, tag: int, *parts: Any
    ) -> asyncio.Future[bytes]:
        """Sends the script that publishes, and returns a future for the id of the first event.

        Args:
            tag: Of the first event.
            parts: The arguments of the script that are about the events alone.
        """
        history = self._followed.get(key)
        name = self._unfollowed_name(key) if history is None else history.name
        command = Publish(
            name,
            ("EVALSHA", script.sha, 1, name, tag, new_epoch()),
            (limits.history, _milliseconds(limits), limits.history_bytes, *parts),
            self._deadline(),
            self._publish_many.sha if script is self._publish else None,
        )
        self.servers.send(command)
        if history is not None:
            history.watch(command.future)
        return command.future

    async def publish_many(
        self, key: HistoryKey, limits: Retention, items: Sequence[Item]
    ) -> list[str]:
        """Publishes several events to one history, next to each other, and returns their IDs.

        Raises:
            BrokerUnavailable: Redis could not be reached within the timeout.
            PublishUncertain: whether they were published is not known.
        """
        if self._closed:
            raise ChannelsClosed
        tags = [new_tag() for _ in items]
        parts: list[Any] = []
        for tag, item in zip(tags, items, strict=True):
            parts += [tag, marks(item.raw, item.conflate), item.body]
        sent = self._send_publish(self._publish_many, key, limits, tags[0], *parts)
        first = parse_id((await sent).decode())
        assert first is not None
        return [str(Position(first.epoch, first.offset + n, tag)) for n, tag in enumerate(tags)]

    async def count_subscribers(self, key: HistoryKey) -> int:
        """Returns how many subscribers a history has in all processes.

        Raises:
            BrokerUnavailable: Redis could not be reached within the timeout.
        """
        if self._inbox is None:
            name = name_of(self._prefix, self._database, HistoryKey("", f"inbox:{new_epoch()}"))
            self._inbox = Inbox(name)
            self.servers.add(self._inbox)
        try:
            await asyncio.wait_for(self._inbox.is_open.wait(), self._pace.timeout)
        except asyncio.TimeoutError:
            parts = "The answers of other processes cannot be heard", self.trouble()
            raise BrokerUnavailable(": ".join(filter(None, parts))) from None
        return await self._inbox.ask(
            partial(self._ask, self.name_of(key)), self.servers.publish, self.name_of(key)
        )

    def reply(self, inbox: bytes, message: bytes) -> None:
        self._send(inbox, self.servers.publish, inbox, message).add_done_callback(_take_error)

    def _publish_ephemeral(self, key: HistoryKey, item: Item) -> asyncio.Future[bytes]:
        name = self.name_of(key)
        args = self.servers.publish, name, ephemeral_message(item)
        command = Ephemeral(name, args, self._deadline())
        self.servers.send(command)
        return command.future

    def _deadline(self) -> float:
        return self.loop.time() + self._pace.timeout

    async def _ask(self, name: bytes, *args: Any) -> Any:
        """Returns the answer to a command that may be repeated.

        Raises:
            BrokerUnavailable: there is none within the timeout, or the server refuses.
        """
        return await self._send(name, *args)

    def _send(self, name: bytes, *args: Any) -> asyncio.Future[Any]:
        """Asks as `_ask` does, but returns a future for the answer."""
        command = Command(name, args, self._deadline())
        self.servers.send(command)
        return command.future

    def name_of(self, key: HistoryKey) -> bytes:
        """Returns what a history is called in Redis, as a key and on pub/sub."""
        history = self._followed.get(key)
        return self._unfollowed_name(key) if history is None else history.name

    def _unfollowed_name(self, key: HistoryKey) -> bytes:
        if key.key is not None:
            return name_of(self._prefix, self._database, key)
        name = self._names.get(key.channel)
        if name is None:
            name = name_of(self._prefix, self._database, key)
            self._names[key.channel] = name
        return name

    # Runs

    async def ask_of_run(self, script: str, run: HistoryKey, *args: Any) -> Any:
        """Runs one of `run_scripts`, and returns its answer.

        Raises:
            BrokerUnavailable: as `_ask`.
        """
        name = self.name_of(run)
        return await self._ask(name, *self._of_run(script, name, *args))

    def _of_run(self, script: str, name: bytes, *args: Any) -> tuple[Any, ...]:
        return "EVALSHA", self._run_scripts[script].sha, 2, name, record_of(name), *args

    def compact(self, run: HistoryKey) -> None:
        """Starts to rewrite a run that has ended, so that it takes less memory."""
        if not self._closed:
            self._spawn(self._compact(self.name_of(run)), self._afterwards)

    async def _compact(self, name: bytes) -> None:
        script, names = self._run_scripts["compact"], (name, record_of(name), compacted_of(name))
        try:
            while await self._ask(name, "EVALSHA", script.sha, len(names), *names):
                pass
        except Refused as error:
            self._too_large.warn(str(error))
        except BrokerUnavailable:
            pass  # it stays as it is

    async def start_run(self, run: HistoryKey, fence: str, lease: int, ttl: int) -> bool:
        """Starts a run, and returns whether there was none: times are in milliseconds.

        Raises:
            BrokerUnavailable: as `_ask`; no run is started.
        """
        name = self.name_of(run)
        command = Timely(name, self._of_run("start", name, fence, lease, ttl), self._deadline())
        self.servers.send(command)
        try:
            return bool(await command.future)
        except BaseException as error:
            is_sure = isinstance(error, Refused) and command.unsure_since is None
            if command.sent_at and not is_sure and not self._closed:
                # Its id is given back: it may be started, and nobody produces it.
                abandon = partial(self.ask_of_run, "abandon", run, fence)
                self._spawn(self._ask_until_there(abandon, lease + ttl), self._afterwards)
            raise

    async def _ask_until_there(
        self, ask: Callable[[], Awaitable[object]], milliseconds: int
    ) -> None:
        """Asks until Redis answers, or has forgotten what it is about, or this session ends."""
        until = self.loop.time() + milliseconds / 1000
        while self.loop.time() < until and not self._closed:
            with suppress(BrokerUnavailable):
                await ask()
                return
            await asyncio.sleep(_PAUSE)

    async def ask_of_key(self, script: str, key: HistoryKey, *args: Any) -> Any:
        """Asks as `ask_of_run` does, for the scripts of keys."""
        name = self.name_of(key)
        return await self._ask(name, *self._of_key(script, name, *args))

    def _of_key(self, script: str, name: bytes, *args: Any) -> tuple[Any, ...]:
        return "EVALSHA", self._run_scripts[script].sha, 1, key_of(name), *args

    async def claim_key(
        self, key: HistoryKey, holder: str, lease: int, instead_of: str
    ) -> bytes | None:
        """Claims a key for so many milliseconds, and returns who else holds it, if any.

        Raises:
            BrokerUnavailable: as `_ask`; it may be held all the same.
        """
        name = self.name_of(key)
        args = self._of_key("claim", name, holder, lease, instead_of)
        command = Timely(name, args, self._deadline())
        self.servers.send(command)
        known: bytes | None = await command.future
        return known

    async def free_key(self, key: HistoryKey, holder: str, lease: int) -> None:
        """Frees a key, now or as soon as Redis is back."""
        try:
            await self.ask_of_key("free", key, holder)
        except BrokerUnavailable:
            if not self._closed:
                free = partial(self.ask_of_key, "free", key, holder)
                self._spawn(self._ask_until_there(free, lease), self._afterwards)

    # Following

    async def follow(self, key: HistoryKey, limits: Retention, follower: Follower) -> Position:
        """Gives a follower what is published from now on, and returns the position before it.

        Raises:
            BrokerUnavailable: Redis could not be reached within the timeout.
        """
        history = self._followed.get(key) or self._begin(key, limits)
        history.users += 1
        deadline = self._deadline()
        try:
            if self._disconnects is not None:
                await self._disconnects.live(deadline)
            position = await history.live(deadline)
            history.followers = (*history.followers, follower)
        finally:
            history.users -= 1
            self._leave_unused(history)
        return position

    def _begin(self, key: HistoryKey, limits: Retention) -> RedisHistory:
        history = RedisHistory(key, limits, self.name_of(key), self, self._refresh)
        self._followed[key] = history
        self.servers.add(history)
        self._looks.add(history)
        return history

    async def catch_up(self, key: HistoryKey) -> None:
        """Returns once the followers of a history have been given all that is in it.

        Raises:
            BrokerUnavailable: not within the timeout.
        """
        history = self._followed.get(key)
        if history is not None:
            await history.caught_up(self._deadline())

    def unfollow(self, key: HistoryKey, follower: Follower) -> None:
        """Gives a follower nothing more."""
        history = self._followed.get(key)
        if history is not None:
            history.followers = tuple(each for each in history.followers if each is not follower)
            self._leave_unused(history)

    def _leave_unused(self, history: RedisHistory) -> None:
        if not history.users and not history.followers:
            del self._followed[history.key]
            self.servers.discard(history)
            history.on_lost()

    # Looking at histories that are followed

    def _refresh(self, history: RedisHistory) -> None:
        if history.is_due:
            return
        history.is_due = True
        self._due.append(history)
        if len(self._workers) < _TOGETHER:
            self._spawn(self._work(), self._workers)

    def _spawn(self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
        task = self.loop.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _work(self) -> None:
        while self._due:
            history = self._due.popleft()
            history.is_due = False
            try:
                await history.refresh()
            except Exception as error:
                if isinstance(error, Refused):
                    history.warn(str(error))
                elif not isinstance(error, BrokerUnavailable):
                    logger.exception("The history of %s is read again", text_of(history.name))
                await asyncio.sleep(_PAUSE)
                if history.is_behind:
                    self._refresh(history)

    # Where the connections lead

    def trouble(self) -> str:
        return "; ".join(dict.fromkeys(self.servers.troubles))

    def doubt(self, history: RedisHistory, missing: Position) -> None:
        def settle() -> None:
            if history.has_missed(missing):
                self.renew(history)

        self.servers.sync(history, settle)

    def renew(self, history: RedisHistory) -> None:
        now = self.loop.time()
        if now < self._renewed_at + self._pace.probe:
            return  # what was found missing may have been so before
        self._renewed_at = now
        logger.warning(
            "What is published to %s in Redis is not what is heard of it: an address may lead to "
            "another server now, and the old one still answers. The connections are made anew",
            text_of(history.name),
        )
        self.servers.renew(history)

    # Reading

    async def head(self, name: bytes, limits: Retention) -> Head:
        # That of a run lives on by itself.
        is_run = limits.history_ttl == math.inf
        ttl = b"" if is_run else max(round(limits.history_ttl * 1000), 1)
        about = ttl, max(round(unused_ttl(limits) * 1000), 1), new_epoch()
        question = Question(name, HEAD.sha, about, self._deadline(), self._is_cluster)
        self.servers.send(question)
        reply = await question.future
        try:
            return read_head(reply)
        except ValueError:
            raise Refused(f"the newest entry of {text_of(name)} in Redis is not an event") from None

    async def position(self, key: HistoryKey, limits: Retention) -> Position:
        """Returns the position of the newest entry."""
        return (await self.head(self.name_of(key), limits)).position

    async def page(self, name: bytes, first: int, count: int) -> list[Stored]:
        page = read_entries(await self._range(name, first, count, None))
        return list(islice((each for each in page if each[0].offset >= first), count))

    def _range(
        self, name: bytes, first: int, count: int, last: int | None
    ) -> asyncio.Future[list[Any]]:
        end = "+" if last is None else last
        return self._send(name, "XRANGE", name, first, end, "COUNT", count)

    async def read(
        self, key: HistoryKey, limits: Retention, first: int, before: int
    ) -> tuple[Position, list[Entry]]:
        """Reads as `Broker.read`, without what is beyond the limits, even if it is there."""
        name = self.name_of(key)
        head = await self.head(name, limits)
        kept = _Kept(head, limits, first, before)
        # From the one before on, for its position.
        async for part in self._slices(name, kept.first - 1, kept.before - 1):
            kept.add(part)
        return kept.floor(), kept.entries

    async def _slices(self, name: bytes, first: int, last: int) -> AsyncIterator[list[Stored]]:
        """Yields the entries of a stretch, so many at once as do not keep the event loop for long.
        A page is asked for before the one before it is given: Redis reads it meanwhile."""
        asked: asyncio.Future[list[Any]] | None = None
        if first <= last:
            asked = self._range(name, first, _PAGE, last)
        is_last = False
        try:
            while asked is not None:
                page = await asked
                least = first
                first = offset_of(page[-1]) + 1 if page else first
                asked = None
                if len(page) == _PAGE and first <= last:
                    asked = self._range(name, first, _PAGE, last)
                elif first <= last and not is_last:
                    # An entry that has several events may have the last of these, and go on.
                    is_last = True
                    asked = self._range(name, last + 1, 1, None)
                inside = (each for each in read_entries(page) if least <= each[0].offset <= last)
                while part := list(islice(inside, _SLICE)):
                    yield part
                    await asyncio.sleep(0)
        finally:
            if asked is not None:
                await end(asked)

    # The end

    async def aclose(self) -> None:
        """Waits until what was accepted is sent, or has failed, and ends the connections."""
        await asyncio.sleep(0)  # what threads have asked for comes first
        self._closed = True
        await self.slots.leave()
        self._first.cancel()
        await self._looks.aclose()
        await end(*self._workers)  # nobody waits for what they read
        await self.servers.drain()
        await end(*self._afterwards)
        await self.servers.aclose()


def _milliseconds(limits: Retention) -> int:
    return max(round(limits.history_ttl * 1000), 1)


def _take_error(future: asyncio.Future[Any]) -> None:
    """Ignores that a reply was lost: the process that has asked waits no longer than a second."""
    if not future.cancelled():
        future.exception()


class _Kept:
    """The entries that are read and within the limits.

    Attributes:
        first, before: The offsets that they are between.
    """

    def __init__(self, head: Head, limits: Retention, first: int, before: int) -> None:
        self._head = head
        self._oldest = head.time - limits.history_ttl
        self._bytes = limits.history_bytes
        newest = head.position.offset
        self.first = max(first, newest - limits.history + 1, 1)
        self.before = min(before, newest + 1)
        self.entries: list[Entry] = []
        # The last that is not kept.
        self._gone: Position | None = head.position if self.before > newest else None

    def add(self, part: list[Stored]) -> None:
        """Adds entries that follow those that were added before."""
        epoch, entries = self._head.position.epoch, self.entries
        first, oldest, least_start = self.first, self._oldest, self._head.stop - self._bytes
        following = entries[-1].offset + 1 if entries else 0
        for entry, start, _ in part:
            if entry.position.epoch != epoch:
                continue  # another life of the history, since the head was read
            offset = entry.offset
            if entries and offset != following:
                # The entries between are not ours.
                entries.clear()
                self._gone = None
            following = offset + 1
            if offset >= first and entry.time >= oldest and start >= least_start:
                entries.append(entry)
            else:
                entries.clear()
                self._gone = entry.position

    def floor(self) -> Position:
        offset = (self.entries[0].offset if self.entries else self.before) - 1
        if self._gone is not None and self._gone.offset == offset:
            return self._gone
        return Position(self._head.position.epoch, offset, 0)
