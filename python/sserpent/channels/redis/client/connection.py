"""Connections to a Redis server, made by redis-py: one command or answer at a time."""

from __future__ import annotations

import asyncio
import re
import select
from collections.abc import Callable, Iterable
from copy import copy
from typing import Any, Protocol, cast

import hiredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from ...._runtime.log import logger
from ...._runtime.loops import end
from ...history.broker import BrokerUnavailable
from .urls import read_url

#: The oldest Redis with all that is asked of it: XTRIM by id, and ranges that exclude an end.
OLDEST = (6, 2)

# Seconds between attempts to connect.
_LEAST_PAUSE = 0.05
_MOST_PAUSE = 1.0

#: How a connection ends.
LOST = (RedisError, OSError, asyncio.TimeoutError)
# How a server refuses a command, and the connection goes on.
_REFUSALS = ResponseError, AuthenticationError, BusyLoadingError


# Its types are not those of the parameters.
_pack: Callable[[tuple[Any, ...]], bytes] = cast(Any, hiredis).pack_command


class Unsupported(BrokerUnavailable):
    """The server is too old, or does not let its user do what channels need. It does not help to
    wait."""


class Connection(Protocol):
    """The part of redis-py's connections that is used here."""

    @property
    def is_connected(self) -> bool:
        """Whether it is connected."""
        ...

    async def connect(self) -> None:
        """Connects, and logs in."""
        ...

    async def disconnect(self, nowait: bool = False) -> None:
        """Ends the connection; with `nowait` without waiting until it is closed."""
        ...

    async def send_packed_command(
        self, command: Iterable[bytes], check_health: bool = True
    ) -> None:
        """Sends bytes; with `check_health` redis-py may ask for a sign of life before."""
        ...

    async def read_response(self) -> Any:
        """Returns the next answer.

        Raises:
            RedisError: the answer is an error, or the connection was lost.
        """
        ...


class Server:
    """Where a Redis server is, and how to connect to it.

    Args:
        url: As redis-py takes it: `redis://`, `rediss://` or `unix://`, with its options.
        scheme: As the user has given it, if that is another.
        prefix: What the user has written before the name of each option.

    Attributes:
        moves: Whether it may be elsewhere later; then `resolve` says where it is.
        troubles: What is wrong with its connections now.
        database: The number of the database.
        host: Its host, where the URL says no path.
        place: Its address, for messages: without a password.

    Raises:
        ValueError: the URL is none, or has an option that redis-py does not take.
    """

    moves = False

    def __init__(self, url: str, scheme: str | None = None, prefix: str = "") -> None:
        self._class: Callable[..., Connection]
        self._class, options = read_url(url, scheme, prefix)
        self._options: dict[str, Any] = {
            **options,
            # Only `Commands` knows what may be repeated, and only `Subscription` what was missed.
            "retry": Retry(NoBackoff(), 0),
            "retry_on_error": [],
            "retry_on_timeout": False,
            "health_check_interval": 0,
            # Each wait has a bound of ours.
            "socket_timeout": None,
            "decode_responses": False,
            "protocol": 2,
        }
        self.troubles: dict[Trouble, str] = {}
        self.database = int(self._options.get("db") or 0)
        path = self._options.get("path")
        port = self._options.get("port", 6379)
        self.host: str = self._options.get("host", "localhost")
        self.place = f"Redis at {path or f'{self.host}:{port}'}"

    async def connect(self, timeout: float, *commands: tuple[Any, ...]) -> tuple[Any, list[Any]]:
        """Makes a connection.

        Args:
            timeout: Seconds after which to give up.
            commands: What to ask at once.

        Returns:
            The connection, and the answers.

        Raises:
            Unsupported: the server is too old, or its user may not ask that.
            RedisError, OSError, asyncio.TimeoutError: it could not be made.
        """
        connection = await self._new_connection(timeout)
        try:
            return connection, await asyncio.wait_for(_greet(connection, commands), timeout)
        except (Unsupported, NoPermissionError) as error:
            await connection.disconnect(nowait=True)
            raise Unsupported(f"{self.place} cannot be used by channels: {error}") from None
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    async def resolve(self, timeout: float) -> tuple[str, int]:
        """Returns the host and the port."""
        return self._options["host"], self._options["port"]

    async def _new_connection(self, timeout: float) -> Connection:
        return self._connection()

    def at(self, host: str, port: int) -> Server:
        """Returns another server, to which one connects in the same way."""
        other = copy(self)
        other._options = {**self._options, "host": host, "port": port}
        other.place = f"Redis at {host}:{port}"
        other.troubles = {}
        return other

    def _connection(self, **options: Any) -> Connection:
        return self._class(**{**self._options, **options})


async def _greet(connection: Connection, commands: tuple[tuple[Any, ...], ...]) -> list[Any]:
    await connection.connect()
    # All at once: one after the other they take longer than the timeout on a slow network.
    await send(connection, [("INFO", "server"), *commands])
    try:
        version = _version(await connection.read_response())
    except ResponseError:
        version = None  # it is not allowed to ask
    if version is not None and version < OLDEST:
        names = [".".join(map(str, each)) for each in (OLDEST, version)]
        raise Unsupported(f"they need Redis {names[0]} or newer, and this is {names[1]}")
    return [await connection.read_response() for _ in commands]


