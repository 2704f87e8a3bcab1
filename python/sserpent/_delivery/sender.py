"""The one place from which asyncio's engine calls `send`: headers, events, keep-alives, the end.

A `send` is stepped by hand, so that it happens at the very moment it is asked for, in the turn of
the caller, and costs no task of its own. While it is stepped, the sender is asyncio's current
task, as https://docs.python.org/3/library/asyncio-extending.html provides for: a timeout or cancel
scope that a middleware puts around `send` then cancels this `send`, and neither the generator nor
the server's `receive()`, which have tasks of their own. Where asyncio has no place that we know to
say so, each `send` gets a task after all.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import warnings
from enum import Enum, auto
from inspect import iscoroutine
from typing import TYPE_CHECKING, Any, Protocol

from starlette.types import Message, Send

from .._core import BaseSender, step_as
from .._runtime.log import logger

if TYPE_CHECKING:
    from typing_extensions import Self

    from .life import Ending
    from .wire import Body

# Where asyncio keeps the current tasks, for `step_as`: a private name, which Python 3.12 changed.
_CURRENT_TASKS = "_swap_current_task" if sys.version_info >= (3, 12) else "_current_tasks"
_current_tasks: Any = getattr(asyncio.tasks, _CURRENT_TASKS, None)


# The result of `step` for a `send` that has come to its end.
_SENT: Any = object()


class Phase(Enum):
    """How far the response has come. It only ever goes on."""

    HELD = auto()  # the headers wait for a first event
    OPEN = auto()  # the headers are out, or on their way
    ENDED = auto()  # the end of the body is out, or on its way, or nothing can be sent any more


# Until Python 3.12 a function of `enum`'s looks members up, which takes as long as half a `flush`.
HELD, OPEN, ENDED = Phase


class Owner(Protocol):
    """The owner of a sender."""

    def on_sent(self) -> None:
        """Called when a `send` that had to wait has ended."""

    def on_send_error(self, error: BaseException) -> None:
        """Called when a `send` raises, in the turn in which it does."""


class Sender(BaseSender):
    """Sends for one stream, one message at a time. `flush`, which runs for each event that
    trickles, is the core's.

    `open`, `ping` and `end` are to be called only while no `send` is in progress.

    Args:
        send: The ASGI callable.
        body: Makes the messages.
        owner: Is told of ends and errors.
    """

    __slots__ = (
        "__weakref__",
        "_body",
        "_cancel_message",
        "_fut_waiter",
        "_must_cancel",
        "_owner",
        "complete",
        "phase",
        "sending_since",
        "sent_headers",
        "waits_since",
    )

    def __new__(cls, send: Send, body: Body, owner: Owner) -> Self:
        loop = asyncio.get_running_loop()
        # Each step of a `send` runs in this one context: a middleware may set a variable before
        # its `await send(...)` and reset it afterwards.
        return super().__new__(
            cls, send, body.pending, loop, contextvars.copy_context(), _current_tasks
        )

    def __init__(self, send: Send, body: Body, owner: Owner) -> None:
        self._body = body
        self._owner: Owner | None = owner
        self._enter(HELD)
        #: Whether the whole body is out, its end included.
        self.complete = False
        #: Since when the `send` in progress waits.
        self.sending_since: float | None = None
        #: Since when it waits for what it waits for now, or did last.
        self.waits_since = self.sent_at
        #: Whether the headers have been given to the server.
        self.sent_headers = False
        # As in asyncio.Task, whose users look at these.
        self._fut_waiter: Any = None
        self._must_cancel = False
        self._cancel_message: Any = None

    def _enter(self, phase: Phase) -> None:
        """Goes on to a phase. In `OPEN` alone `flush` sends without more ado."""
        self.phase = phase
        self.is_open = phase is OPEN

    # Sending

    def open(self) -> None:
        """Sends the headers."""
        self._begin(self._open())

    def _flush_closed(self) -> None:
        """Sends the headers before the pending events, if they are still held."""
        if self.phase is HELD and self.pending.pending:
            self._begin(self._open_and_flush())

    def ping(self, keepalive: bytes) -> None:
        """Sends a keep-alive."""
        self._begin(self.send(self._body.ping(keepalive)))

    def end(self, ending: Ending | None) -> None:
        """Sends the pending events and the end of the body, for a reason."""
        self._begin(self._end(ending))

    async def _open(self) -> None:
        self._enter(OPEN)
        self.sent_headers = True
        sending = self.send(self._body.head())
        if not iscoroutine(sending):
            # ASGI asks for an awaitable; what is to be stepped by hand is a coroutine.
            self.send = _as_coroutine_function(self.send)
        await sending
        if self.sending_since is not None:
            self.sending_since = self.loop.time()  # what follows is a `send` of its own

    async def _open_and_flush(self) -> None:
        await self._open()
        await self.send(self._body.events())

    async def _end(self, ending: Ending | None) -> None:
        if self.phase is HELD:
            await self._open()
        self._enter(ENDED)
        await self.send(self._body.end(ending))
        self.complete = True

    # How it is sent

    def _begin(self, coroutine: Any) -> None:
        self.in_progress = coroutine
        self._step()

    def _step(self, error: BaseException | None = None) -> None:
        """Runs the `send` in progress until it waits or has ended.

        Args:
            error: What to throw into it first.
        """
        try:
            waiting_for = step_as(
                self, _current_tasks, self.loop, self.context, self.in_progress, _SENT, error
            )
        except BaseException as failure:
            self._failed(failure)
            return
        finally:
            error = None  # its traceback refers to this frame
        if waiting_for is _SENT:
            self._finish()
        else:
            self._wait_for(waiting_for)

    def _finish(self) -> None:
        self.in_progress = None
        self.sending_since = None
        self._must_cancel = False
        self.cancellations = 0
        self.sent_at = self.loop.time()

    def _failed(self, error: BaseException) -> None:
        self._finish()
        if self._owner is not None:
            self._owner.on_send_error(error)

    def _wait_for(self, future: Any) -> None:
        self.waits_since = self.loop.time()
        if self.sending_since is None:
            self.sending_since = self.waits_since
        if getattr(future, "_asyncio_future_blocking", None):
            future._asyncio_future_blocking = False
            self._fut_waiter = future
            future.add_done_callback(self._wake)
            if self._must_cancel and future.cancel():
                self._must_cancel = False
        elif future is None:
            self.loop.call_soon(self._resume)
        else:
            error = RuntimeError(f"'send' waits for {type(future).__name__}, which is no future")
            self.loop.call_soon(self._resume, error)

    def _wake(self, future: Any) -> None:
        self._fut_waiter = None
        try:
            # A future that has failed fails the `send`, as it does in asyncio.Task: one that is
            # merely asked again (granian's, when cancelled) may wait for itself for ever.
            future.result()
        except BaseException as error:
            self._resume(error)
        else:
            self._resume()

    def _resume(self, error: BaseException | None = None) -> None:
        if self.in_progress is None:
            return  # given up meanwhile
        if self._must_cancel:
            self._must_cancel = False
            error = asyncio.CancelledError(
                *([self._cancel_message] if self._cancel_message else [])
            )
        self._step(error)
        del error
        if self.in_progress is None and self._owner is not None:
            self._owner.on_sent()

    # The end of sending

    def stop(self) -> None:
        """Sends nothing more after the `send` in progress."""
        self._enter(ENDED)

    def give_up(self) -> None:
        """Sends nothing more, and cancels the `send` in progress: the client has gone, or nobody
        wants what is still to be sent."""
        self._enter(ENDED)
        self.cancel()

    def close(self) -> None:
        """Ends a `send` in progress that did not heed its cancellation, and reports no more."""
        self._enter(ENDED)
        self._owner = None
        coroutine, self.in_progress = self.in_progress, None
        if coroutine is not None:
            try:
                self._close(coroutine)
            except Exception:
                logger.exception("A send that was given up failed")

    def _close(self, coroutine: Any) -> None:
        # As the current task too: a scope that it leaves looks at that.
        step_as(self, _current_tasks, self.loop, self.context, _closed(coroutine), _SENT)

    # As in asyncio.Task, for asyncio.timeout, anyio's scopes and all others that ask for the
    # current task inside a `send`.

    def cancel(self, msg: Any = None) -> bool:
        """Cancels the `send` in progress."""
        if self.in_progress is None:
            return False
        self.cancellations += 1
        self._cancel_message = msg
        if self._fut_waiter is None or not self._fut_waiter.cancel(msg=msg):
            self._must_cancel = True
        return True

    def cancelling(self) -> int:
        """Returns how often the `send` in progress was cancelled, as `Task.cancelling`."""
        return self.cancellations

    def uncancel(self) -> int:
        """Takes one cancellation back, and returns how many are left, as `Task.uncancel`."""
        if self.cancellations > 0:
            self.cancellations -= 1
        return self.cancellations

    def done(self) -> bool:
        """Returns whether no `send` is in progress."""
        return self.in_progress is None

    def cancelled(self) -> bool:
        """Returns False: a `send` that was cancelled is followed by others."""
        return False

    def get_coro(self) -> Any:
        """Returns the `send` in progress, or None."""
        return self.in_progress

    def get_context(self) -> contextvars.Context:
        """Returns the context in which each `send` is stepped."""
        return self.context

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Returns the event loop."""
        loop: asyncio.AbstractEventLoop = self.loop
        return loop

    def get_name(self) -> str:
        """Returns the name that debuggers show."""
        return "sserpent send"


