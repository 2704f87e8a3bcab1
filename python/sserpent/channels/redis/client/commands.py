"""The connection for commands: what is asked in one turn of the event loop goes out together, and
what is lost with a connection is asked again, if that cannot do harm."""

from __future__ import annotations

import asyncio
import math
import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    NoScriptError,
    ReadOnlyError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from ...._runtime.loops import end
from .command import Command, joined
from .connection import (
    LOST,
    Answers,
    Connection,
    Pauses,
    Server,
    Trouble,
    Unsupported,
    first_of,
    has_input,
    known,
    reason_of,
    send,
    text_of,
)
from .script import Script, missing_rights, possibly_missing_rights

# Answers that say that a command was not carried out, and may be later, or by another server.
# Where they come from within a script, Redis 6 has them in the middle of a message.
_NOT_NOW = (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    NoScriptError,
    ReadOnlyError,
    TryAgainError,
)
_NOT_NOW_TEXT = re.compile(r"\b(BUSY|LATE|LOADING|MASTERDOWN|NOREPLICAS|READONLY)\b")
# Redis adds to an error where in a script it was raised, which gives one reason several texts.
_WHERE_IN_SCRIPT = re.compile(r"\.? script: \w+, on @user_script:\d+\.?$")
# Parts of the timeout: how long a connection may be silent before it is given up, and before no
# more is sent on it, and for how long a command is valid. A command that is on its way when a
# connection is given up cannot be carried out afterwards: `_SILENT` is `_HESITATE` and `_VALID`.
_SILENT, _HESITATE, _VALID = 0.5, 0.1, 0.4
# How many times in a timeout to look for what has run out.
_LOOKS = 20


class Setup(NamedTuple):
    """The steps on each new connection for commands.

    Attributes:
        scripts: What to have there.
        rights: The script that tries which commands are refused, with its arguments.
        prefix: What the names of all keys begin with.
    """

    scripts: tuple[Script, ...]
    rights: tuple[Any, ...]
    prefix: str


class Redirector(Protocol):
    """Something that knows of other servers."""

    def redirect(self, command: Command, error: AskError, host: str) -> None:
        """Sends a command to the server that an answer names.

        Args:
            host: Of the server that has given the answer.
        """
        ...

    def away(self) -> None:
        """Says that a server could not be reached."""
        ...


