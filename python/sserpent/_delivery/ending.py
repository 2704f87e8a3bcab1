"""Why a stream ends, and what follows from it: the one place where that is decided."""

from __future__ import annotations

from enum import Enum, unique

from .._shutdown.connections import came_from_a_closed_connection

# Streams of anyio and Trio raise these when the other end is gone, or they are closed for that.
_GONE = {"BrokenResourceError", "ClosedResourceError"}


@unique
class Ending(Enum):
    """The reason of a stream's end, and what follows from it. The first reason counts.

    A generator that still runs is told to end, whatever the reason, and has `cleanup_timeout`.

    Attributes:
        delivers: Whether events that were yielded before are still sent. Where they are not, a
            `send` that waits is cancelled too.
        connection: What becomes of the connection. "end": the body is ended, so that the client
            knows that it has everything. "raise": the exception goes to the server, which cuts
            the connection and logs it. "close": it is cut without a word in the log. "abort": it
            is dropped with what the client has not read. "leave": there is nothing to do.
        tells: Whether `on_disconnect` is called.
        farewell: Whether the client is told last when to come back.
    """

    #: The generator has ended by itself, and all of it is sent.
    COMPLETE = True, "end", False, False
    #: `receive` said so, or a `send` raised OSError, or anything on a closed connection.
    CLIENT_LEFT = False, "leave", True, False
    #: The client has not read for `send_timeout`.
    STALLED = False, "abort", True, False
    #: It has lasted for `max_duration`.
    MAX_DURATION = True, "end", False, True
    #: The server shuts down, and the generator was still running.
    SHUTDOWN = True, "close", False, False
    #: The generator or a `send` has raised.
    FAILED = True, "raise", False, False
    #: The server, or a middleware, has cancelled the request.
    CANCELLED = False, "leave", False, False

    def __init__(self, delivers: bool, connection: str, tells: bool, farewell: bool) -> None:
        self.delivers = delivers
        self.connection = connection
        self.tells = tells
        self.farewell = farewell


def after(first: BaseException | None, error: BaseException) -> BaseException:
    """Returns what is raised where a cleanup fails after something else has: the error of the
    cleanup, with the first one as its cause, so that both are told."""
    last = error
    while last is not first and last.__cause__ is not None:
        last = last.__cause__
    if last is not first and first is not None:
        last.__cause__ = first
    return error


def is_disconnect(error: BaseException) -> bool:
    """Returns whether a `send` or `receive` that raises this says that the client has gone: ASGI
    2.4 has it "raise an OSError". Transports raise other errors when they are written to after
    that, so for others the connection that they came from is looked at."""
    if isinstance(error, TimeoutError):
        return error.errno is not None  # without a number it is a timeout of a middleware's
    return (
        isinstance(error, OSError)
        or type(error).__name__ in _GONE
        or came_from_a_closed_connection(error)
    )
