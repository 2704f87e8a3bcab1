"""Runs an async iterator into a buffer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from typing import Any

from .base_sender import BaseSender
from .buffer import Buffer
from .json import wrong_type


class Pump:
    """Runs an async iterator and pushes what it yields into a buffer.

    To be awaited again and again, by one task. Each time it runs the iterator until that has ended,
    or until the task has something to do before the iterator goes on: the buffer is due, the
    iterator is at a yield and to stop, or the sender is busy.

    Args:
        iterator: What is run.
        buffer: Where the items go.
        sender: Its `flush()` is called whenever the iterator suspends and something is
            pending, before the suspension is passed on. It is busy while a `send` is in progress.
        explain: Called with an error of `push` and the item; returns what is raised instead.

    Returns:
        Whether the iterator has ended.

    Raises:
        TypeError: `iterator` is no async iterator; the message names it.
        Exception: whatever the iterator raises.
    """

    __slots__ = (
        "_buffer",
        "_error",
        "_explain",
        "_iterator",
        "_sender",
        "_steps",
        "_stopping",
        "_suspended",
    )

    def __init__(
        self,
        iterator: AsyncIterator[Any],
        buffer: Buffer,
        sender: BaseSender,
        explain: Callable[[Exception, object], Exception],
    ) -> None:
        if not hasattr(type(iterator), "__anext__"):
            raise wrong_type("'iterator' must be an async iterator", iterator)
        self._iterator: Any = iterator
        self._buffer = buffer
        self._sender = sender
        self._explain = explain
        self._suspended = False
        self._stopping = False
        # The steps that the iterator is suspended in; None at a yield.
        self._steps: Coroutine[Any, None, bool] | None = None
        # The error that is thrown into the iterator next.
        self._error: BaseException | None = None

    @property
    def suspended(self) -> bool:
        """Whether the iterator has suspended since the pump was last awaited."""
        return self._suspended

    @property
    def at_yield(self) -> bool:
        """Whether the iterator is at a yield, or has not begun."""
        return self._steps is None

    def stop(self) -> None:
        """Lets the iterator get no further than its next yield, whatever the sender does."""
        self._stopping = True

    def throw_next(self, error: BaseException, /) -> None:
        """Has an error thrown into the iterator, where it is, when it would go on."""
        self._error = error

    def __await__(self) -> Generator[Any, None, bool]:
        self._suspended = False
        while self._error is not None or self._stopping or self._sender.in_progress is None:
            steps, error = self._steps_to_take()
            try:
                waiting_for = steps.send(None) if error is None else steps.throw(error)
            except StopIteration as returned:
                return bool(returned.value)
            finally:
                error = None  # its traceback may refer to this frame
            self._steps = steps
            self._suspended = True
            if self._buffer.pending:
                self._sender.flush()
            try:
                yield waiting_for
            except BaseException as thrown:
                self._error = thrown
        return False

    def _steps_to_take(self) -> tuple[Coroutine[Any, None, bool], BaseException | None]:
        """Returns what is to be stepped, and what is to be thrown into it."""
        error, self._error = self._error, None
        steps, self._steps = self._steps, None
        try:
            if steps is not None:
                return steps, error
            return self._run(error), None
        finally:
            del error  # its traceback may refer to this frame

    async def _run(self, error: BaseException | None) -> bool:
        """Runs the iterator from a yield to where the task has something to do at a yield; returns
        whether it has ended instead."""
        push, next_item = self._buffer.push, self._iterator.__anext__
        try:
            while True:
                try:
                    item = await (next_item() if error is None else self._thrown(error))
                except StopAsyncIteration:
                    return True
                error = None
                try:
                    is_due = push(item)
                except Exception as refusal:
                    raise self._explain(refusal, item) from refusal.__cause__
                if is_due or self._stopping:
                    return False
        except StopIteration as stopped:  # Python would say that a coroutine has raised it
            raise RuntimeError("generator raised StopIteration") from stopped
        finally:
            del error  # its traceback may refer to this frame

    def _thrown(self, error: BaseException) -> Awaitable[Any]:
        if not hasattr(self._iterator, "athrow"):
            raise error
        thrown: Awaitable[Any] = self._iterator.athrow(error)
        return thrown
