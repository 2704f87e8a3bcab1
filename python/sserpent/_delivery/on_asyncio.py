"""One stream's life on asyncio, from the request to the end of its cleanup.

Two tasks for each stream. The task that the server gave us (the ASGI task) does nothing but
`receive()`, until nothing of the stream is left. The other runs the
generator. Both, the timer and the sender only report here, to `_report`: `life` decides what
becomes of the others.

The other event loop, Trio, has `on_trio`.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import anyio
from starlette.types import Receive, Scope, Send

from .. import _shutdown
from .._runtime.log import logger
from .deadlines import LAST_SEND, Due, Moment, look_again_at, next_due
from .generator_task import GeneratorTask
from .inbox import Pace
from .life import Action, Ending, Event, Life
from .progress import Progress
from .pushed_source import PushedSource
from .sender import ENDED, HELD, OPEN, make_sender
from .source import claim, release
from .stream import (
    call_on_disconnect,
    end_of_generator,
    is_disconnect,
    log_send_error,
    warn_of_stall,
)
from .throttle import LEAVING
from .wire import Body, can_ping, keepalive

if TYPE_CHECKING:
    from .options import Streamable
    from .source import Metered

# anyio imports this module when its first `CancelScope` is made. That takes a tenth of a second.
_ANYIO = "anyio._backends._asyncio"

# Event loops call timers up to this many seconds before they are due.
_EARLY = 0.001

# Seconds that a server's own threads have to let go of a `send` that is given up.
_GIVEN_UP = 0.05


class Delivery:
    """Streams one response to one client.

    Args:
        response: What is streamed, and its options.
        scope: The ASGI scope.
        receive: The ASGI callable; nobody else calls it meanwhile.
        send: The ASGI callable.
        metered: Returns what counts what is taken of the events, where somebody counts.
    """

    __slots__ = (
        "_asgi_task",
        "_buffer",
        "_cancelled",
        "_closing",
        "_driven",
        "_dropped",
        "_generator",
        "_gone",
        "_interrupted",
        "_leaving",
        "_life",
        "_loop",
        "_news",
        "_pace",
        "_progress",
        "_receive",
        "_receiving",
        "_response",
        "_scope",
        "_sender",
        "_streams",
        "_timer",
        "_told",
    )

    def __init__(
        self,
        response: Streamable,
        scope: Scope,
        receive: Receive,
        send: Send,
        metered: Metered | None = None,
    ) -> None:
        self._response = response
        self._scope = scope
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._asgi_task: asyncio.Task[Any] | None = None
        self._buffer: Any = response._source or response._make_buffer()
        buffer: Any = self._buffer
        self._sender = make_sender(send, Body(response, buffer, metered), self)
        self._generator: GeneratorTask | PushedSource = (
            GeneratorTask(response, scope, buffer, self._sender, self._refused)
            if response._source is None
            else PushedSource(response._source, self._sender, response._cuts)
        )
        self._streams: _shutdown.ServerStreams | None = None
        self._life = Life(response, self._loop.time())
        # `on_disconnect` has been called.
        self._told = False
        # A cancellation of the ASGI task by somebody else, which is raised in the end too.
        self._cancelled: asyncio.CancelledError | None = None
        # The generator has ended and its cleanup too, or that is nobody's concern any more.
        self._driven = False
        # `receive` has nothing more to say.
        self._gone = False
        self._pace = Pace(scope)
        # The connection is closed before this returns; None until that is known.
        self._closing: bool | None = None
        self._progress: Progress | None = None
        # The connection was dropped.
        self._dropped = False
        # The server is to say so: until when it may.
        self._leaving: asyncio.TimerHandle | None = None
        # The ASGI task is in `receive()`, and is to leave it.
        self._receiving = False
        self._interrupted = False
        # Where it waits once there is nothing to receive.
        self._news: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # The ASGI task

    async def run(self) -> None:
        """Streams, and returns when nothing of the stream is left.

        Raises:
            BaseException: what the generator raised, or a `send`.
            asyncio.CancelledError: the server, or a middleware, has cancelled the request.
        """
        claim(self._response._content)
        self._asgi_task = asyncio.current_task()
        try:
            self._open_stream()
            self._start()
            while self._goes_on():
                if self._is_to_tell():
                    await self._tell()
                    continue
                # Here, not in a coroutine of its own, which each idle stream would have to keep.
                before = _cancelling(self._asgi_task)
                try:
                    if self._gone:
                        await self._wait_for_news()
                        continue
                    self._receiving, self._interrupted = True, False
                    try:
                        message = await self._receive()
                        if message["type"] != "http.disconnect":
                            pause = self._pace.pause_after(message)
                            del message  # an idle stream would keep it
                            if pause is None or not await self._pace.pause(pause):
                                continue
                    finally:
                        self._receiving = False
                    self._gone = True
                    # A generator that has not begun is not to begin meanwhile.
                    turn = LEAVING.of_this_loop().take_turn() if self._generator.begun else None
                    if turn is not None:
                        await turn
                    self._on_disconnect()
                except asyncio.CancelledError as error:
                    if not self._interrupted or _uncancel(self._asgi_task) > before:
                        self._on_cancellation(error)
                except Exception as error:
                    self._on_receive_error(error)
            if self._closing and self._cancelled is not None:
                # hypercorn waits for a client that never reads the rest, with no bound of its own.
                self._drop_connection()
        finally:
            self._release()
        self._raise_error()

    def _open_stream(self) -> None:
        self._streams = streams = _shutdown.opened(self, self._scope)
        streams.watch(self, self._scope, self._receive)
        self._sender.send = streams.send_of(self._scope, self._sender.send)
        if streams.ending or not self._response._begins:
            self._report(Event.OPENED_TO_END)
        elif self._life.is_over_by(self._loop.time()):
            self._report(Due.MAX_DURATION)
        elif self._response.open_delay == 0:
            self._sender.open()
        self._response._opened(self)

    def _start(self) -> None:
        assert self._streams is not None
        self._generator.start(self._streams, self._on_generator_end)
        if self._sender.phase is HELD:
            # When the generator has begun: most streams have sent their headers by then.
            self._loop.call_soon(self._arm_timer)
        else:
            self._arm_timer()

    def _goes_on(self) -> bool:
        """Returns whether there is something to wait for: the end of what was started, and after
        that, of the connection, if it is closed."""
        if self._closing is None:
            if not self._is_over():
                return True
            self._closing = False
            self._cut_off()
        return self._closing and not self._gone and self._life.cleanup_until is not None

    def _is_over(self) -> bool:
        """Returns whether nothing is left that was started."""
        return (
            self._life.ending is not None
            and self._driven
            and self._sender.in_progress is None
            and not self._is_leaving()
            and not self._is_to_tell()
        )

    def _is_leaving(self) -> bool:
        return self._leaving is not None and not self._gone

    def _is_to_tell(self) -> bool:
        ending = self._life.ending
        return (
            ending is not None
            and ending.tells
            and not self._told
            and self._response.on_disconnect is not None
        )

    def _on_receive_error(self, error: Exception) -> None:
        """Nothing more can be learnt of the client."""
        self._gone = True
        if is_disconnect(error):
            self._on_disconnect()
        else:
            self._report(Event.RECEIVE_FAILED, error)

    async def _wait_for_news(self) -> None:
        self._news, self._interrupted = self._loop.create_future(), False
        # A scope of anyio's cancels a task again and again unless the task is shielded. Before
        # `_ANYIO` is imported there is no such scope, and to import it here would stop the event
        # loop.
        with anyio.CancelScope(shield=True) if _ANYIO in sys.modules else nullcontext():
            try:
                await self._news
            finally:
                self._news = None

    def _interrupt(self) -> None:
        """Brings the ASGI task out of `receive()`."""
        if self._news is not None:
            if not self._news.done():
                self._news.set_result(None)
        elif self._receiving and not self._interrupted and self._asgi_task is not None:
            if self._is_leaving():
                return  # the server is to say there that the connection is gone
            if sys.version_info < (3, 11) and _cancelling(self._asgi_task):
                return  # by somebody else: two cancellations could not be told from one
            self._interrupted = True
            self._asgi_task.cancel()

    async def _tell(self) -> None:
        self._told = True
        try:
            await call_on_disconnect(self._response)
        except asyncio.CancelledError as error:
            self._on_cancellation(error)

    def _cut_off(self) -> None:
        """Makes sure that a response that is not whole does not look so, and that a client that
        does not read it cannot hold the server's exit."""
        assert self._streams is not None
        ending = self._life.ending
        assert ending is not None
        if self._dropped:
            return
        if self._sender.complete:
            if self._streams.ending:
                self._drop_later(only_at_exit=True)
        elif ending.connection == "close" and not self._response._cuts:
            self._close_connection()
        elif self._sender.phase is HELD:
            pass  # the client gets a status
        elif self._response._cuts or (ending is Ending.FAILED and self._life.error is None):
            if ending.delivers:
                self._close_connection()
        elif ending.connection == "raise":
            self._streams.cut_off(self._scope)

    def _close_connection(self) -> None:
        """Cuts the response short without a word in the log: uvicorn complains of a response that
        simply stops, unless its connection is closed."""
        assert self._streams is not None
        if self._streams.close_connection(self._scope):
            self._life.begin_cleanup(self._loop.time())
            self._arm_timer()
            self._closing = True
        elif self._streams.ending:
            # The server cuts it off when this returns, as soon as the client has read the rest.
            self._drop_later()

    def _drop_later(self, only_at_exit: bool = False) -> None:
        """Has the connection dropped if it is there in `cleanup_timeout`: a client that never reads
        the rest would hold the server's exit."""
        assert self._streams is not None
        until = self._life.cleanup_until or self._loop.time() + self._response.cleanup_timeout
        self._loop.call_at(until, self._streams.aborter(self._scope, only_at_exit))

    def _release(self) -> None:
        """Ends what this stream has started, and lets go of what refers to it in a circle:
        nothing of it waits for the garbage collector."""
        release(self._response._content)
        if self._streams is not None:
            self._streams.forget(self)
            _shutdown.closed(self, self._streams)
        for timer in (self._timer, self._leaving):
            if timer is not None:
                timer.cancel()
        self._sender.close()
        if not self._driven and not self._loop.is_closed():
            # `receive` has raised what is no Exception, KeyboardInterrupt for example.
            self._driven = True
            self._generator.stop()
        self._asgi_task = self._timer = self._leaving = self._streams = None

    def _raise_error(self) -> None:
        error = self._life.error
        if self._cancelled is not None:
            _log_cleanup(error)
            error = self._cancelled
        self._cancelled = self._life.error = None
        if error is not None and self._sender.sent_headers:
            error = self._response._late_error(error)
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame

    # Asked by metrics

    @property
    def ending(self) -> Ending | None:
        """Why the stream ends, or None while it goes on."""
        return self._life.ending

    # Events, and their actions

    def _report(self, event: Event | Due, error: BaseException | None = None) -> None:
        """Does what follows from an event."""
        life = self._life
        was_alive = life.ending is None
        # Its last `send` may have begun to wait before.
        at = self._sender.waits_since if event is _GONE_AT_END else self._loop.time()
        actions = life.process_event(event, at, error)
        ends = was_alive and life.ending is not None
        for action in actions:
            if action is _LOG:
                self._log(error)
            else:
                _DO[action](self)
        if ends:
            self._interrupt()

    def _on_disconnect(self) -> None:
        """`receive` has said that the client is gone."""
        if self._life.ending is None and self._sender.phase is ENDED:
            self._report(_GONE_AT_END)
            return
        self._report(Event.CLIENT_GONE)
        if self._life.ending is Ending.CLIENT_LEFT and not self._sender.sent_headers:
            # Nobody reads them, but Starlette's BaseHTTPMiddleware raises where there are none.
            self._sender.open()
            self._sender.stop()
            if self._sender.in_progress is not None and self._leaving is None:
                bound = min(LAST_SEND, self._response.cleanup_timeout)
                self._leaving = self._loop.call_later(bound, self._left)

    def client_left(self) -> None:
        """The connection is closed, and `receive` may not say so."""
        if not self._gone:
            self._gone = True
            self._on_disconnect()
            self._interrupt()

    def _on_cancellation(self, error: asyncio.CancelledError) -> None:
        """The ASGI task was cancelled by somebody else."""
        self._cancelled = error
        self._gone = True
        self._report(Event.REQUEST_CANCELLED)

    def _stop_generator(self) -> None:
        if not self._driven:
            self._generator.stop()

    def _give_up(self) -> None:
        if not self._is_leaving():  # then `_left` does
            self._sender.give_up()

    def _drop(self) -> None:
        if not self._sender.complete:
            self._abort_connection()

    def _drop_unread(self) -> None:
        if self._sender.in_progress is not None:
            self._drop_connection()

    def _open_held(self) -> None:
        if self._sender.phase is HELD and self._sender.in_progress is None:
            self._sender.open()

    def _abandon(self) -> None:
        if not self._driven:
            self._driven = True
            _leave_alone(self._generator, self._response)
        if not self._is_leaving():
            self._sender.close()
        self._interrupt()

    def _warn(self) -> None:
        warn_of_stall(self._response)

    def _log(self, error: BaseException | None) -> None:
        if not self._dropped:
            log_send_error(error)

    def _abort_connection(self) -> None:
        """Drops the connection, and lets the server say that it is gone, first to `receive` and
        then to the `send` in progress, before the response returns. granian's worker never ends if
        the last connection of a shutdown goes while a `send` waits and nothing is in `receive`.
        Over HTTP/2 its `send` is told first whatever we do, so no `send` may wait by then."""
        if self._dropped or self._leaving is not None or self._streams is None:
            return
        if self._streams.tells_send_first(self._scope):
            self._sender.give_up()
            self._leaving = self._loop.call_later(_GIVEN_UP, self._drop_and_leave)
        else:
            self._drop_and_leave()

    def _drop_and_leave(self) -> None:
        if self._drop_connection():
            self._sender.stop()
            self._leaving = self._loop.call_later(LAST_SEND, self._left)
        elif self._leaving is not None:
            self._left()  # a `send` that was given up may go on all the same

    def _left(self) -> None:
        """The server has not said it in time, or says nothing of it."""
        self._leaving = None
        if self._life.cleanup_until is None:
            self._sender.close()
        else:
            self._sender.give_up()
        self._interrupt()

    def _drop_connection(self) -> bool:
        if self._streams is not None and self._streams.abort_connection(self._scope):
            self._dropped = True
        return self._dropped

    # Reports of the parts

    def _on_generator_end(self, error: BaseException | None) -> None:
        if self._driven:
            _log_cleanup(error)  # it outlived its time
            return
        self._driven = True
        is_whole = error is None and not self._generator.cut
        if isinstance(error, asyncio.CancelledError):
            error = self._error_of_cancellation(error)
        self._report(*self._end_of_generator(error, is_whole))
        if not self._sender.complete:
            self._go_on()
        self._interrupt()

    def _error_of_cancellation(self, cancelled: asyncio.CancelledError) -> Exception | None:
        """Returns what a generator that was cancelled has failed with, if nothing has ended it."""
        if self._life.ending is None and _cancelling(self._asgi_task):
            # `asyncio.run` cancels all tasks at its end, and this one may hear of it first.
            self._report(Event.REQUEST_CANCELLED)
        if self._life.ending is not None:
            return None
        error = RuntimeError(f"{self._response._origin} was cancelled from within")
        error.__cause__ = cancelled
        return error

    def _end_of_generator(
        self, error: BaseException | None, is_whole: bool
    ) -> tuple[Event, BaseException | None]:
        if self._life.finishing:  # it has not begun
            return (Event.GENERATOR_FAILED if error else Event.GENERATOR_ENDED), error
        return end_of_generator(
            self._response,
            self._life.ending,
            error or self._life.error,
            is_whole,
            self._buffer,
            self._sender.phase,
            self._can_close,
        )

    def _can_close(self) -> bool:
        return self._streams is not None and self._streams.can_close(self._scope)

    def _refused(self, error: Exception) -> None:
        """An item cannot be encoded. The cleanup that follows has its time."""
        self._report(Event.ITEM_REFUSED, error)

    def on_sent(self) -> None:
        self._go_on()
        if self._sender.in_progress is None:
            self._generator.go_on()
            if self._driven:
                self._interrupt()

    def _go_on(self) -> None:
        """Sends what there is to send, if nothing is being sent."""
        sender = self._sender
        if self._life.finishing and sender.in_progress is None and sender.phase is not ENDED:
            sender.end(self._life.ending)
        else:
            sender.flush()
        if sender.complete:
            self._report(_SENT)

    def on_send_error(self, error: BaseException) -> None:
        self._sender.give_up()
        # A server that cancels what a `send` waits for says that the client has gone, too.
        if isinstance(error, asyncio.CancelledError) or is_disconnect(error):
            self._report(Event.CLIENT_GONE)
        else:
            self._report(Event.SEND_FAILED, error)
        self._generator.go_on()
        self._interrupt()

    # The timer: one for each stream, armed for a time by which nothing can be due and armed again
    # only when it fires, so that events cost it nothing.

    def _arm_timer(self) -> None:
        if self._asgi_task is None:
            return  # nothing of the stream is left
        if self._timer is not None:
            self._timer.cancel()
        at = look_again_at(self._response, self._moment(), self._loop.time())
        self._timer = None if at is None else self._loop.call_at(at, self._on_timer)

    def _bound(self) -> None:
        """Has the cleanup end in time. Where a timer fires before that, it looks then: most streams
        that are left are over by that time, and need no other."""
        until = self._life.cleanup_until
        if self._timer is None or until is None or self._timer.when() > until:
            self._arm_timer()

    def _moment(self) -> Moment:
        sender = self._sender
        return self._life.moment(
            held=sender.phase is HELD,
            can_ping=sender.phase is OPEN
            and can_ping(self._response, sender.pending, self._buffer),
            # Once its connection is dropped, `_left` bounds it.
            progress=None if self._dropped else self._progress_of(sender.sending_since),
            sent_at=sender.sent_at,
        )

    def _progress_of(self, sending_since: float | None) -> Progress | None:
        if sending_since is None:
            self._progress = None
        elif self._progress is None or self._progress.sending_since != sending_since:
            self._progress = Progress(sending_since)
        return self._progress

    def _look_at_progress(self) -> None:
        timeout = self._response.send_timeout
        if self._progress is not None and self._streams is not None and timeout is not None:
            self._progress.look(self._streams.unread(self), self._loop.time(), timeout)

    def _on_timer(self) -> None:
        self._timer = None
        try:
            due = next_due(self._response, self._moment())
            if due is not None and due[0] <= self._loop.time() + _EARLY:
                self._do(due[1])
        finally:
            self._arm_timer()

    def _do(self, due: Due) -> None:
        if due is Due.OPEN:
            self._sender.open()
        elif due is Due.PING:
            self._ping()
        elif due is Due.LOOK:
            self._look_at_progress()
        else:
            self._report(due)

    def _ping(self) -> None:
        try:
            ping = keepalive(self._response, self._scope)
        except BaseException as error:
            self._report(Event.ITEM_REFUSED, error)
            return
        # `ping_event` is the user's code, and may have had something sent.
        if self._sender.in_progress is None and self._moment().can_ping:
            self._sender.ping(ping)

    # Shutdown

    def shut_down(self) -> None:
        """Ends the stream within `shutdown_grace`."""
        if self._life.begin_shutdown(self._loop.time()):
            self._arm_timer()
        else:
            self._report(Due.GRACE_OVER)


