"""Runs the generator on asyncio, from first item to close, in one task.

The pump of the core steps the generator, so it sees the very moment at which that suspends, and
has what is pending sent right then, before it passes the suspension on to the event loop. Hence:

Rule 1. Coalescing takes what is already there and never waits: no timer, no helper task, no turn
        of the event loop lies between a suspension of the generator and its events' `send`.
Rule 2. The generator is not resumed while a `send` is in progress (backpressure), except to be
        given a cancellation.
Rule 3. A cancellation of this task is the generator's, at once: of its own timeouts and scopes,
        or of a stream that ends. It never reaches a `send`, which the sender owns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from .._core import Buffer, Pump
from .._shutdown import ServerStreams, current
from .generator_thread import GeneratorThread, options_of
from .in_finally import is_tidying_up
from .sender import Sender
from .source import close_unstarted

if TYPE_CHECKING:
    from starlette.types import Scope

    from .options import Streamable


class GeneratorTask:
    """Runs one generator and pushes what it yields into the buffer.

    Args:
        response: What is streamed.
        scope: The ASGI scope, for errors that name the route.
        buffer: Where the events go.
        sender: Sends them.
        on_refusal: Called with the error of an item that cannot be encoded, before the cleanup.
    """

    __slots__ = (
        "_buffer",
        "_content",
        "_on_end",
        "_on_refusal",
        "_pump",
        "_response",
        "_room",
        "_scope",
        "_sender",
        "begun",
        "cut",
        "stopping",
        "task",
    )

    def __init__(
        self,
        response: Streamable,
        scope: Scope,
        buffer: Buffer,
        sender: Sender,
        on_refusal: Callable[[Exception], None],
    ) -> None:
        self._response = response
        self._on_refusal: Callable[[Exception], None] | None = on_refusal
        self._content: Any = response._content
        self._scope = scope
        self._buffer = buffer
        self._sender = sender
        self._pump: Pump | None = None  # of an async generator, while it runs
        self._room: asyncio.Future[None] | None = None  # the generator waits here for a `send`
        self._on_end: Callable[[BaseException | None], None] | None = None
        self.task: asyncio.Task[None] | None = None
        #: The task has had its first turn.
        self.begun = False
        #: The generator is to end: it gets no further than its next yield.
        self.stopping = False
        #: It was not let come to its end.
        self.cut = False

    # Asked by the delivery

    def stop(self) -> None:
        """Tells the generator to end: cancels it once, so that its `finally` blocks may await. One
        that is in a `finally` of its own already is left to come to the end of it. One that has not
        begun is closed by its task, which is therefore not cancelled."""
        if not self.stopping:
            self.stopping = True
            if self._pump is not None:
                self._pump.stop()
            if self.begun and not is_tidying_up(self._content):
                self.cancel()
            self.go_on()

    def cancel(self) -> None:
        """Cancels the generator's task; the body that it leaves is not whole."""
        self.cut = True
        if self.task is not None:
            self.task.cancel()

    def go_on(self) -> None:
        """Lets the generator go on that waits for a `send`."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    # The task

    def start(self, streams: ServerStreams, on_end: Callable[[BaseException | None], None]) -> None:
        """Starts the task.

        Args:
            streams: The streams of the server, for the generator's `shutdown_event()`.
            on_end: Called at the end, with what the generator raised.
        """
        self._on_end = on_end
        self.task = asyncio.get_running_loop().create_task(self._run(streams))
        if not self.begun:
            self.task.add_done_callback(self._on_never_begun)

    def _on_never_begun(self, task: asyncio.Task[None]) -> None:
        """Somebody has cancelled the task before its first turn, so that none of it has run."""
        self._report(asyncio.CancelledError())

    async def _run(self, streams: ServerStreams) -> None:
        """Runs the generator from its first item to the end of its cleanup."""
        self.begun = True
        current.set(streams)
        self.task = task = asyncio.current_task()
        assert task is not None
        task.remove_done_callback(self._on_never_begun)
        del task
        error: BaseException | None = None
        try:
            if self.stopping:
                self.cut = self._response._cuts
                await close_unstarted(self._content)
            elif hasattr(self._content, "__aiter__"):
                generator = self._content.__aiter__()
                self._pump = pump = Pump(generator, self._buffer, self._sender, self._explained)
                # Here, not in a coroutine of its own, through which each event would have to come.
                try:
                    while not await pump:
                        await self._make_room(pump)
                        if self.stopping and pump.at_yield:
                            self.cut = True
                            break  # `aclose` ends it
                finally:
                    await self._close(generator)
            else:
                await self._run_thread(self._content)
        except BaseException as failure:
            error = failure
        self._pump = None  # it refers to this object
        try:
            self._report(error)
        finally:
            error = None  # its traceback refers to this frame

    def _report(self, error: BaseException | None) -> None:
        on_end, self._on_end, self._on_refusal = self._on_end, None, None
        if on_end is not None:
            on_end(error)

    async def _make_room(self, pump: Pump) -> None:
        """Has the pending events sent in the middle of a burst. A generator that has not suspended
        since the last time gets the loop a turn, so that it cannot starve others."""
        try:
            await self._hand_over()
            if not pump.suspended:
                await asyncio.sleep(0)
                self._buffer.restart_age()
        except BaseException as thrown:
            if not (self.stopping and pump.at_yield):
                pump.throw_next(thrown)

    async def _close(self, generator: Any) -> None:
        self._sender.flush()
        aclose = getattr(generator, "aclose", None)
        if aclose is not None:
            await aclose()

    async def _run_thread(self, content: Iterable[Any]) -> None:
        thread = GeneratorThread(content, self._buffer, options_of(self._response), self._explained)
        woken = asyncio.Event()
        refused = False
        try:
            thread.start(asyncio.get_running_loop().call_soon_threadsafe, woken.set)
            while True:
                await woken.wait()
                woken.clear()
                finished = thread.take_notice()
                if thread.refusal is not None:
                    refused = True
                    self._refuse(thread.refusal)
                await self._hand_over()
                thread.resume()
                if finished:
                    break
        finally:
            thread.stop()
            try:
                # The cleanup after a refusal has had its time.
                while not (thread.finished or refused):
                    await woken.wait()
                    woken.clear()
            finally:
                thread.cut_off()
        thread.raise_error()

    async def _hand_over(self) -> None:
        """Has the pending events sent, and waits until no `send` is in progress."""
        self._sender.flush()
        while self._sender.in_progress is not None and not self.stopping:
            self._room = asyncio.get_running_loop().create_future()
            try:
                await self._room
            finally:
                self._room = None

    def _explained(self, error: Exception, item: object) -> Exception:
        explained = self._response._origin.explain(error, item, self._scope)
        if self._pump is not None:  # not in the thread of a sync generator
            self._refuse(explained)
        return explained

    def _refuse(self, error: Exception) -> None:
        """Ends the generator without cancelling it: it is closed where it has yielded."""
        self.stopping = True
        if self._on_refusal is not None:
            self._on_refusal(error)