class TaskSender(Sender):
    """Sends without what is private to asyncio: each `send` in a task of its own, which begins and
    ends a turn of the event loop later."""

    __slots__ = ("_task",)

    def __init__(self, send: Send, body: Body, owner: Owner) -> None:
        super().__init__(send, body, owner)
        self._task: asyncio.Task[Any] | None = None

    def _enter(self, phase: Phase) -> None:
        self.phase = phase  # `flush` always comes to `_flush_closed`

    def _flush_closed(self) -> None:
        if self.phase is OPEN and self.pending.pending:
            self._begin(self.send(self._body.events()))
        else:
            super()._flush_closed()

    def _step(self, error: BaseException | None = None) -> None:
        self.sending_since = self.waits_since = self.loop.time()
        create = self.loop.create_task
        self._task = task = self.context.run(create, self.in_progress, name=self.get_name())
        task.add_done_callback(self._on_task_end)

    def _on_task_end(self, task: asyncio.Task[Any]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if task is not self._task:
            return  # given up meanwhile
        self._task = None
        if error is None:
            self._finish()
        else:
            self._failed(error)
        del error
        if self.in_progress is None and self._owner is not None:
            self._owner.on_sent()

    def cancel(self, msg: Any = None) -> bool:
        return self._task is not None and self._task.cancel(msg)

    def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        super().close()

    def _close(self, coroutine: Any) -> None:
        coroutine.close()


def _lacks_private_names() -> bool:
    needed = {_CURRENT_TASKS: asyncio.tasks, "_asyncio_future_blocking": asyncio.Future}
    missing = [name for name, place in needed.items() if not hasattr(place, name)]
    if missing:
        warnings.warn(
            f"sserpent does not know the asyncio of this Python, which has no {missing[0]}: each"
            " send takes a task, which is slower. A newer sserpent may know it.",
            RuntimeWarning,
            stacklevel=2,
        )
    return bool(missing)


#: Makes what a stream sends by.
make_sender: type[Sender] = TaskSender if _lacks_private_names() else Sender


async def _closed(coroutine: Any) -> None:
    coroutine.close()


def _as_coroutine_function(send: Send) -> Send:
    async def sent(message: Message) -> None:
        await send(message)

    return sent