def _version(info: bytes) -> tuple[int, ...] | None:
    for line in info.decode(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == "redis_version":
            return tuple(int(part) for part in value.split(".") if part.isdigit())
    return None


async def send(connection: Connection, commands: Iterable[tuple[Any, ...]]) -> None:
    """Sends commands together.

    Raises:
        RedisError, OSError: the connection was lost.
    """
    packed = b"".join([_pack(command) for command in commands])
    try:
        await connection.send_packed_command([packed], check_health=False)
    except RuntimeError as error:  # what uvloop raises where the transport is closed
        raise RedisConnectionError(str(error)) from error


class Answers:
    """Reads the answers of a connection. redis-py takes several times as long to hand over an
    answer as to parse it, so those that have arrived together are handed over together."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        reader: Any = getattr(getattr(connection, "_parser", None), "_reader", None)
        # Nothing has arrived yet, so `gets` returns the object that stands for no whole answer.
        self._reader = None if reader is None or reader.has_data() else reader
        self._nothing = None if self._reader is None else self._reader.gets(False)

    async def next(self) -> list[Any]:
        """Returns the answers that have come, at least one, errors of the server among them.

        Raises:
            RedisError, OSError: the connection was lost.
        """
        try:
            answers = [await self._connection.read_response()]
        except _REFUSALS as error:
            answers = [error]
        reader = self._reader
        if reader is not None:
            while (answer := reader.gets(False)) is not self._nothing:
                answers.append(answer)
        return answers


def has_input(connection: Connection) -> bool:
    """Returns whether there is something to read already: where nothing was asked, mostly that the
    server has closed the connection."""
    writer = getattr(connection, "_writer", None)
    socket = None if writer is None else writer.get_extra_info("socket")
    if socket is None or socket.fileno() < 0:
        return False
    if not hasattr(select, "poll"):
        return bool(select.select([socket.fileno()], [], [], 0)[0])
    poll = select.poll()
    poll.register(socket.fileno(), select.POLLIN)
    return bool(poll.poll(0))


# redis-py before 6.0 knows these in its own client of clusters alone.
_OF_CLUSTERS: dict[str, Callable[[str], Exception]] = {
    "ASK": AskError,
    "CLUSTERDOWN": ClusterDownError,
    "MOVED": MovedError,
    "TRYAGAIN": TryAgainError,
}


def known(error: Exception) -> Exception:
    """Returns an error of the server as the class that it has in the newest redis-py."""
    code, _, message = str(error).partition(" ")
    kind = _OF_CLUSTERS.get(code)
    return error if kind is None else kind(message)


class Pauses:
    """How long to wait between attempts to connect: longer and longer."""

    def __init__(self) -> None:
        self._next = 0.0

    def reset(self) -> None:
        """Lets the next attempt begin at once, because the server answers."""
        self._next = 0.0

    def grow(self) -> None:
        """Makes the next pause the longest one."""
        self._next = _MOST_PAUSE

    async def pause(self) -> None:
        """Waits before an attempt: not at all before the first, then longer each time."""
        pause = self._next
        self._next = min(max(2 * pause, _LEAST_PAUSE), _MOST_PAUSE)
        await asyncio.sleep(pause)


def reason_of(error: Exception) -> str:
    """Returns what has gone wrong with a connection, for the log and for errors."""
    if isinstance(error, (asyncio.TimeoutError, TimeoutError)) and not str(error):
        return "it does not answer"
    reason = str(error) or type(error).__name__
    return reason if _is_expected(error) else f"{type(error).__name__}: {reason}"


def _is_expected(error: Exception) -> bool:
    """Returns whether connections end with such errors, which need no traceback."""
    return isinstance(error, (Unsupported, *LOST))


# The owner in the key of a run, as `Runs` makes it, and all behind it.
_OWNER = re.compile(rb':\d+:\[".*', re.DOTALL)


def text_of(name: bytes) -> str:
    """Returns a name for a log or an error: a user may have chosen a part of it. Whose run it is
    about is left out."""
    return repr(_OWNER.sub(b"", name).decode(errors="backslashreplace"))


class Trouble:
    """Says once in the log that a server is away, and once that it is back.

    Args:
        what: Is away.
        troubles: Of the same server, with the reasons: of those that have the same, one says it.

    Attributes:
        reason: Why it could not be reached last.
    """

    def __init__(self, what: str, troubles: dict[Trouble, str] | None = None) -> None:
        self._what = what
        self._troubles = {} if troubles is None else troubles
        self.reason = "it does not answer"

    def begin(self, error: Exception) -> None:
        """Says what has gone wrong: with its traceback, if that is not how connections end."""
        self.reason = reason_of(error)
        is_said = self in self._troubles or self.reason in self._troubles.values()
        self._troubles[self] = self.reason
        if is_said:
            return
        if isinstance(error, Unsupported):
            logger.warning("%s", error)
        else:
            trace = None if _is_expected(error) else error
            logger.warning("%s is away: %s", self._what, self.reason, exc_info=trace)

    def end(self) -> None:
        """Says that it is back, if nothing is wrong with the server any more."""
        self.reason = "it does not answer"
        if self._troubles.pop(self, None) is not None and not self._troubles:
            logger.warning("%s is back", self._what)


async def first_of(*tasks: asyncio.Future[Any]) -> None:
    """Waits until one of several tasks ends, ends the others, and raises what it has raised: if
    several have, what is not expected of a connection comes first."""
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended = [task for task in tasks if task.done()]
        await end(*tasks)
    errors = [task.exception() for task in ended if not task.cancelled()]
    for error in sorted(filter(None, errors), key=lambda error: isinstance(error, LOST)):
        raise error
