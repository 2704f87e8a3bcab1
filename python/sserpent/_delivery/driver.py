"""Steps the generator on asyncio, from first item to close, in one task.

The driver steps its own coroutine by hand (`_steps`), so it sees the very moment at which the
generator suspends, and has what is pending sent right then, before it passes the suspension on to
the event loop. Hence:

Rule 1. Coalescing takes what is already there and never waits: no timer, no helper task, no turn
        of the event loop lies between a suspension of the generator and its events' `send`.
Rule 2. The generator is not resumed while a `send` is in progress (backpressure), except to be
        given a cancellation.
Rule 3. A cancellation of this task is the generator's, at once: of its own timeouts and scopes,
        or of a stream that ends. It never reaches a `send`, which the sender owns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any

from .._core import Buffer
from .._shutdown import ServerStreams, current
from .sender import Sender
from .thread import GeneratorThread
from .tidying import is_tidying_up

if TYPE_CHECKING:
    from typing import ParamSpec, Protocol, TypeVar

    from starlette.types import Scope

    from .options import Streamable

    P = ParamSpec("P")
    R_co = TypeVar("R_co", covariant=True)

    class _Steps(Protocol[R_co]):
        """What a generator-based coroutine returns: it can be awaited and iterated."""

        def __await__(self) -> Generator[Any, Any, R_co]: ...
        def __iter__(self) -> Generator[Any, Any, R_co]: ...

    def coroutine(
        function: Callable[P, Generator[Any, Any, R_co]], /
    ) -> Callable[P, _Steps[R_co]]: ...

else:
    from types import coroutine

# What the generator's side yields to `_steps`: it is time to hand the pending events over.
_HAND_OVER: Any = object()


@coroutine
def _handed_over() -> Generator[Any, None, None]:
    yield _HAND_OVER


class Driver:
    """Runs one generator and pushes what it yields into the buffer.

    Args:
        response: What is streamed.
        scope: The ASGI scope, for errors that name the route.
        buffer: Where the events go.
        sender: Who sends them.
    """

    __slots__ = (
        "_buffer",
        "_content",
        "_response",
        "_room",
        "_scope",
        "_sender",
        "_suspended",
        "cut",
        "stopping",
        "task",
    )

    def __init__(self, response: Streamable, scope: Scope, buffer: Buffer, sender: Sender) -> None:
        self._response = response
        self._content: Any = response.content
        self._scope = scope
        self._buffer = buffer
        self._sender = sender
        self._suspended = False  # the generator has suspended since the last hand-over
        self._room: asyncio.Future[None] | None = None  # the driver waits here for a `send`
        self.task: asyncio.Task[None] | None = None
        #: The generator is to end: it gets no further than its next yield.
        self.stopping = False
        #: It was not let come to its end.
        self.cut = False

    # What the delivery asks

    def stop(self) -> None:
        """Tells the generator to end: cancels it once, so that its `finally` blocks may await. One
        that is in a `finally` of its own already is left to come to the end of it."""
        if not self.stopping:
            self.stopping = True
            if not is_tidying_up(self._content):
                self.cancel()
            self.go_on()

    def cancel(self) -> None:
        self.cut = True
        if self.task is not None:
            self.task.cancel()

    def go_on(self) -> None:
        """Lets the generator go on that waits for a `send`."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    # The task

    def start(self, streams: ServerStreams, on_end: Callable[[BaseException | None], None]) -> None:
        """Starts the task."""
        self.task = asyncio.get_running_loop().create_task(self.run(streams, on_end))

    async def run(
        self, streams: ServerStreams, on_end: Callable[[BaseException | None], None]
    ) -> None:
        """Runs the generator from its first item to the end of its cleanup.

        Args:
            streams: The streams of the server, for the generator's `shutdown_event()`.
            on_end: Called at the end, with what the generator raised.
        """
        current.set(streams)
        self.task = asyncio.current_task()
        content = self._content
        error: BaseException | None = None
        try:
            pump = self._pump() if hasattr(content, "__aiter__") else self._pump_thread(content)
            await self._steps(pump)
        except BaseException as failure:
            error = failure
        try:
            on_end(error)
        finally:
            error = None  # its traceback refers to this frame

    @coroutine
    def _steps(self, pump: Any) -> Generator[Any, None, None]:
        advance, fail = pump.send, pump.throw
        sender = self._sender
        error = yield from self._wait_for_send()  # of the headers, if they went out at once
        while True:
            try:
                waiting_for = advance(None) if error is None else fail(error)
            except StopIteration:
                return
            finally:
                error = None  # nothing refers to it from here
            if waiting_for is _HAND_OVER:
                error = yield from self._hand_over()
                continue
            self._suspended = True
            sender.flush()
            try:
                yield waiting_for
            except BaseException as thrown:
                error = thrown
                continue
            if sender.in_progress is not None:
                error = yield from self._wait_for_send()

    @coroutine
    def _hand_over(self) -> Generator[Any, None, BaseException | None]:
        """Has the pending events sent in the middle of a burst. A generator that has not suspended
        since the last time gets the loop a turn, so that it cannot starve others."""
        self._sender.flush()
        error = yield from self._wait_for_send()
        if not (error or self._suspended):
            error = yield from self._let_loop_turn()
            self._buffer.restart_age()
        self._suspended = False
        try:
            return error
        finally:
            del error  # its traceback may refer to this frame

    # Both return what is thrown into them from within `except`: a variable that outlives it would
    # refer to an error whose traceback refers to the variable's frame.

    @coroutine
    def _let_loop_turn(self) -> Generator[Any, None, BaseException | None]:
        try:
            yield
        except BaseException as thrown:
            return thrown
        return None

    @coroutine
    def _wait_for_send(self) -> Generator[Any, None, BaseException | None]:
        """Waits until no `send` is in progress, and returns the cancellation that the generator
        is to get instead, if there was one."""
        while self._sender.in_progress is not None and not self.stopping:
            self._room = asyncio.get_running_loop().create_future()
            try:
                yield from self._room
            except BaseException as thrown:
                return thrown
            finally:
                self._room = None
        return None

    # The generator

    async def _pump(self) -> None:
        content = self._content.__aiter__()
        push = self._buffer.push
        try:
            async for item in content:
                try:
                    due = push(item)
                except Exception as error:
                    raise self._explained(error, item) from error.__cause__
                if due or self.stopping:
                    if self.stopping:
                        self.cut = True
                        break  # `aclose` ends it
                    try:
                        await _handed_over()
                    except BaseException as thrown:
                        await self._throw_at_yield(content, thrown)
        finally:
            aclose = getattr(content, "aclose", None)
            if aclose is not None:
                await aclose()

    async def _throw_at_yield(self, content: Any, thrown: BaseException) -> None:
        """Gives a cancellation to a generator that is at its `yield`."""
        athrow = getattr(content, "athrow", None)
        try:
            if self.stopping or athrow is None:
                raise thrown
            item = await athrow(thrown)
        except StopAsyncIteration:
            return
        finally:
            del thrown  # its traceback refers to this frame
        try:
            self._buffer.push(item)
        except Exception as error:
            raise self._explained(error, item) from error.__cause__

    async def _pump_thread(self, content: Iterable[Any]) -> None:
        thread = GeneratorThread(content, self._buffer, self._response, self._explained)
        woken = asyncio.Event()
        try:
            thread.start(asyncio.get_running_loop().call_soon_threadsafe, woken.set)
            while True:
                await woken.wait()
                woken.clear()
                finished = thread.take_notice()
                if self._buffer.pending:
                    await _handed_over()
                thread.resume()
                if finished:
                    break
        finally:
            thread.stop()
            while not thread.finished:
                await woken.wait()
                woken.clear()
        thread.raise_error()

    def _explained(self, error: Exception, item: object) -> Exception:
        return self._response.origin.explain(error, item, self._scope)
