"""One stream's life on Trio, by the same table as `on_asyncio`, in Trio's terms.

Simpler and slower. The task that the server gave us sends: whatever has gathered since its last
turn, keep-alives, the end. One task drives the generator, one reads from the client, and one keeps
the times. All of them only report here, to `_report`: `life` decides what becomes of the others.

One difference is Trio's own: a cancelled scope stays cancelled, so a generator whose cleanup
awaits after a disconnect has to shield it, as any Trio code does, and one that shields it for ever
is waited for. Where the generator waits at a `yield`, its cleanup is shielded here.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

import trio
from starlette.types import Message, Receive, Scope, Send

from .. import _shutdown
from .._runtime.log import logger
from .._runtime.loops import is_cancellation
from .deadlines import LAST_SEND, Due, Moment, look_again_at, next_due
from .generator_thread import GeneratorThread, options_of
from .in_finally import is_tidying_up
from .inbox import Pace
from .life import Action, Ending, Event, Life
from .progress import Progress
from .sender import Phase
from .source import claim, close_unstarted, release
from .stream import (
    call_on_disconnect,
    end_of_generator,
    is_disconnect,
    log_send_error,
    warn_of_stall,
)
from .wire import Body, can_ping, keepalive

if TYPE_CHECKING:
    from .options import Streamable
    from .source import Metered, Source


class TrioDelivery:
    """Streams one response to one client; the arguments are those of asyncio's `Delivery`."""

    def __init__(
        self,
        response: Streamable,
        scope: Scope,
        receive: Receive,
        send: Send,
        metered: Metered | None = None,
    ) -> None:
        self._response = response
        self._content: Any = response._content
        self._scope = scope
        self._receive = receive
        self._asgi_send = send
        self._source = response._source
        self._buffer: Any = self._source or response._make_buffer()
        self._body = Body(response, self._buffer, metered)
        self._life = Life(response, trio.current_time())
        self._streams: _shutdown.ServerStreams | None = None
        self._driver_scope = trio.CancelScope()
        # The scope of the `send` in progress, and whether the client reads on.
        self._sending: trio.CancelScope | None = None
        self._progress: Progress | None = None
        self._phase = Phase.HELD
        self._opened = False  # the headers have been sent
        self._complete = False  # the end of the body is out
        self._sent = False  # the task that sends is done, or is cancelled itself
        self._sent_at = trio.current_time()
        # There is something to send, or the stream ends, or the generator has.
        self._news = trio.Event()
        self._due: Due | None = None  # the headers, or a keep-alive, if nothing else is sent
        self._times_changed = trio.Event()  # one of a life's times may come sooner
        self._room = trio.Event()  # what was pending has been sent
        self._driven = trio.Event()  # the generator has ended, cleanup included
        self._watching = trio.Event()  # what reads from the client has had its first turn
        self._begun = False  # the generator's task has had its own
        self._at_yield = False  # it waits there for what is pending to be sent
        self._stopping = False  # it is to end: it gets no further than its next yield
        self._cut = False  # it was not let come to its end
        self._dropped = False  # the connection was
        self._thread: GeneratorThread | None = None

    # The ASGI task

    async def run(self) -> None:
        """Streams, and returns when nothing of the stream is left.

        Raises:
            BaseException: what the generator raised, or a `send`.
        """
        claim(self._content)
        self._streams = streams = _shutdown.opened(self, self._scope)
        streams.watch(self, self._scope, self._receive)
        self._asgi_send = streams.send_of(self._scope, self._asgi_send)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch)
                nursery.start_soon(self._keep_times)
                try:
                    await self._start(streams, nursery)
                    await self._send_all()
                except trio.Cancelled:
                    self._report(Event.REQUEST_CANCELLED)
                    raise
                finally:
                    self._sent = True
                nursery.cancel_scope.cancel()
            self._cut_off(streams)
        except BaseException as raised:
            # The request was cancelled, maybe before there was a task for the generator.
            if not self._begun:
                await self._clean_up(lambda: close_unstarted(self._content))
            # An error that came before is not raised.
            if self._life.error is not None:
                logger.error("The cleanup of a stream failed", exc_info=self._life.error)
            if is_cancellation(raised):
                raise _one_of(raised) from None
            raise
        finally:
            release(self._content)
            streams.forget(self)
            _shutdown.closed(self, streams)
        error = self._life.error
        if error is not None and self._opened:
            error = self._response._late_error(error)
        if error is not None:
            raise error

    def _cut_off(self, streams: _shutdown.ServerStreams) -> None:
        """Makes sure that a response that is not whole does not look so."""
        if self._complete or not self._opened or self.ending is None:
            return
        if self._response._cuts and self.ending.delivers:
            streams.close_connection(self._scope)
        elif self.ending.connection == "raise":
            streams.cut_off(self._scope)

    async def _start(self, streams: _shutdown.ServerStreams, nursery: trio.Nursery) -> None:
        if streams.ending or not self._response._begins:
            self._report(Event.OPENED_TO_END)
        elif self._life.is_over_by(trio.current_time()):
            self._report(Due.MAX_DURATION)
        elif self._response.open_delay == 0:
            await self._open()
        self._response._opened(self)
        if self._source is None:
            nursery.start_soon(self._drive, streams)
        else:
            await self._start_source(self._source)

    async def _start_source(self, source: Source) -> None:
        if not (self._stopping or source.holds_headers):
            await self._open()
        if not self._stopping:
            source.start(self)
        self._news.set()

    async def _watch(self) -> None:
        try:
            await self._watch_client()
            await trio.sleep_forever()
        except trio.Cancelled:
            if not self._sent:  # by somebody else, while a `send` may be shielded
                self._report(Event.REQUEST_CANCELLED)
            raise

    async def _watch_client(self) -> None:
        self._watching.set()
        try:
            pace = Pace(self._scope)
            while (message := await self._receive())["type"] != "http.disconnect":
                if await pace.pause(pace.pause_after(message)):
                    break
        except Exception as error:
            # Nothing more can be learnt of the client.
            if not is_disconnect(error):
                self._report(Event.RECEIVE_FAILED, error)
                return
        self._on_disconnect()

    def client_left(self) -> None:
        """The connection is closed, and `receive` may not say so."""
        if self.ending is None:
            self._on_disconnect()

    def _on_disconnect(self) -> None:
        at_end = self.ending is None and self._phase is Phase.ENDED
        self._report(Event.CLIENT_GONE_AT_END if at_end else Event.CLIENT_GONE)

    # Asked by metrics

    @property
    def ending(self) -> Ending | None:
        """Why the stream ends, or None while it goes on."""
        return self._life.ending

    # Events, and their actions

    def _report(self, event: Event | Due, error: BaseException | None = None) -> None:
        """Does what follows from an event."""
        for action in self._life.process_event(event, trio.current_time(), error):
            if action is _LOG:
                self._log(error)
            else:
                _DO[action](self)
        self._news.set()

    def _note_times(self) -> None:
        self._times_changed.set()

    def _give_up(self) -> None:
        """Sends nothing more."""
        self._phase = Phase.ENDED
        if self._sending is not None:
            self._sending.cancel()
            self._abort_connection()

    def _drop(self) -> None:
        if not self._complete:
            self._abort_connection()

    def _drop_unread(self) -> None:
        if self._sending is not None:
            self._abort_connection()

    def _open_held(self) -> None:
        self._due = Due.OPEN

    def _warn(self) -> None:
        warn_of_stall(self._response)

    def _log(self, error: BaseException | None) -> None:
        if not self._dropped:
            log_send_error(error)

    def _abort_connection(self) -> None:
        """Drops the connection. hypercorn shields its `send`: nothing else ends one that waits."""
        if self._streams is not None and self._streams.abort_connection(self._scope):
            self._dropped = True

    def _stop_generator(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._room.set()
        if self._source is not None:
            self._cut = self._response._cuts
            self._source.stop()
            self.finish()
        elif self._at_yield or is_tidying_up(self._content):
            self._allow_cleanup()
        elif self._begun:  # one that has not is closed by its task
            self._cut = True
            self._driver_scope.cancel()

    def _allow_cleanup(self) -> None:
        """Gives the generator `cleanup_timeout` from now, whatever is cancelled around it. No scope
        is opened for that: one of the generator's own may be open, and scopes must nest."""
        self._driver_scope.shield = True
        self._driver_scope.deadline = min(self._driver_scope.deadline, self._cleanup_until())

    def _cleanup_until(self) -> float:
        until = self._life.cleanup_until
        return trio.current_time() + self._response.cleanup_timeout if until is None else until

    # The source, if there is one

    def flush(self) -> None:
        self._news.set()

    def finish(self) -> None:
        self._end_source(None)

    def fail(self, error: Exception) -> None:
        self._end_source(error)

    def _end_source(self, error: Exception | None) -> None:
        if not self._driven.is_set():
            self._driven.set()
            self._on_generator_end(error)
            self._news.set()

    # The generator

    async def _drive(self, streams: _shutdown.ServerStreams) -> None:
        with trio.CancelScope(shield=True):
            # A client that has left before is known by then: `receive` may take a turn to say so.
            await self._watching.wait()
            for _ in range(_TURNS):
                await trio.lowlevel.checkpoint()
        self._begun = True
        _shutdown.current.set(streams)
        error: BaseException | None = None
        try:
            if self._stopping or trio.current_effective_deadline() == -math.inf:
                self._cut = self._response._cuts
                await self._clean_up(lambda: close_unstarted(self._content))
            elif hasattr(self._content, "__aiter__"):
                await self._pump(self._content.__aiter__())
            else:
                await self._pump_thread(self._content)
        except trio.Cancelled:
            raise
        except BaseException as failure:
            error = failure
        finally:
            self._driven.set()
            self._news.set()
        self._on_generator_end(error)

    def _on_generator_end(self, error: BaseException | None) -> None:
        if self._life.finishing:  # it has not begun
            self._report(Event.GENERATOR_FAILED if error else Event.GENERATOR_ENDED, error)
            return
        event, failure = end_of_generator(
            self._response,
            self.ending,
            error or self._life.error,
            error is None and not self._cut,
            self._buffer,
            self._phase,
            self._can_close,
        )
        self._report(event, failure)

    def _can_close(self) -> bool:
        return self._streams is not None and self._streams.can_close(self._scope)

    async def _pump(self, content: AsyncIterator[Any]) -> None:
        with self._driver_scope:
            try:
                async for item in content:
                    if self._push(item):
                        await self._wait_for_room(content)
                    if self._stopping:
                        self._cut = True
                        break
            finally:
                aclose = getattr(content, "aclose", None)
                if aclose is not None:
                    self._allow_cleanup()
                    await aclose()
        if self._driver_scope.cancelled_caught:
            self._cut = True
            if trio.current_time() >= self._driver_scope.deadline:
                self._log_overrun()

    def _push(self, item: Any) -> bool:
        try:
            due: bool = self._buffer.push(item)
        except Exception as error:
            refusal = self._explained(error, item)
            self._refuse(refusal)
            raise refusal from error.__cause__
        self._news.set()
        return due

    def _refuse(self, error: Exception) -> None:
        """Ends the generator without cancelling it: it is closed where it has yielded."""
        self._stopping = True
        self._report(Event.ITEM_REFUSED, error)

    async def _wait_for_room(self, content: Any) -> None:
        if self._stopping:
            return
        self._room = trio.Event()
        self._at_yield = True
        try:
            await self._room.wait()
            self._buffer.restart_age()
        except trio.Cancelled as cancelled:
            # A scope that the generator has opened gets it where the generator is: at its `yield`.
            athrow = getattr(content, "athrow", None)
            if self._stopping or athrow is None:
                raise
            self._at_yield = False
            try:
                self._push(await athrow(cancelled))
            except StopAsyncIteration:
                pass
        finally:
            self._at_yield = False

    async def _clean_up(self, cleanup: Callable[[], Awaitable[object]]) -> None:
        with trio.move_on_at(self._cleanup_until()) as timeout:
            timeout.shield = True
            await cleanup()
        if timeout.cancelled_caught:
            self._log_overrun()

    def _log_overrun(self) -> None:
        logger.error(
            "The cleanup of %s did not end within cleanup_timeout (%s s)",
            self._response._origin,
            self._response.cleanup_timeout,
        )

    async def _pump_thread(self, content: Iterable[Any]) -> None:
        thread = self._thread = GeneratorThread(
            content, self._buffer, options_of(self._response), self._explained
        )
        token = trio.lowlevel.current_trio_token()
        try:
            with self._driver_scope:
                thread.start(token.run_sync_soon, self._notice)
                await self._thread_end(thread)
                if thread.refusal is not None:
                    self._refuse(thread.refusal)
        finally:
            if thread.refusal is None:
                thread.stop()
            await self._clean_up(lambda: self._thread_end(thread))
            thread.cut_off()
        thread.raise_error()

    async def _thread_end(self, thread: GeneratorThread) -> None:
        while not thread.finished:
            if thread.refusal is not None and not self._stopping:
                return
            self._room = trio.Event()
            await self._room.wait()

    def _notice(self) -> None:
        self._news.set()
        self._room.set()

    def _explained(self, error: Exception, item: object) -> Exception:
        return self._response._origin.explain(error, item, self._scope)

    # The sender

    async def _send_all(self) -> None:
        """Sends what there is to send until nothing is left of the stream."""
        told = False
        while True:
            if self.ending and self.ending.tells and not told:
                told = True
                await call_on_disconnect(self._response)
            if self.ending and self._driven.is_set() and not self._can_deliver():
                break
            self._news = trio.Event()
            await self._send_pending()
            if not self.ending or not self._driven.is_set():
                await self._news.wait()
        if self.ending is Ending.CLIENT_LEFT and not self._opened:
            # Nobody reads them, but Starlette's BaseHTTPMiddleware raises where there are none.
            self._opened = True
            with trio.move_on_after(min(LAST_SEND, self._response.cleanup_timeout)):
                await self._send(self._body.head())

    def _can_deliver(self) -> bool:
        if self._phase is Phase.ENDED:
            return False
        opens = self._due is Due.OPEN and self._phase is Phase.HELD
        return bool(self._life.finishing or self._buffer.pending or opens)

    async def _send_pending(self) -> None:
        due, self._due = self._due, None
        if self._phase is Phase.ENDED:
            return
        if self._life.finishing:
            await self._open()
            if self._take_phase(Phase.ENDED):
                self._take_notice()
                self._complete = await self._send(self._body.end(self.ending))
                if self._complete:
                    self._report(Event.SENT)
        elif self._buffer.pending:
            await self._open()
            if self._phase is Phase.OPEN:
                self._take_notice()
                await self._send(self._body.events())
                self._news.set()  # there may be more by now
        elif due is Due.OPEN:
            await self._open()
        elif due is Due.PING:
            await self._ping()
        # Also when nothing was pending: the generator's items may have become nothing.
        if self._thread is not None:
            self._thread.resume()
        self._room.set()

    def _take_phase(self, phase: Phase) -> bool:
        open_ = self._phase is Phase.OPEN
        if open_:
            self._phase = phase
        return open_

    def _take_notice(self) -> None:
        if self._thread is not None:
            self._thread.take_notice()

    async def _ping(self) -> None:
        try:
            ping = keepalive(self._response, self._scope)
        except BaseException as error:
            self._report(Event.ITEM_REFUSED, error)
        else:
            await self._send(self._body.ping(ping))

    async def _open(self) -> None:
        if self._phase is Phase.HELD:
            self._phase = Phase.OPEN
            self._opened = True
            await self._send(self._body.head())

    async def _send(self, message: Message) -> bool:
        """Sends one message, and returns whether it went out."""
        self._progress = Progress(trio.current_time())
        try:
            with trio.CancelScope() as self._sending:
                await self._asgi_send(message)
                return True
        except trio.Cancelled:
            raise
        except BaseException as error:
            self._sending = None
            self._on_send_error(error)
        finally:
            self._sending = self._progress = None
            self._sent_at = trio.current_time()
        return False

    def _on_send_error(self, error: BaseException) -> None:
        if is_disconnect(error):
            self._report(Event.CLIENT_GONE)
        else:
            self._report(Event.SEND_FAILED, error)

    # The times

    async def _keep_times(self) -> None:
        while True:
            self._times_changed = trio.Event()
            now, moment = trio.current_time(), self._moment()
            due = next_due(self._response, moment)
            if due is not None and due[0] <= now:
                self._do(due[1])
                await trio.lowlevel.checkpoint()
                continue
            again = look_again_at(self._response, moment, now)
            with trio.move_on_at(math.inf if again is None else again):
                await self._times_changed.wait()

    def _moment(self) -> Moment:
        return self._life.moment(
            held=self._phase is Phase.HELD,
            can_ping=self._phase is Phase.OPEN
            and can_ping(self._response, self._body.pending, self._buffer),
            progress=self._progress,
            sent_at=self._sent_at,
        )

    def _do(self, due: Due) -> None:
        if due in (Due.OPEN, Due.PING):
            self._due = due
            self._news.set()  # the task that sends sends it
        elif due is Due.LOOK:
            self._look_at_progress()
        else:
            self._report(due)

    def _look_at_progress(self) -> None:
        timeout = self._response.send_timeout
        if self._progress is not None and self._streams is not None and timeout is not None:
            self._progress.look(self._streams.unread(self), trio.current_time(), timeout)

    # Shutdown

    def shut_down(self) -> None:
        """Ends the stream within `shutdown_grace`."""
        if self._life.begin_shutdown(trio.current_time()):
            self._note_times()
        else:
            self._report(Due.GRACE_OVER)


def _one_of(cancellation: BaseException) -> BaseException:
    """Returns a cancellation in place of a group of them, which a nursery raises: who asks for
    `trio.Cancelled`, as a dependency with `yield` may, does not look into groups."""
    one: Any = cancellation
    while hasattr(one, "exceptions"):
        one = one.exceptions[0]
    return one  # type: ignore[no-any-return]


# Of the event loop, before the generator begins.
_TURNS = 2

_LOG = Action.LOG
_DO = {
    Action.STOP: TrioDelivery._stop_generator,
    Action.BOUND: TrioDelivery._note_times,
    Action.BOUND_LAST_SEND: TrioDelivery._note_times,
    Action.FINISH: TrioDelivery.flush,
    Action.OPEN: TrioDelivery._open_held,
    Action.GIVE_UP: TrioDelivery._give_up,
    Action.DROP: TrioDelivery._drop,
    Action.DROP_UNREAD: TrioDelivery._drop_unread,
    # The generator's own scope ends its cleanup.
    Action.ABANDON: TrioDelivery._give_up,
    Action.WARN: TrioDelivery._warn,
}
