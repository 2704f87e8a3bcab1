"""Runs a generator to its end, with or without followers, and appends what it yields to its run."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

import anyio
import anyio.lowlevel
from starlette.exceptions import HTTPException

from ... import _shutdown
from ..._delivery.generator_thread import GeneratorThread, ThreadOptions
from ..._delivery.in_finally import is_tidying_up
from ..._delivery.source import close_unstarted
from ..._fastapi.stream_end import SHUTDOWN
from ..._runtime.log import SayOnce, logger
from ..._runtime.loops import (
    call_every,
    call_soon,
    current_time,
    current_token,
    has_ended,
    is_cancellation,
    is_outside,
    on_asyncio,
)
from ..fanout.hub import Hub
from ..history.broker import BrokerError, ChannelsClosed, Fenced, Item, Lease, Refused, RunBroker
from ..history.encoding import Refusal
from ..history.position import HistoryKey
from .ends import End, end_item, public_reason
from .keys import Claim, RunKeys
from .outbox import Gathered, Outbox
from .run_encoding import RunEncoding
from .turns import Turns

# Seconds that a generator's cleanup may take when its run has been stopped.
_CLEANUP_TIMEOUT = 30.0
# Seconds for which the end of a run may wait for the broker when the server shuts down: with a
# `shutdown_grace` of 20 it ends before Kubernetes kills it.
_RECORDING = 8.0
# Seconds until the broker is tried again.
_RETRY = 1.0
# Seconds between two looks whether a run of another event loop has ended.
_LOOK = 0.05


class TooMuch(Refusal):
    """More has been yielded than is kept of a run."""


class Producer:
    """Produces one run, in tasks of its own.

    Two of them: one drives the generator, and is what a stop cancels; the other keeps the lease,
    and appends what is yielded, and the end.

    Args:
        run_id: What clients know the run by.
        run: Where it is kept.
        source: The generator, async or sync.
        encoding: Of what it yields.
        broker: Keeps it.
        max_bytes: How many bytes of events it may have.
        shutdown_grace: For how many seconds it may go on when the server shuts down.
        thread_options: Of the thread of a sync generator.
        on_end: Called when nothing of it is left.
        hub: Returns the hub of an event loop, if it has one.
        claim: To the key that it has, if it has one, and who knows of those.

    Attributes:
        run_id: As given.
    """

    def __init__(
        self,
        run_id: str,
        run: HistoryKey,
        source: Any,
        encoding: RunEncoding,
        broker: RunBroker,
        max_bytes: int,
        shutdown_grace: float,
        thread_options: ThreadOptions,
        on_end: Callable[[Producer], object],
        hub: Callable[[Any], Hub | None],
        claim: tuple[Claim, RunKeys] | None = None,
    ) -> None:
        self.run_id = run_id
        self._run = run
        self._source = source
        self._broker = broker
        self._max_bytes = max_bytes
        self._shutdown_grace = shutdown_grace
        self._thread_options = thread_options
        self._on_end = on_end
        self._claim = claim
        self._encoding = encoding
        self._token = current_token()
        self._fence = ""
        self._outbox = Outbox(lambda items: broker.append(run, self._fence, items))
        self._turns = Turns(partial(hub, self._token))
        self._bytes = 0
        self._number = 0  # of the next event
        self._end_mark_at: int | None = None  # the number that it would have
        self._stop: str | None = None  # the reason, once it is to stop
        self._stopping = False  # it has been told, in its event loop
        self._stepping = False  # the generator runs, and can be cancelled
        self._cancel: Callable[[], object] | None = None
        self._end: tuple[End, str | None, int | None] = "done", None, None
        self._cancellation: BaseException | None = None  # of a generator that was not stopped
        self._renewal_is_due = False
        # Around what waits for the broker: before the end, and for it.
        self._keeping, self._recording = anyio.CancelScope(), anyio.CancelScope(shield=True)
        self._shutting_down = False
        self._trouble = "the broker does not answer"
        self._warning = SayOnce("Run '%s' waits to be kept: %s", run_id)
        self._driven = anyio.Event()
        self._thread_news = _News()
        self._cleanup_until = float("inf")
        self._end_grace: Callable[[], object] | None = None
        #: Set when nothing of the run is left here.
        self.ended = anyio.Event()

    # Called by others

    def start(self, fence: str) -> None:
        """Begins, in the running event loop, with a fence from the broker."""
        self._fence = fence
        streams = _shutdown.opened(self, {})
        if streams.ending:
            self.shut_down()
        if on_asyncio():
            loop = asyncio.get_running_loop()
            driver = loop.create_task(self._drive())
            self._cancel = driver.cancel
            # The event loop refers to tasks weakly.
            self._tasks = driver, loop.create_task(self._supervise(streams))
        else:
            import trio

            # Without a context it would have that of Trio, and not the request's variables.
            context = contextvars.copy_context()
            trio.lowlevel.spawn_system_task(self._drive_on_trio, context=context)
            trio.lowlevel.spawn_system_task(self._supervise, streams)

    def renew_soon(self) -> None:
        """Renews the lease before anything else, and looks at the key."""
        self._renewal_is_due = True
        self._outbox.wake()

    def stop(self, reason: str) -> None:
        """Ends the run: its generator is cancelled once, or is not entered. May be called in any
        thread."""
        self._stop = self._stop or reason
        call_soon(self._token, lambda: self._stop_now(reason))

    def shut_down(self) -> None:
        """Ends the run within `shutdown_grace`, because its server ends."""
        if not self._shutdown_grace:
            self._stop_now(SHUTDOWN)
        elif not (self._end_grace or self._shutting_down or self.ended.is_set()):
            self._end_grace = call_every(self._shutdown_grace, self._grace_over)

    def shut_down_soon(self) -> None:
        """Ends the run as `shut_down` does. May be called in any thread."""
        call_soon(self._token, self.shut_down)

    async def wait_until_ended(self) -> None:
        """Returns when nothing of the run is left here, or its event loop has ended without it. May
        be called in any event loop."""
        if current_token() is self._token:
            await self.ended.wait()
        while not (self.ended.is_set() or has_ended(self._token)):  # noqa: ASYNC110, see above
            await anyio.sleep(_LOOK)

    def _grace_over(self) -> None:
        self._stop_now(SHUTDOWN)
        self._forget_grace()

    def _forget_grace(self) -> None:
        if self._end_grace is not None:
            self._end_grace()
            self._end_grace = None

    def _stop_now(self, reason: str) -> None:
        self._stop = self._stop or reason
        if not self._stopping:
            self._stop_generator()
        if reason == SHUTDOWN:
            self._shutting_down = True
            self._bound_recording()

    def _stop_generator(self) -> None:
        self._stopping = True
        self._cleanup_until = current_time() + _CLEANUP_TIMEOUT
        self._outbox.release()
        self._outbox.wake()
        # One that is in a `finally` of its own already comes to the end of it, as a stream's does.
        if self._stepping and self._cancel is not None and not is_tidying_up(self._source):
            self._cancel()

    def _bound_recording(self) -> None:
        """Bounds the time for which the end of the run waits for the broker to `_RECORDING`, if the
        server shuts down."""
        if self._shutting_down:
            begin = current_time() if self._driven.is_set() else self._cleanup_until
            for scope in (self._keeping, self._recording):
                scope.deadline = min(scope.deadline, begin + _RECORDING)

    # The generator

    async def _drive_on_trio(self) -> None:
        with anyio.CancelScope() as scope:
            self._cancel = scope.cancel
            await self._drive()

    async def _drive(self) -> None:
        try:
            await self._turns.run(self._produce())
        except HTTPException as error:
            self._end = "error", public_reason(error), error.status_code
        except Refusal as error:
            logger.error("Run '%s' has ended, because of what was yielded: %s", self.run_id, error)
            self._end = "error", str(error), None
        except BaseException as error:
            # Nothing may leave this task: KeyboardInterrupt or SystemExit would end the event loop,
            # and on Trio anything would.
            if isinstance(error, GeneratorExit) and is_outside(self._token):
                raise
            if not is_cancellation(error):
                logger.exception("The generator of run '%s' failed", self.run_id)
                self._end = "error", "exception", None
            elif self._stop is None:
                self._cancellation = error
                self._end = "error", "exception", None
        finally:
            if self._stop is not None and self._end[0] == "done":
                self._end = "stopped", self._stop, None
            self._driven.set()
            self._bound_recording()
            self._outbox.wake()

    async def _produce(self) -> None:
        if hasattr(self._source, "__aiter__"):
            await self._produce_in_task()
        elif self._stop is None:
            await self._produce_in_thread()
        else:
            await close_unstarted(self._source)

    async def _produce_in_task(self) -> None:
        items = self._source.__aiter__()
        try:
            while self._stop is None:
                self._stepping = True
                item = await items.__anext__()
                self._stepping = False
                encoded = self._encoded(item)
                if encoded is not None and not self._appended(encoded):
                    await self._outbox.put(encoded)
                if self._turns.is_over:
                    await anyio.lowlevel.checkpoint()
        except StopAsyncIteration:
            pass
        finally:
            self._stepping = False
            if hasattr(items, "aclose"):
                await items.aclose()

    async def _produce_in_thread(self) -> None:
        gathered = Gathered(self._encoded)
        thread = GeneratorThread(self._source, gathered, self._thread_options, _as_it_is)
        try:
            thread.start(_call_soon_in(self._token), self._thread_news.set)
            is_last = False
            while not is_last and self._stop is None:
                self._stepping = True
                await self._thread_news.wait()
                self._stepping = False
                is_last = thread.take_notice()
                for item in gathered.take():
                    if not self._appended(item):
                        await self._outbox.put(item)
                    if self._turns.is_over:
                        await anyio.lowlevel.checkpoint()
                thread.resume()
        finally:
            self._stepping = False
            thread.stop()
            with anyio.CancelScope(shield=True):
                while not (thread.finished or self.ended.is_set()):
                    await self._thread_news.wait()
            thread.cut_off()
            for item in gathered.take():
                self._outbox.add(item)
        thread.raise_error()

    def _appended(self, item: Item) -> bool:
        """Appends an event, unless the broker has to be waited for; returns whether it did."""
        append = self._broker.append_now
        if append is None:
            return False
        try:
            if append(self._run, self._fence, (item,)):
                self._turns.end_soon()
        except (Fenced, ChannelsClosed) as error:
            self._lose(error)
        return True

    def _encoded(self, item: Any) -> Item | None:
        encoded = self._encoding.item(item, self._number)
        if encoded is None:
            if self._encoding.is_end_mark(item):
                self._end_mark_at = self._number
            return None
        self._number += 1
        self._bytes += len(encoded.body)
        if self._bytes > self._max_bytes:
            raise TooMuch(f"'max_bytes' ({self._max_bytes}) is exceeded")
        return encoded

    # The lease, and the end

    async def _supervise(self, streams: Any) -> None:
        end_renewals = call_every(Lease.RENEWAL, self.renew_soon)
        try:
            with self._keeping:
                await self._keep()
        except Exception:
            # Nothing may leave this task: on Trio it would end the event loop.
            logger.exception("The broker of run '%s' failed", self.run_id)
            self._lose()
        except anyio.get_cancelled_exc_class():
            # Only the end of the event loop cancels this task, and it cancels the generator's too.
            self._stop = self._stop or SHUTDOWN
            if self._cancellation is not None:
                self._cancellation = None
                self._end = "stopped", self._stop, None
        finally:
            end_renewals()
            self._log_cancellation()
            with anyio.CancelScope(shield=True):
                await self._finish()
            self._forget_grace()
            _shutdown.closed(self, streams)
            self.ended.set()
            self._thread_news.set()
            self._on_end(self)

    async def _keep(self) -> None:
        """Renews the lease and appends what is yielded, until it is time for the end."""
        while not self._is_over:
            await self._outbox.news()
            if self._renewal_is_due:
                self._renewal_is_due = False
                await self._renew()
            if not await self._flush():
                await anyio.sleep(_RETRY)
                self._outbox.wake()

    def _log_cancellation(self) -> None:
        if self._cancellation is not None:
            logger.error(
                "The generator of run '%s' was cancelled from within",
                self.run_id,
                exc_info=self._cancellation,
            )
            self._cancellation = None  # its traceback refers to this producer

    @property
    def _is_over(self) -> bool:
        """Whether it is time for the end. What was yielded waits for a broker that is away, but in
        a run that is stopped no longer than its end."""
        if self._driven.is_set():
            return self._stopping or not self._outbox
        return current_time() >= self._cleanup_until

    async def _renew(self) -> None:
        try:
            stop = await self._broker.renew(self._run, self._fence)
            # A run that is stopped keeps its key until it has ended, its cleanup included.
            is_superseded = await self._is_superseded()
            if is_superseded and stop is None:
                # That it was stopped for the other run may have been recorded meanwhile.
                stop = await self._broker.renew(self._run, self._fence)
        except (Fenced, ChannelsClosed) as error:
            self._lose(error)
        except BrokerError as error:
            self._warn(error)
        else:
            if stop is not None:
                self._stop_now(stop)
            elif is_superseded:
                self._lose_key()

    def _lose_key(self) -> None:
        """Ends a run whose key another has, though nobody has stopped it for that one. What it has
        yielded is kept."""
        if self._stop is None and not self._driven.is_set():
            self._end = "lost", None, None
            self._stop_now("lost")

    def _warn(self, error: BrokerError) -> None:
        self._trouble = str(error)
        # That the broker is away it logs itself, for all who wait.
        if isinstance(error, Refused):
            self._warning.warn(str(error))

    async def _is_superseded(self) -> bool:
        """Returns whether another run has the key: because it was stopped for that one, or because
        the key was lost. Renews the key."""
        if self._claim is None:
            return False
        claim, keys = self._claim
        return await keys.is_superseded(claim)

    async def _flush(self) -> bool:
        """Appends what was yielded, and returns whether the broker was there."""
        try:
            await self._append_waiting()
        except BrokerError as error:
            self._warn(error)
            return False
        return True

    async def _append_waiting(self) -> None:
        try:
            await self._outbox.flush()
        except (Fenced, ChannelsClosed) as error:
            self._lose(error)

    def _lose(self, error: Exception | None = None) -> None:
        """Ends a run of which nothing more is accepted.

        Args:
            error: How the broker has refused it.
        """
        if isinstance(error, Fenced) and self._stop is None:
            logger.warning(
                "Run '%s' is lost and stopped: its lease was not renewed for %g s, because the"
                " event loop or the broker stood still, or the broker has lost it",
                self.run_id,
                Lease.DURATION,
            )
        self._outbox.clear()
        self._end = "lost", None, None
        self._stop_now("lost")

    async def _finish(self) -> None:
        with self._recording:
            await self._record()
            await self._free_key()
        await self._broker.release(self._run, self._fence)

    async def _free_key(self) -> None:
        if self._claim is None:
            return
        claim, keys = self._claim
        try:
            await keys.free(claim)
        except BrokerError:
            pass  # it is free when its lease is over
        except Exception:
            logger.exception("The key of run '%s' could not be freed", self.run_id)

    async def _record(self) -> None:
        """Records the end. If that fails, the lease is over soon, and followers are told "lost"."""
        until = current_time() + Lease.DURATION
        try:
            await self._until_available(self._append_waiting, until)
            end = partial(self._broker.end, self._run, self._fence, self._last())
            await self._until_available(end, until)
        except (BrokerError, anyio.get_cancelled_exc_class()) as error:
            logger.error(
                "The end of run '%s' could not be recorded: %s", self.run_id, self._trouble
            )
            if not isinstance(error, BrokerError):
                raise
        except Exception:
            logger.exception("The end of run '%s' could not be recorded", self.run_id)

    async def _until_available(self, ask: Callable[[], Awaitable[object]], until: float) -> None:
        """Asks the broker, again and again while it is away.

        Args:
            until: The time after which it is not asked again.

        Raises:
            BrokerError: it has not come back until then.
        """
        while not await self._is_available(ask, until):  # noqa: ASYNC110, it does not call back
            await anyio.sleep(_RETRY)

    async def _is_available(self, ask: Callable[[], Awaitable[object]], until: float) -> bool:
        try:
            await ask()
        except BrokerError as error:
            self._trouble = str(error)
            if current_time() >= until:
                raise
            return False
        return True

    def _last(self) -> Item:
        end, reason, status = self._end
        if not self._driven.is_set():
            # Otherwise it is the event loop that ends.
            if current_time() >= self._cleanup_until:
                logger.error(
                    "The cleanup of run '%s' did not end within %s s",
                    self.run_id,
                    _CLEANUP_TIMEOUT,
                )
            if end != "lost":
                end, reason, status = "stopped", self._stop, None
        # Followers need to know it of a run that is not done: for them it is over all the same.
        has_end_mark = end != "done" and self._end_mark_at == self._number
        return end_item(self.run_id, end, reason, status, has_end_mark)


class _News:
    """An event that a task waits for again and again. Set in the event loop."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = anyio.Event()


def _call_soon_in(token: Any) -> Callable[[Callable[[], object]], object]:
    """Returns what schedules a callback in an event loop, from any thread, and raises where that
    has ended."""
    schedule: Any = getattr(token, "call_soon_threadsafe", None) or token.run_sync_soon
    return cast("Callable[[Callable[[], object]], object]", schedule)


def _as_it_is(error: Exception, item: object) -> Exception:
    return error
