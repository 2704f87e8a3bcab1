"""The part of a stream that is alike on asyncio and on Trio."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from inspect import isawaitable
from typing import Any, cast

import anyio

from .._runtime.log import logger
from .._runtime.loops import is_cancellation, on_asyncio
from .._shutdown.connections import came_from_a_closed_connection
from .life import Ending, Event
from .options import Streamable
from .sender import ENDED, HELD, Phase

# Streams of anyio and Trio raise these when the other end is gone, or they are closed for that.
_GONE = {"BrokenResourceError", "ClosedResourceError"}


def is_disconnect(error: BaseException) -> bool:
    """Returns whether a `send` or `receive` that raises this says that the client has gone: ASGI
    2.4 has it "raise an OSError". Transports raise other errors when they are written to after
    that, so for others the connection that they came from is looked at. Of a group, from a task
    group of a middleware's, all that is in it has to say so."""
    inner: Any = getattr(error, "exceptions", None)  # Python 3.10 has no class for groups
    if isinstance(inner, tuple) and inner:
        return all(map(is_disconnect, cast("tuple[BaseException, ...]", inner)))
    if isinstance(error, TimeoutError):
        return error.errno is not None  # without a number it is a timeout of a middleware's
    return (
        isinstance(error, OSError)
        or type(error).__name__ in _GONE
        or came_from_a_closed_connection(error)
    )


def end_of_generator(
    response: Streamable,
    ending: Ending | None,
    error: BaseException | None,
    is_whole: bool,
    buffer: Any,
    phase: Phase,
    can_close: Callable[[], bool],
) -> tuple[Event, BaseException | None]:
    """Has the last events appended, and returns what the end of a generator is to its stream, with
    the error that belongs to it.

    Args:
        response: What was streamed.
        ending: Why the stream ends, if that is known already.
        error: What the generator has raised, or an item before.
        is_whole: Whether it has come to its end by itself.
        buffer: Where its events wait, or its source.
        phase: How far the response has come.
        can_close: Says whether the connection can be closed.
    """
    if is_whole and ending is None:  # as most do
        return _whole(response, buffer)
    has_begun = phase is not HELD or bool(buffer.pending)
    is_sending = has_begun and phase is not ENDED
    cut_by = (Ending.SHUTDOWN, Ending.MAX_DURATION) if response._cuts else (Ending.SHUTDOWN,)
    if ending is None or ending is Ending.FAILED:
        if is_sending and response._close(buffer, error):
            return Event.FAILURE_TOLD, error
    elif is_whole and ending in cut_by:
        return _whole(response, buffer)
    elif response._cuts and ending in cut_by:
        if not has_begun:
            error = error or response._unavailable()
        elif is_sending and not can_close():
            response._close(buffer, None, is_lost=True)
        return Event.CUT_OFF, error
    if error is not None:
        return Event.GENERATOR_FAILED, error
    return Event.GENERATOR_ENDED if is_whole else Event.GENERATOR_CUT, None


def _whole(response: Streamable, buffer: Any) -> tuple[Event, BaseException | None]:
    is_closed = response._close(buffer, None)
    return Event.GENERATOR_ENDED if is_closed else Event.CLOSING_FAILED, None


async def call_on_disconnect(response: Streamable) -> None:
    """Tells the application that the client has left. What fails there ends nothing here, and is
    logged: a cancellation of the application's own too.

    Raises:
        asyncio.CancelledError: the request was cancelled meanwhile.
    """
    on_disconnect = response.on_disconnect
    if on_disconnect is None or not response._begins:
        return
    before = _cancellations()
    with anyio.move_on_after(response.cleanup_timeout, shield=True) as timeout:
        try:
            called = on_disconnect()
            if isawaitable(called):
                await called
        except GeneratorExit:  # nobody runs this any more
            raise
        except BaseException as error:
            cancelled = timeout.cancel_called or _cancellations() != before
            if cancelled and is_cancellation(error):
                raise
            logger.exception("on_disconnect of %s failed", response._origin)


if sys.version_info >= (3, 11):

    def _cancellations() -> float:
        """Returns how often this task has been cancelled; Trio cancels scopes, not tasks."""
        task = asyncio.current_task() if on_asyncio() else None
        return task.cancelling() if task else 0

else:

    def _cancellations() -> float:
        """Returns what equals nothing: asyncio does not say whether it has cancelled a task."""
        return float("nan") if on_asyncio() else 0


def warn_of_stall(response: Streamable) -> None:
    """Notes that a client has not read for `send_timeout`, and logs a warning."""
    response._stalled = True
    logger.warning(
        "A client of %s has not read for send_timeout (%s s) and is dropped",
        response._origin,
        response.send_timeout,
    )


def log_send_error(error: BaseException | None) -> None:
    """Logs the error of a `send` that no stream is left to raise."""
    logger.error("A send failed after its stream had ended", exc_info=error)
