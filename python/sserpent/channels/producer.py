"""Runs a generator to its end, whoever follows, and appends what it yields to its run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal

import anyio
import anyio.to_thread

from .. import _shutdown
from .._core import ServerSentEvent
from .._shutdown.event_loop import call_every, call_soon, current_time, current_token, on_asyncio
from .._shutdown.logger import logger
from . import lease
from .blocks import RUN_END
from .broker import BrokerError, ChannelsClosed, Fenced, Item, RunLog
from .complaint import Complaint
from .encoding import Encoding, Refusal
from .outbox import Outbox
from .position import Stream

#: How a run has ended, as its last event says.
End = Literal["done", "error", "stopped", "lost"]
#: The reason of a run that has ended because its server did.
SHUTDOWN = "shutdown"

# Seconds that a generator's cleanup may take when its run has been stopped.
_CLEANUP_TIMEOUT = 30.0
# Seconds until the broker is tried again.
_RETRY = 1.0
# How many sync generators may run at the same time on an event loop.
_MAX_THREADS = 1_000

_END: Any = object()


class TooMuch(Refusal):
    """More has been yielded than is kept of a run."""


def end_item(run_id: str, end: End, reason: str | None) -> Item:
    """Returns the last event of a run."""
    event = ServerSentEvent(data={"run": run_id, "end": end, "reason": reason}, event=RUN_END)
    return Item(event.encode())


class Producer:
    """Produces one run, in tasks of its own.

    Two of them: one drives the generator, and is what a stop cancels; the other keeps the lease,
    and appends what is yielded, and the end.

    Args:
        run_id: What clients know the run by.
        run: Where it is kept.
        source: The generator, async or sync.
        encoding: Of what it yields.
        log: Keeps it.
        max_bytes: How many bytes of events it may have.
        shutdown_grace: For how many seconds it may go on when the server shuts down.
        on_end: Called when nothing of it is left.
    """

    def __init__(
        self,
        run_id: str,
        run: Stream,
        source: Any,
        encoding: Encoding,
        log: RunLog,
        max_bytes: int,
        shutdown_grace: float,
        on_end: Callable[[Producer], object],
    ) -> None:
        self._run_id = run_id
        self._run = run
        self._source = source
        self._log = log
        self._max_bytes = max_bytes
        self._shutdown_grace = shutdown_grace
        self._on_end = on_end
        self._encoding = encoding
        self._token = current_token()
        self._fence = ""
        self._outbox = Outbox(lambda items: log.append(run, self._fence, items))
        self._bytes = 0
        self._stop: str | None = None  # the reason, once it is to stop
        self._stopping = False  # it has been told, in its event loop
        self._stepping = False  # the generator runs, and can be cancelled
        self._cancel: Callable[[], object] | None = None
        self._end: tuple[End, str | None] = "done", None
        self._renewal_is_due = False
        self._complaint = Complaint("Run '%s' waits to be kept: %s", run_id)
        self._driven = anyio.Event()
        self._cleanup_until = float("inf")
        self._end_grace: Callable[[], object] | None = None
        #: Set when nothing of the run is left here.
        self.ended = anyio.Event()

    # What others say

    def start(self, fence: str) -> None:
        """Begins, with a fence from the log. To be called in the event loop that is to run it."""
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

            trio.lowlevel.spawn_system_task(self._drive_on_trio)
            trio.lowlevel.spawn_system_task(self._supervise, streams)

    def stop(self, reason: str) -> None:
        """Ends the run: its generator is cancelled once, or is not entered. May be called in any
        thread."""
        self._stop = self._stop or reason
        call_soon(self._token, lambda: self._stop_now(reason))

    def shut_down(self) -> None:
        """Ends the run within `shutdown_grace`, because its server ends."""
        if not self._shutdown_grace:
            self._stop_now(SHUTDOWN)
        elif self._end_grace is None and not self.ended.is_set():
            self._end_grace = call_every(self._shutdown_grace, self._grace_over)

    def _grace_over(self) -> None:
        self._stop_now(SHUTDOWN)
        self._forget_grace()

    def _forget_grace(self) -> None:
        if self._end_grace is not None:
            self._end_grace()
            self._end_grace = None

    def _stop_now(self, reason: str) -> None:
        self._stop = self._stop or reason
        if self._stopping:
            return
        self._stopping = True
        self._cleanup_until = current_time() + _CLEANUP_TIMEOUT
        self._outbox.release()
        self._outbox.wake()
        if self._stepping and self._cancel is not None:
            self._cancel()

    # The generator

    async def _drive_on_trio(self) -> None:
        with anyio.CancelScope() as scope:
            self._cancel = scope.cancel
            await self._drive()

    async def _drive(self) -> None:
        try:
            await self._produce()
        except anyio.get_cancelled_exc_class():
            # Nobody but the end of the event loop cancels what has not been stopped.
            self._stop = self._stop or SHUTDOWN
        except Refusal as error:
            self._end = "error", str(error)
        except Exception:
            logger.exception("The generator of run '%s' failed", self._run_id)
            self._end = "error", "exception"
        finally:
            if self._stop is not None and self._end[0] == "done":
                self._end = "stopped", self._stop
            self._driven.set()
            self._outbox.wake()

    async def _produce(self) -> None:
        step, close = self._steps()
        try:
            while self._stop is None:
                self._stepping = self._is_async
                item = await step()
                self._stepping = False
                if item is _END:
                    return
                await self._append(item)
        finally:
            self._stepping = False
            await close()

    @property
    def _is_async(self) -> bool:
        return hasattr(self._source, "__aiter__")

    def _steps(self) -> tuple[Callable[[], Awaitable[Any]], Callable[[], Awaitable[object]]]:
        """Returns what takes the next item, and what closes the generator."""
        if self._is_async:
            items = self._source.__aiter__()

            async def step() -> Any:
                try:
                    return await items.__anext__()
                except StopAsyncIteration:
                    return _END

            async def close() -> None:
                aclose = getattr(items, "aclose", None)
                if aclose is not None:
                    await aclose()

            return step, close

        iterator = iter(self._source)
        limiter = anyio.CapacityLimiter(1)  # not that of sync routes

        async def step_in_thread() -> Any:
            return await anyio.to_thread.run_sync(next, iterator, _END, limiter=limiter)

        async def close_in_thread() -> None:
            close = getattr(iterator, "close", None)
            if close is not None:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(close, limiter=limiter)

        return step_in_thread, close_in_thread

    async def _append(self, item: Any) -> None:
        encoded = self._encoding.item(item)
        self._bytes += len(encoded.body)
        if self._bytes > self._max_bytes:
            raise TooMuch(f"'max_bytes' ({self._max_bytes}) is exceeded")
        await self._outbox.put(encoded)

    # The lease, and the end

    async def _supervise(self, streams: Any) -> None:
        end_renewals = call_every(lease.RENEWAL, self._renew_soon)
        try:
            while not self._is_over:
                await self._outbox.news()
                if self._renewal_is_due:
                    self._renewal_is_due = False
                    await self._renew()
                if not await self._flush():
                    await anyio.sleep(_RETRY)
                    self._outbox.wake()
        except anyio.get_cancelled_exc_class():
            self._stop = self._stop or SHUTDOWN
        finally:
            end_renewals()
            with anyio.CancelScope(shield=True):
                await self._finish()
            self._forget_grace()
            _shutdown.closed(self, streams)
            self.ended.set()
            self._on_end(self)

    @property
    def _is_over(self) -> bool:
        """Whether it is time for the end. What was yielded waits for a broker that is away, but in
        a run that is stopped no longer than its end."""
        if self._driven.is_set():
            return self._stopping or not self._outbox
        return current_time() >= self._cleanup_until

    def _renew_soon(self) -> None:
        self._renewal_is_due = True
        self._outbox.wake()

    async def _renew(self) -> None:
        try:
            stop = await self._log.renew(self._run, self._fence)
        except (Fenced, ChannelsClosed):
            self._lose()
        except BrokerError as error:
            self._complaint.log(error)
        else:
            if stop is not None:
                self._stop_now(stop)

    async def _flush(self) -> bool:
        """Appends what was yielded, and returns whether the broker was there."""
        try:
            await self._append_waiting()
        except BrokerError as error:
            self._complaint.log(error)
            return False
        return True

    async def _append_waiting(self) -> None:
        try:
            await self._outbox.flush()
        except (Fenced, ChannelsClosed):
            self._lose()

    def _lose(self) -> None:
        """Ends a run of which nothing more is accepted."""
        self._outbox.clear()
        self._end = "lost", None
        self._stop_now("lost")

    async def _finish(self) -> None:
        until = current_time() + lease.DURATION
        try:
            await _until_available(self._append_waiting, until)
            end = self._last()
            await _until_available(partial(self._log.end, self._run, self._fence, end), until)
        except Exception:
            # Its lease is not renewed any more, so whoever follows it will know.
            logger.exception("The end of run '%s' could not be recorded", self._run_id)
        await self._log.leave(self._run, self._fence)

    def _last(self) -> Item:
        end, reason = self._end
        if not self._driven.is_set():
            logger.error(
                "The cleanup of run '%s' did not end within %s s", self._run_id, _CLEANUP_TIMEOUT
            )
            end, reason = "stopped", self._stop
        return end_item(self._run_id, end, reason)


async def _until_available(ask: Callable[[], Awaitable[object]], until: float) -> None:
    """Asks the broker, again and again while it is away.

    Args:
        until: The time after which it is not asked again.

    Raises:
        BrokerError: it has not come back until then.
    """
    while not await _is_available(ask, until):  # noqa: ASYNC110, the broker does not call back
        await anyio.sleep(_RETRY)


async def _is_available(ask: Callable[[], Awaitable[object]], until: float) -> bool:
    try:
        await ask()
    except BrokerError:
        if current_time() >= until:
            raise
        return False
    return True
