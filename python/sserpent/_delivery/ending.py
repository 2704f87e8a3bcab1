"""Why a stream ends, and what follows from it: the one place where that is decided."""

from __future__ import annotations

from enum import Enum, auto
from typing import Literal, NamedTuple


class Ending(Enum):
    """The reason of a stream's end. The first one counts."""

    COMPLETE = auto()  # the generator has ended by itself, and all of it is sent
    CLIENT_LEFT = auto()  # `receive` said so, or a `send` raised OSError
    STALLED = auto()  # the client has not read for `send_timeout`
    SHUTDOWN = auto()  # the server shuts down, and the generator was still running
    FAILED = auto()  # the generator or a `send` has raised
    CANCELLED = auto()  # the server, or a middleware, has cancelled the request


class Consequences(NamedTuple):
    """What follows from a reason.

    A generator that still runs is told to end, whatever the reason, and has `cleanup_timeout`.
    """

    # Whether events that were yielded before are still sent. Where they are not, a `send` that
    # waits is cancelled too.
    delivers: bool
    # What becomes of the connection. "end": the body is ended, so that the client knows that it
    # has everything. "raise": the exception goes to the server, which cuts the connection and logs
    # it. "close": it is cut without a word in the log. "abort": it is dropped with what the client
    # has not read. "leave": there is nothing to do.
    connection: Literal["end", "raise", "close", "abort", "leave"]
    # Whether `on_disconnect` is called.
    tells: bool


CONSEQUENCES = {
    Ending.COMPLETE: Consequences(delivers=True, connection="end", tells=False),
    Ending.CLIENT_LEFT: Consequences(delivers=False, connection="leave", tells=True),
    Ending.STALLED: Consequences(delivers=False, connection="abort", tells=True),
    Ending.SHUTDOWN: Consequences(delivers=True, connection="close", tells=False),
    Ending.FAILED: Consequences(delivers=True, connection="raise", tells=False),
    Ending.CANCELLED: Consequences(delivers=False, connection="leave", tells=False),
}


def is_disconnect(error: BaseException) -> bool:
    """Returns whether a `send` that raises this says that the client has gone: ASGI 2.4 has it
    "raise an OSError"."""
    if isinstance(error, TimeoutError):
        return error.errno is not None  # without a number it is a timeout of a middleware's
    return isinstance(error, OSError)