class Commands:
    """The connection to one server for commands, made when it is needed first.

    Args:
        server: Which one.
        setup: What is done there first.
        timeout: For how many seconds a command may wait.
        others: Knows of other servers, if there are any.

    Attributes:
        skew: What to add to the time of the event loop to have the server's, in seconds.
    """

    def __init__(
        self,
        server: Server,
        setup: Setup,
        timeout: float,
        others: Redirector | None = None,
    ) -> None:
        self._server = server
        self._others = others
        self._setup = setup
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self.skew: float | None = None
        # Commands that wait to be sent, and those that wait for an answer, in order.
        self._queue: deque[Command] = deque()
        self._flight: deque[Command] = deque()
        # Commands that were refused for now: the connection is made anew when the rest is answered.
        self._again: list[Command] = []
        # So it is when something was refused that was not asked for.
        self._anew = False
        self._news = asyncio.Event()
        self._pauses = Pauses()
        self._trouble = Trouble(server.place, server.troubles)
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._dropped: asyncio.Future[None] | None = None
        self._answered_at = 0.0

    # Asking

    def send(self, command: Command) -> None:
        """Sends a command, with all others of this turn of the event loop."""
        self._queue.append(command)
        self._news.set()
        if self._timer is None:
            self._look_later()
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._run())
            self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Gives up what waits where the event loop ends, and nobody has closed this before."""
        self._give_up("The event loop of these channels has ended")

    def renew(self) -> None:
        """Opens a new connection, because the server is elsewhere."""
        self._drop("the server has moved")

    def _drop(self, reason: str) -> None:
        if self._dropped is not None and not self._dropped.done():
            self._trouble.reason = reason
            self._dropped.set_result(None)

    def take(self) -> list[Command]:
        """Returns what waits to be sent, for somebody else to send it."""
        taken = list(self._queue)
        self._queue.clear()
        return taken

    async def drain(self) -> None:
        """Waits for what was asked."""
        waiting = _parts((*self._again, *self._flight, *self._queue))
        await asyncio.gather(*[each.future for each in waiting], return_exceptions=True)

    async def aclose(self) -> None:
        """Ends the connection."""
        if self._task is not None:
            await end(self._task)
        if self._timer is not None:
            self._timer.cancel()

    # The connection

    async def _run(self) -> None:
        while True:
            await self._wanted()
            await self._pauses.pause()
            dropped = self._dropped = self._loop.create_future()
            try:
                await self._use(await self._connect(), dropped)
            except Unsupported as error:
                self._trouble.begin(error)
                self._give_up(str(error))
            except LOST as error:
                self._trouble.begin(error)
                if self._others is not None:
                    self._others.away()
            except Exception as error:  # whatever it is, what waits is to be sent
                self._trouble.begin(error)
                self._pauses.grow()

    async def _wanted(self) -> None:
        while not self._queue:
            self._news.clear()
            await self._news.wait()

    async def _connect(self) -> Connection:
        setup = self._setup
        loads = [("SCRIPT", "LOAD", script.source) for script in setup.scripts]
        connection, answers = await self._server.connect(
            self._timeout * _SILENT, *loads, ("EVALSHA", *setup.rights), ("TIME",)
        )
        *_, refused, (seconds, microseconds) = answers
        missing = missing_rights(refused, setup.prefix)
        if missing:
            await connection.disconnect(nowait=True)
            raise Unsupported(
                f"{self._server.place} cannot be used by channels: they need {missing}"
            )
        self.skew = int(seconds) + int(microseconds) / 1e6 - self._loop.time()
        self._trouble.end()
        return connection  # type: ignore[no-any-return]

    async def _use(self, connection: Connection, dropped: asyncio.Future[None]) -> None:
        reading = self._loop.create_task(self._read(connection))
        writing = self._loop.create_task(self._write(connection))
        try:
            await first_of(reading, writing, dropped)
        except LOST as error:
            self._trouble.reason = reason_of(error)
        finally:
            lost = [*_parts(self._flight)]
            for command in lost:
                command.lose()
            waiting = [*self._again, *lost]
            self._again.clear()
            self._anew = False
            self._flight.clear()
            self._queue.extendleft(reversed(waiting))
            await connection.disconnect(nowait=True)

    async def _write(self, connection: Connection) -> None:
        # redis-py would make a lost connection anew.
        while connection.is_connected:
            now = self._loop.time()
            if self._hesitates(now):
                await asyncio.sleep(self._timeout / _LOOKS)
                continue
            if self._queue and not self._flight and has_input(connection):
                await asyncio.sleep(0)  # if it is closed, whatever is sent would be uncertain
                continue
            waiting = [command for command in self._queue if not command.future.done()]
            self._queue.clear()
            self._news.clear()
            if waiting:
                await send(connection, self._begin(waiting, now))
            await self._news.wait()

    def _begin(self, commands: list[Command], now: float) -> list[tuple[Any, ...]]:
        """Returns commands as they are sent now, and waits for their answers."""
        sent = joined(commands)
        for command in commands:
            command.sent_at = now
        self._flight += sent
        return [each.args(now, self._timeout * _VALID, self.skew or 0.0) for each in sent]

    def _hesitates(self, now: float) -> bool:
        """Returns whether it is not good to send anything now."""
        return (
            bool(self._again) or self._anew or now > self._first_sent_at + self._timeout * _HESITATE
        )

    @property
    def _first_sent_at(self) -> float:
        """When the oldest command was sent of those that wait for their answers."""
        return self._flight[0].parts[0].sent_at if self._flight else math.inf

    async def _read(self, connection: Connection) -> None:
        answers, flight = Answers(connection), self._flight
        while flight or not (self._again or self._anew):
            arrived = await answers.next()
            self._answered_at = self._loop.time()
            for answer in arrived:
                if not flight:
                    raise RedisConnectionError("it answers what it was not asked")
                command = flight.popleft()
                if isinstance(answer, Exception):
                    self._refused(command, known(answer))
                else:
                    self._answered(command, answer)

    def _answered(self, command: Command, answer: Any) -> None:
        refused = command.answer(answer)
        self._pauses.reset()
        if refused:
            self._anew = True
            self._trouble.begin(RedisConnectionError(f"an event is stored, but: {refused}"))

    def _refused(self, command: Command, error: Exception) -> None:
        error = command.understand(error)
        if isinstance(error, AskError):
            self._redirect(command, error)
        elif isinstance(error, _NOT_NOW) or _NOT_NOW_TEXT.search(str(error)):
            self._trouble.reason = str(error)
            self._again += command.parts
        elif apart := command.apart():
            for part in apart:
                self.send(part)
        else:
            self._pauses.reset()
            command.refuse(
                f"{self._server.place} refuses {text_of(command.name)}:"
                f" {_WHERE_IN_SCRIPT.sub('', str(error))}"
                f"{self._rights_of(command, error)}"
            )

    def _redirect(self, command: Command, error: AskError) -> None:
        for part in command.parts:
            if self._others is not None:
                self._others.redirect(part, error, self._server.host)
            else:
                part.refuse(
                    f"{self._server.place} is a node of a cluster, and another has"
                    f" {text_of(part.name)}: the URL of a cluster begins with redis+cluster://"
                )

    def _rights_of(self, command: Command, error: Exception) -> str:
        script = next((each for each in self._setup.scripts if each.sha in command.words), None)
        rights = script and possibly_missing_rights(script, error, self._setup.prefix)
        return f" (it needs {rights})" if rights else ""

    def _give_up(self, reason: str) -> None:
        while self._queue:
            self._queue.popleft().give_up(reason)

    # Time

    def _look_later(self) -> None:
        self._timer = self._loop.call_later(self._timeout / _LOOKS, self._look)

    def _look(self) -> None:
        """Gives up what waits too long, and a connection that is silent."""
        self._timer = None
        now = self._loop.time()
        for waiting in (self._again, self._flight, self._queue):
            for command in _parts(waiting):
                if command.deadline > now:
                    break
                if waiting is self._flight:
                    command.lose()
                command.give_up(self._reason())
        while self._queue and self._queue[0].future.done():
            self._queue.popleft()
        if now > max(self._first_sent_at, self._answered_at) + self._timeout * _SILENT:
            self._drop("it does not answer")
        if self._queue or self._flight or self._again:
            self._look_later()

    def _reason(self) -> str:
        return (
            f"{self._server.place} could not be reached within {self._timeout:g} s: "
            f"{self._trouble.reason}"
        )


def _parts(commands: Iterable[Command]) -> Iterator[Command]:
    return (part for command in commands for part in command.parts)
