"""The connection for subscriptions: what is published comes by it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, ResponseError

from ...._runtime.loops import end
from .connection import (
    LOST,
    Answers,
    Connection,
    Pauses,
    Server,
    Trouble,
    Unsupported,
    first_of,
    known,
    reason_of,
    send,
)

# How many names are subscribed to by one command.
_TOGETHER = 500


class Listening(Protocol):
    """A subscriber to a name.

    Attributes:
        name: On pub/sub.
    """

    name: bytes

    def on_subscribed(self) -> None:
        """Called when the server has confirmed the subscription."""
        ...

    def on_message(self, message: bytes) -> bool:
        """Takes a message, and returns whether the event loop should turn."""
        ...

    def on_lost(self) -> None:
        """Called when messages may be missed from now on, until `on_subscribed`."""
        ...


class PubSub:
    """The connection to one server for subscriptions, there while somebody is subscribed.

    Args:
        server: Which one.
        timeout: For how many seconds to wait for a connection.
        probe: After how many seconds of silence to ask whether it is alive, and after how many
            more without an answer to make another.
        command: "SUBSCRIBE", or "SSUBSCRIBE" in a cluster.
        misplaced: Called, in a cluster, with whom the server has not, or no longer, with what it
            said where to go, and with its own host.
    """

    def __init__(
        self,
        server: Server,
        timeout: float,
        probe: float,
        command: str = "SUBSCRIBE",
        misplaced: Callable[[Listening, MovedError | None, str], None] | None = None,
    ) -> None:
        self._server = server
        self._timeout = timeout
        self._probe = probe
        self._commands = command, command.replace("SUB", "UNSUB")
        self._misplaced = misplaced
        # The names of a cluster are in different slots.
        self._together = _TOGETHER if misplaced is None else 1
        self._listening: dict[bytes, Listening] = {}
        # Changes to send to the server, and those that wait for its answer, in order: a name may be
        # left and subscribed to again before the first answer. A new connection begins with all
        # names, so no changes are noted while there is none.
        self._changes: deque[tuple[bool, Listening]] | None = None
        self._expected: deque[tuple[bool, Listening]] = deque()
        # Functions to call when all that was sent before now has come: before, and after the
        # question for that went out. Each answer belongs to the oldest question.
        self._to_sync: list[Callable[[], object]] = []
        self._syncing: deque[list[Callable[[], object]]] = deque()
        self._news = asyncio.Event()
        self._heard = False
        self._pauses = Pauses()
        self._trouble = Trouble(server.place, server.troubles)
        self._dropped: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def add(self, listening: Listening) -> None:
        """Subscribes. Nobody else is subscribed to the name."""
        self._listening[listening.name] = listening
        self._change(True, listening)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    def discard(self, listening: Listening) -> None:
        """Ends a subscription."""
        if self._listening.get(listening.name) is listening:
            del self._listening[listening.name]
            self._change(False, listening)

    def _change(self, wanted: bool, listening: Listening) -> None:
        if self._changes is not None:
            self._changes.append((wanted, listening))
        self._news.set()

    def sync(self, then: Callable[[], object]) -> None:
        """Calls a function once all that the server had sent before now has been given, unless the
        connection is lost before."""
        self._to_sync.append(then)
        self._news.set()

    def renew(self) -> None:
        """Opens a new connection, because the server is elsewhere."""
        if self._dropped is not None and not self._dropped.done():
            self._dropped.set_result(None)

    async def aclose(self) -> None:
        """Ends the connection."""
        if self._task is not None:
            await end(self._task)

    # The connection

    async def _run(self) -> None:
        while True:
            while not self._listening:
                self._news.clear()
                await self._news.wait()
            await self._pauses.pause()
            dropped = self._dropped = asyncio.get_running_loop().create_future()
            try:
                connection, _ = await self._server.connect(self._timeout)
                await self._use(connection, dropped)
            except (Unsupported, *LOST) as error:
                self._trouble.begin(error)
            except Exception as error:  # whatever it is, somebody is still subscribed
                self._trouble.begin(error)
                self._pauses.grow()

    async def _use(self, connection: Connection, dropped: asyncio.Future[None]) -> None:
        loop = asyncio.get_running_loop()
        changes = deque((True, listening) for listening in self._listening.values())
        self._changes = changes
        self._to_sync = []
        tasks = self._read(connection), self._write(connection, changes), self._watch(connection)
        try:
            await first_of(*map(loop.create_task, tasks), dropped)
        except ResponseError as error:  # it may not subscribe
            self._trouble.begin(ResponseError(f"it refuses a subscription: {error}"))
            self._pauses.grow()  # where it grants another name, an answer has ended the pauses
        except LOST as error:
            self._trouble.reason = reason_of(error)
        finally:
            self._changes = None
            self._expected.clear()
            self._syncing.clear()
            for listening in self._listening.values():
                listening.on_lost()
            await connection.disconnect(nowait=True)

    async def _write(self, connection: Connection, changes: deque[tuple[bool, Listening]]) -> None:
        self._news.set()
        # redis-py would make a lost connection anew.
        while connection.is_connected:
            self._news.clear()
            commands: list[tuple[Any, ...]] = []
            while changes:
                wanted = changes[0][0]
                names: list[bytes] = []
                while changes and changes[0][0] is wanted and len(names) < self._together:
                    change = changes.popleft()
                    self._expected.append(change)
                    names.append(change[1].name)
                commands.append((self._commands[not wanted], *names))
            if self._to_sync:
                commands.append(self._ping())
            if commands:
                await send(connection, commands)
            await self._news.wait()

    def _ping(self) -> tuple[str]:
        self._syncing.append(self._to_sync)
        self._to_sync = []
        return ("PING",)

    async def _read(self, connection: Connection) -> None:
        answers = Answers(connection)
        while True:
            for answer in await answers.next():
                if isinstance(answer, Exception):
                    self._refused(answer)
                elif self._take(answer):
                    await asyncio.sleep(0)

    def _refused(self, error: Exception) -> None:
        moved = known(error)
        if not isinstance(moved, MovedError):
            raise error
        self._move(self._next_expected(), moved)

    def _take(self, answer: Any) -> bool:
        """Takes what the server says, and returns whether the event loop should turn."""
        if not self._heard:
            self._heard = True
            self._pauses.reset()
            self._trouble.end()
        if answer == b"PONG" or len(answer) == 2:  # without a subscription, or with one
            for function in self._syncing.popleft() if self._syncing else ():
                function()
            return False
        if len(answer) != 3:
            raise RedisConnectionError("it answers what it was not asked")
        kind, name, message = answer
        if kind in (b"message", b"smessage"):
            heard = self._listening.get(name)
            return heard is not None and heard.on_message(message)
        self._changed(kind in (b"subscribe", b"ssubscribe"), name)
        return False

    def _changed(self, wanted: bool, name: bytes) -> None:
        if not wanted and not (self._expected and self._expected[0][1].name == name):
            # Nobody asked: the name is on another server now.
            if name in self._listening:
                self._move((True, self._listening[name]), None)
            return
        wanted, changed = self._next_expected()
        if changed.name != name:
            raise RedisConnectionError("it answers what it was not asked")
        if wanted and self._listening.get(name) is changed:
            changed.on_subscribed()

    def _next_expected(self) -> tuple[bool, Listening]:
        if not self._expected:
            raise RedisConnectionError("it answers what it was not asked")
        return self._expected.popleft()

    def _move(self, change: tuple[bool, Listening], error: MovedError | None) -> None:
        wanted, listening = change
        if wanted and self._misplaced is not None:
            self._misplaced(listening, error, self._server.host)

    async def _watch(self, connection: Connection) -> None:
        """Ends when the connection is silent for too long."""
        asked = False
        while True:
            self._heard = False
            await asyncio.sleep(self._probe)
            if self._heard:
                asked = False
            elif asked:
                self._trouble.reason = "it does not answer"
                return
            else:
                asked = True
                await send(connection, [self._ping()])