# Until Python 3.12 a function of `enum`'s looks members up.
_GONE_AT_END = Event.CLIENT_GONE_AT_END
_SENT, _LOG = Event.SENT, Action.LOG
_DO = {
    Action.STOP: Delivery._stop_generator,
    Action.BOUND: Delivery._bound,
    Action.BOUND_LAST_SEND: Delivery._bound,
    Action.FINISH: Delivery._go_on,
    Action.OPEN: Delivery._open_held,
    Action.GIVE_UP: Delivery._give_up,
    Action.DROP: Delivery._drop,
    Action.DROP_UNREAD: Delivery._drop_unread,
    Action.ABANDON: Delivery._abandon,
    Action.WARN: Delivery._warn,
}


# Tasks whose cleanup outlived `cleanup_timeout`: the reference keeps them from being collected.
_left_alone: set[asyncio.Task[Any]] = set()


def _leave_alone(generator: GeneratorTask | PushedSource, response: Streamable) -> None:
    logger.error(
        "The cleanup of %s did not end within cleanup_timeout (%s s); it is cancelled, and its"
        " response ends without it",
        response._origin,
        response.cleanup_timeout,
    )
    if generator.task is not None:
        _left_alone.add(generator.task)
        generator.task.add_done_callback(_left_alone.discard)
    generator.cancel()


def _log_cleanup(error: BaseException | None) -> None:
    if error is not None and not isinstance(error, asyncio.CancelledError):
        logger.error("The cleanup of a stream failed", exc_info=error)


if sys.version_info >= (3, 11):

    def _cancelling(task: asyncio.Task[Any] | None) -> int:
        return task.cancelling() if task else 0

    def _uncancel(task: asyncio.Task[Any] | None) -> int:
        return task.uncancel() if task else 0

else:

    def _cancelling(task: Any) -> int:
        """Returns 1 for a task that is cancelled, but has not run since."""
        waiter = None if task is None else task._fut_waiter
        return int(task is not None and (task._must_cancel or bool(waiter and waiter.cancelled())))

    def _uncancel(task: asyncio.Task[Any] | None) -> int:
        return 0
