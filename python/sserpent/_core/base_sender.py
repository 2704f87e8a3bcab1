"""Sends pending frames in the turn of the caller."""

from __future__ import annotations

from contextvars import Context
from typing import TYPE_CHECKING, Any

from .stepping import step_as

if TYPE_CHECKING:
    from typing_extensions import Self

_SENT: Any = object()


class BaseSender:
    """Sends the pending events, one `send` at a time. It steps each `send` itself, as asyncio's
    current task. This is the part of a sender that runs for each event that trickles.

    A base class. `flush` calls a method of the subclass where there is more to it:
    `_flush_closed()` while it is not open, `_wait_for(what)` when the `send` waits,
    `_failed(error)` when it raises, and `_finish()` when it was cancelled and has ended.

    Args:
        send: The ASGI callable; returns coroutines.
        pending: Has `take` and `pending`, as a buffer has.
        loop: The event loop.
        context: The context of each step.
        current_tasks: As for `step_as`.
    """

    __slots__ = {
        "_current_tasks": None,
        "cancellations": "How often the `send` in progress was cancelled.",
        "context": "The context of each step.",
        "in_progress": "The `send` in progress, or None.",
        "is_open": "Whether `flush` sends; not at first.",
        "loop": "The event loop.",
        "pending": "The buffer: has `take` and `pending`.",
        "send": "The ASGI callable.",
        "sent_at": "When the last `send` ended, or all began, in the event loop's time.",
    }

    send: Any
    pending: Any
    loop: Any
    context: Context
    in_progress: Any
    is_open: bool
    cancellations: int
    sent_at: float
    _current_tasks: Any

    def __new__(
        cls, send: Any, pending: Any, loop: Any, context: Context, current_tasks: Any
    ) -> Self:
        self = super().__new__(cls)
        self.send = send
        self.pending = pending
        self.loop = loop
        self.context = context
        self._current_tasks = current_tasks
        self.in_progress = None
        self.is_open = False
        self.cancellations = 0
        self.sent_at = loop.time()
        return self

    def flush(self) -> None:
        """Sends the pending events, if there are any and no `send` is in progress."""
        if self.in_progress is not None:
            return
        if not self.is_open:
            self._flush_closed()
            return
        taken = self.pending.take()
        if not taken:
            return
        sending = self.send({"type": "http.response.body", "body": taken, "more_body": True})
        self.in_progress = sending
        try:
            waiting_for = step_as(
                self, self._current_tasks, self.loop, self.context, sending, _SENT
            )
        except BaseException as error:
            self._failed(error)
            return
        if waiting_for is not _SENT:
            self._wait_for(waiting_for)
        elif self.cancellations:
            self._finish()
        else:
            self.in_progress = None
            self.sent_at = self.loop.time()

    def _flush_closed(self) -> None:
        raise NotImplementedError

    def _wait_for(self, future: Any) -> None:
        raise NotImplementedError

    def _failed(self, error: BaseException) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        raise NotImplementedError
