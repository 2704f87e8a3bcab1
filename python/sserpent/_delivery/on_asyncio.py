"""One stream's life on asyncio: from the generator's first item to its cleanup.

Two tasks for each stream. The task that the server gave us (the ASGI task) does nothing but
`receive()` until the client leaves, the stream ends or the server shuts down. The other, the
driver, runs the generator from first item to close and sends what it yields.

The driver steps its own coroutine by hand (`_steps`), so it sees the very moment at which the
generator suspends, and hands over what is pending right then, in its own task, before it passes
the suspension on to the event loop. Hence:

Rule 1. Coalescing takes what is already there and never waits: no timer, no helper task, no turn
        of the event loop lies between a suspension of the generator and its events' `send`.
Rule 2. The generator does not advance while a `send` is in progress (backpressure).
Rule 3. `send` is called from one place at a time: `_steps`, or an `_aside` task (a keep-alive,
        the headers of a stream that has nothing to say yet), for which `_steps` waits.
Rule 4. A cancellation that is not ours (`asyncio.timeout`, an anyio scope) belongs to the
        generator, not to the `send` that it happens to hit: the generator gets it at once, the
        `send` is finished later.

The other event loop, Trio, has `on_trio`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Generator, Iterable
from inspect import iscoroutine
from typing import TYPE_CHECKING, Any

import anyio
from starlette.types import Message, Receive, Scope, Send

from .. import _shutdown
from .._core import step
from .options import Streamable
from .origin import logger
from .stream import KEEPALIVE_COMMENT, call_on_disconnect, claim, release, warn_of_stall
from .thread import GeneratorThread

if TYPE_CHECKING:
    from typing import ParamSpec, Protocol, TypeVar

    P = ParamSpec("P")
    R_co = TypeVar("R_co", covariant=True)

    class _Steps(Protocol[R_co]):
        """What a generator-based coroutine answers: it can be awaited and iterated."""

        def __await__(self) -> Generator[Any, Any, R_co]: ...
        def __iter__(self) -> Generator[Any, Any, R_co]: ...

    def coroutine(
        function: Callable[P, Generator[Any, Any, R_co]], /
    ) -> Callable[P, _Steps[R_co]]: ...

else:
    from types import coroutine

# Event loops call timers up to this many seconds before they are due.
_EARLY = 0.001

# What the generator's side yields to `_steps`: send now.
_HAND_OVER: Any = object()
# What `step` answers for a `send` that has come to its end.
_SENT: Any = object()


@coroutine
def _handed_over() -> Generator[Any, None, None]:
    yield _HAND_OVER


@coroutine
def _stand_in(future: Any, loop: asyncio.AbstractEventLoop) -> Generator[Any, None, None]:
    """Waits for a future without letting a cancellation through to it."""
    if future.done():
        return
    done = loop.create_future()

    def wake(_: object) -> None:
        if not done.done():
            done.set_result(None)

    future.add_done_callback(wake)
    try:
        yield from done
    finally:
        future.remove_done_callback(wake)


def _coroutine_function(send: Send) -> Send:
    async def sent(message: Message) -> None:
        await send(message)

    return sent


class Delivery:
    __slots__ = (
        "asgi_task",
        "aside",
        "blocked_on",
        "buffer",
        "content",
        "disconnected",
        "driver",
        "failure",
        "finished",
        "grace_timer",
        "group",
        "interrupted",
        "loop",
        "options",
        "scope",
        "send",
        "sending_since",
        "sent_at",
        "started",
        "stopping",
        "suspended",
        "timer",
        "unfinished",
        "watching",
    )

    def __init__(self, response: Streamable, scope: Scope, send: Send) -> None:
        self.options = response
        self.scope = scope
        self.send = send
        self.content: Any = response.content
        self.buffer = response.make_buffer()
        self.loop = asyncio.get_running_loop()
        self.asgi_task = asyncio.current_task()
        self.driver: asyncio.Task[None] | None = None
        # The task of a keep-alive or of held headers, while it sends.
        self.aside: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.grace_timer: asyncio.TimerHandle | None = None
        self.group: _shutdown.ServerStreams | None = None
        self.watching = False  # the ASGI task is in receive()
        self.interrupted = False  # ... and is to leave it
        self.started = False  # the headers are out, or on their way
        # A send() of the driver's that has not come to its end, and the future it waits for.
        self.unfinished: Any = None
        self.blocked_on: Any = None
        self.suspended = False  # the generator has suspended since the last hand-over
        self.finished = False  # the end of the body is out, or on its way
        self.stopping = False  # the generator is to end: disconnect, shutdown or failure
        self.disconnected = False
        self.failure: BaseException | None = None
        self.sent_at = self.sending_since = self.loop.time()

    # The ASGI task

    async def run(self, receive: Receive) -> None:
        claim(self.content)
        self.driver = driver = self.loop.create_task(self._drive())
        driver.add_done_callback(self._interrupt)
        try:
            self.group = _shutdown.opened(self, self.scope)
            if self.group.ending:
                self.shut_down()
            await self._watch(driver, receive)
            if not (driver.done() or self.finished):
                self.stop()
            if self.disconnected:
                await call_on_disconnect(self.options)
            await self._join(driver)
        except BaseException:
            self._give_up()
            await self._join(driver)
            raise
        finally:
            self._release()
        self._raise_failure(driver)

    async def _watch(self, driver: asyncio.Task[None], receive: Receive) -> None:
        """Reads from the client until it leaves or `_interrupt` ends the reading."""
        task = self.asgi_task
        assert task is not None
        cancelling = _cancelling(task)
        try:
            while not (self.interrupted or driver.done()):
                self.watching = True
                message = await receive()
                self.watching = False
                if message["type"] == "http.disconnect":
                    # After the end of the response this only says that it has ended.
                    self.disconnected = not self.finished
                    break
        except asyncio.CancelledError:
            # `_interrupt` has cleared `watching`: the cancellation is its own.
            if self.watching or _uncancel(task) > cancelling:
                raise
        finally:
            self.watching = False

    def _interrupt(self, _: object = None) -> None:
        """Ends the ASGI task's `receive()`."""
        self.interrupted = True
        if self.watching and self.asgi_task is not None:
            self.watching = False
            self.asgi_task.cancel()

    def stop(self) -> None:
        """Cancels the generator. Its `finally` blocks may await: it is cancelled once, not
        repeatedly as an anyio scope would."""
        if not self.stopping:
            self.stopping = True
            if self.driver is not None:
                self.driver.cancel()

    def _give_up(self) -> None:
        """The server has cancelled the ASGI task: nobody wants what is still to be sent."""
        self.disconnected = True
        if self.stopping and self.unfinished is not None and self.driver is not None:
            self.driver.cancel()
        self.stop()

    async def _join(self, driver: asyncio.Task[None]) -> None:
        """Waits for the driver, for `cleanup_timeout` once it is told to stop; a cancellation of
        the ASGI task waits too."""
        if driver.done() or driver in _abandoned:
            return
        cancelled: asyncio.CancelledError | None = None
        with anyio.CancelScope(shield=True):
            deadline: float | None = None
            while not driver.done():
                if self.stopping and deadline is None:
                    deadline = self.loop.time() + self.options.cleanup_timeout
                timeout = None if deadline is None else max(0.0, deadline - self.loop.time())
                try:
                    done, _ = await asyncio.wait({driver}, timeout=timeout)
                except asyncio.CancelledError as error:
                    cancelled = error
                    self._give_up()
                    continue
                if not done:
                    self._abandon(driver)
                    break
        if cancelled is not None:
            raise cancelled

    def _abandon(self, driver: asyncio.Task[None]) -> None:
        logger.error(
            "The cleanup of %s did not end within cleanup_timeout (%s s); it goes on without"
            " its response",
            self.options.origin,
            self.options.cleanup_timeout,
        )
        self.disconnected = True  # nothing more is sent
        _abandoned.add(driver)
        driver.add_done_callback(_end_abandoned)
        driver.cancel()

    def _release(self) -> None:
        """Ends what this stream has started."""
        if self.group is not None:
            _shutdown.closed(self, self.group)
        for timer in (self.timer, self.grace_timer):
            if timer is not None:
                timer.cancel()
        if self.aside is not None:
            self.aside.cancel()
        release(self.content)
        self.asgi_task = self.driver = self.timer = self.grace_timer = None

    def _raise_failure(self, driver: asyncio.Task[None]) -> None:
        error: BaseException | None = self.failure
        if error is None and driver.done():
            if not driver.cancelled():
                error = driver.exception()
            elif not self.stopping:
                error = RuntimeError(f"{self.options.origin} was cancelled from within")
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame

    # The driver task

    async def _drive(self) -> None:
        if self.group is not None:
            _shutdown.current.set(self.group)
        try:
            if self.options.open_delay == 0:
                await self._open()
            self._arm_timer()
            await self._steps(self._pump())
        except asyncio.CancelledError:
            if not self.stopping or not self._can_send():
                await self._deliver_the_rest()
                raise
        except Exception:
            await self._deliver_the_rest()
            raise
        finally:
            if self.unfinished is not None and not self._can_send():
                await self._drop_unfinished()
        if self._can_send():
            self.finished = True
            await self._hand_over()

    async def _deliver_the_rest(self) -> None:
        while (self.buffer.pending or self.unfinished is not None) and self._can_send():
            # A cancellation was for the generator, which has ended.
            await self._hand_over()

    async def _drop_unfinished(self) -> None:
        """Unwinds a `send` to a client that has gone."""
        if self.blocked_on is not None:
            self.blocked_on.cancel()
        with contextlib.suppress(Exception):
            await self._finish_sending(self.unfinished, self.blocked_on)

    @coroutine
    def _steps(self, pump: Any) -> Generator[Any, None, None]:
        """Runs the generator, and sends whenever it suspends."""
        advance, fail = pump.send, pump.throw
        resume, argument = advance, None
        cancelled: BaseException | None
        while True:
            try:
                waiting_for = resume(argument)
            except StopIteration:
                return
            if waiting_for is _HAND_OVER:
                cancelled = yield from self._hand_over_and_turn()
                resume, argument = (fail, cancelled) if cancelled else (advance, None)
                continue
            # The generator suspends.
            self.suspended = True
            if (
                (self.buffer.pending or self.unfinished is not None)
                and not self.disconnected
                and self.failure is None
            ):
                # An awaited future marks itself as it is yielded, and the task that receives it
                # takes the mark off. It is ours to hold meanwhile: another task that awaits the
                # same future has to find it without the mark.
                if waiting_for is not None:
                    waiting_for._asyncio_future_blocking = False
                at_once = self.started and self.aside is None and self.unfinished is None
                cancelled = self._send_at_once() if at_once else None
                if not at_once or self.unfinished is not None:
                    cancelled = yield from self._hand_over()
                if waiting_for is not None:
                    waiting_for._asyncio_future_blocking = True
                # anyio knows its own cancellations by their message.
                if cancelled and (waiting_for is None or not waiting_for.cancel(*cancelled.args)):
                    resume, argument = fail, cancelled
                    continue
            try:
                yield waiting_for
            except BaseException as error:
                resume, argument = fail, error
            else:
                resume, argument = advance, None

    @coroutine
    def _hand_over_and_turn(self) -> Generator[Any, None, BaseException | None]:
        """Hands over in the middle of a burst. A generator that has not suspended since the last
        time gets the loop a turn, so that it cannot starve others."""
        cancelled = yield from self._hand_over()
        if not (cancelled or self.suspended):
            try:
                yield
            except asyncio.CancelledError as error:
                cancelled = error
            self.buffer.restart_age()
        self.suspended = False
        return cancelled

    @coroutine
    def _hand_over(self) -> Generator[Any, None, BaseException | None]:
        """Sends what is pending, and answers the cancellation that the generator is to get, if
        there was one meanwhile."""
        try:
            while self.unfinished is not None:
                cancelled = yield from self._finish_sending(self.unfinished, self.blocked_on)
                if cancelled:
                    return cancelled
            if self.buffer.pending or self.finished:
                sending = self._begin_sending()
                blocked_on = step(sending, _SENT)
                if blocked_on is not _SENT:
                    return (yield from self._finish_sending(sending, blocked_on))
                self.sent_at = self.loop.time()
        except Exception as error:
            return self._sending_failed(error)
        return None

    def _send_at_once(self) -> BaseException | None:
        """What `_hand_over` comes down to for nearly every event: a `send` that has no need to
        wait. One that has is left to `_hand_over`, which finds it begun."""
        sending: Any = self.send(
            {"type": "http.response.body", "body": self.buffer.take(), "more_body": True}
        )
        try:
            blocked_on = step(sending, _SENT)
        except Exception as error:
            return self._sending_failed(error)
        if blocked_on is _SENT:
            self.sent_at = self.loop.time()
        else:
            self.unfinished, self.blocked_on = sending, blocked_on
        return None

    def _sending_failed(self, error: Exception) -> BaseException:
        """Ends the stream, and answers the cancellation for the generator."""
        if isinstance(error, OSError):
            # ASGI 2.4: "raise an OSError" if the client has gone.
            self.disconnected = True
            self._interrupt()
        else:
            self._fail(error)
        self.stopping = True
        return asyncio.CancelledError()

    def _begin_sending(self) -> Any:
        if not self.started or self.aside is not None:
            return self._open_and_send()
        return self._send_pending()

    @coroutine
    def _finish_sending(
        self, sending: Any, blocked_on: Any
    ) -> Generator[Any, None, BaseException | None]:
        """The rest of a `send` that waits: the server holds us back.

        The driver waits for a stand-in of what the `send` waits for, so a cancellation of the
        driver does not reach into the `send` but is answered here, unless the client has gone.
        """
        cancelled: BaseException | None = None
        self.sending_since = self.loop.time()
        self.unfinished = sending
        while True:
            self.blocked_on = blocked_on
            try:
                if blocked_on is None:
                    yield
                else:
                    blocked_on._asyncio_future_blocking = False
                    yield from _stand_in(blocked_on, self.loop)
            except asyncio.CancelledError as error:
                if not self._can_send():
                    cancelled = error
                    if blocked_on is not None:
                        blocked_on.cancel()
                elif self.finished:
                    continue  # the generator has ended: there is nobody to get it
                else:
                    return error
            try:
                blocked_on = step(sending, _SENT)
            except asyncio.CancelledError as error:
                cancelled = cancelled or error
                break
            finally:
                self.unfinished = self.blocked_on = None
            if blocked_on is _SENT:
                break
            self.unfinished = sending
        self.sent_at = self.loop.time()
        return cancelled

    def _send_pending(self) -> Any:
        return self.send(
            {
                "type": "http.response.body",
                "body": self.buffer.take(),
                "more_body": not self.finished,
            }
        )

    async def _open_and_send(self) -> None:
        if self.aside is not None:
            await asyncio.wait({self.aside})
        await self._open()
        await self._send_pending()

    def _can_send(self) -> bool:
        return not self.disconnected and self.failure is None

    # The generator

    async def _pump(self) -> None:
        if not hasattr(self.content, "__aiter__"):
            await self._pump_thread(self.content)
            return
        content = self.content.__aiter__()
        push = self.buffer.push
        try:
            async for item in content:
                try:
                    due = push(item)
                except Exception as error:
                    raise self.explain(error, item) from error.__cause__
                if due:
                    if self.stopping:
                        break  # it has caught its cancellation and goes on; `aclose` ends it
                    try:
                        await _handed_over()
                    except asyncio.CancelledError as cancelled:
                        await self._cancel_at_yield(content, cancelled)
        finally:
            aclose = getattr(content, "aclose", None)
            if aclose is not None:
                await aclose()

    async def _cancel_at_yield(self, content: Any, cancelled: BaseException) -> None:
        """Gives a cancellation to a generator that is at its `yield`."""
        athrow = getattr(content, "athrow", None)
        if self.stopping or athrow is None:
            raise cancelled
        try:
            item = await athrow(cancelled)
        except StopAsyncIteration:
            return
        self.buffer.push(item)

    async def _pump_thread(self, content: Iterable[Any]) -> None:
        thread = GeneratorThread(content, self.buffer, self.options, self.explain)
        woken = asyncio.Event()
        try:
            thread.start(self.loop.call_soon_threadsafe, woken.set)
            while True:
                await woken.wait()
                woken.clear()
                finished = thread.take_notice()
                if self.buffer.pending:
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

    def explain(self, error: Exception, item: object) -> Exception:
        return self.options.origin.explain(error, item, self.scope)

    # Sending, other than events

    async def _open(self) -> None:
        """Sends the headers before there is an event."""
        if not self.started:
            self.started = True
            sending = self.send(self.options.start_message())
            if not iscoroutine(sending):
                # ASGI asks for an awaitable; what is to be stepped by hand is a coroutine.
                self.send = _coroutine_function(self.send)
            await sending
            self.sent_at = self.loop.time()

    async def _ping(self) -> None:
        await self.send(
            {"type": "http.response.body", "body": KEEPALIVE_COMMENT, "more_body": True}
        )
        self.sent_at = self.loop.time()

    def _send_aside(self, sending: Any) -> None:
        self.sending_since = self.loop.time()
        self.aside = self.loop.create_task(sending)
        self.aside.add_done_callback(self._aside_done)

    def _aside_done(self, aside: asyncio.Task[None]) -> None:
        self.aside = None
        if aside.cancelled():
            return
        error = aside.exception()
        if isinstance(error, OSError):
            self.disconnected = True
            self._interrupt()
        elif error is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if self.failure is None:
            self.failure = error
        self._interrupt()

    # The timer: one for each stream, armed for the next thing that may be due and re-armed only
    # when it fires, so that events cost it nothing.

    def _arm_timer(self) -> None:
        due = self._next_due()
        if due is not None:
            self.timer = self.loop.call_at(due, self._on_timer)

    def _next_due(self) -> float | None:
        options = self.options
        now = self.loop.time()
        due: list[float] = []
        if self._in_send():
            if options.send_timeout is not None:
                due.append(self.sending_since + options.send_timeout)
            if options.ping_interval:
                due.append(now + options.ping_interval)
        else:
            if not self.started and options.open_delay is not None:
                due.append(self.sent_at + options.open_delay)
            if options.ping_interval:
                due.append((self.sent_at if self.started else now) + options.ping_interval)
            if options.send_timeout is not None:
                due.append(now + options.send_timeout)
        return min(due, default=None)

    def _in_send(self) -> bool:
        return self.unfinished is not None or self.aside is not None

    def _on_timer(self) -> None:
        self.timer = None
        options = self.options
        now = self.loop.time() + _EARLY
        if self._in_send():
            timeout = options.send_timeout
            if timeout is not None and now >= self.sending_since + timeout:
                self._drop_stalled()
                return
        elif not self.started:
            if options.open_delay is not None and now >= self.sent_at + options.open_delay:
                self._send_aside(self._open())
        elif options.ping_interval and now >= self.sent_at + options.ping_interval:
            self._send_aside(self._ping())
        self._arm_timer()

    def _drop_stalled(self) -> None:
        warn_of_stall(self.options)
        self.disconnected = True
        self._interrupt()

    # Shutdown

    def shut_down(self) -> None:
        """Ends the stream within `shutdown_grace`."""
        if self.options.shutdown_grace:
            self.grace_timer = self.loop.call_later(self.options.shutdown_grace, self._interrupt)
        else:
            self._interrupt()


# Drivers whose cleanup outlived `cleanup_timeout`: the reference keeps them from being collected.
_abandoned: set[asyncio.Task[None]] = set()


def _end_abandoned(driver: asyncio.Task[None]) -> None:
    _abandoned.discard(driver)
    error = None if driver.cancelled() else driver.exception()
    if error is not None:
        logger.error("A cleanup that outlived its response failed", exc_info=error)


if sys.version_info >= (3, 11):

    def _cancelling(task: asyncio.Task[Any]) -> int:
        return task.cancelling()

    def _uncancel(task: asyncio.Task[Any]) -> int:
        return task.uncancel()

else:

    def _cancelling(task: asyncio.Task[Any]) -> int:
        return 0

    def _uncancel(task: asyncio.Task[Any]) -> int:
        return 0
