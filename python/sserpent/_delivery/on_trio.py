"""One stream's life on Trio, by the same rules as `on_asyncio`, in anyio's terms.

Simpler and slower: one task drives the generator, one sends whatever has gathered since its last
turn, keeps alive and ends the response, and the ASGI task watches the client.

One difference is Trio's own: a cancelled scope stays cancelled, so a generator whose cleanup
awaits after a disconnect has to shield it, as any Trio code does. Where the generator waits at a
`yield`, its cleanup is shielded here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import anyio
import trio
from starlette.types import Receive, Scope, Send

from .. import _shutdown
from .options import Streamable
from .origin import logger
from .sender import KEEPALIVE_COMMENT
from .stream import call_on_disconnect, claim, release, warn_of_stall
from .thread import GeneratorThread


class TrioDelivery:
    def __init__(self, response: Streamable, scope: Scope, send: Send) -> None:
        self.options = response
        self.scope = scope
        self.send = send
        self.content: Any = response.content
        self.buffer = response.make_buffer()
        self.tasks = anyio.create_task_group()
        self.driver_scope = anyio.CancelScope()
        self.sender_scope = anyio.CancelScope()
        self.news = anyio.Event()  # there is something to send, or the generator has ended
        self.room = anyio.Event()  # what was pending has been sent
        self.driven = anyio.Event()  # the generator has ended, cleanup included
        self.ended = anyio.Event()  # everything is sent, or nothing can be any more
        self.started = False
        self.stopping = False
        self.disconnected = False
        self.failure: BaseException | None = None
        self.thread: GeneratorThread | None = None

    # The ASGI task

    async def run(self, receive: Receive) -> None:
        claim(self.content)
        group = _shutdown.opened(self, self.scope)
        try:
            async with self.tasks as tasks:
                tasks.start_soon(self._drive, group)
                tasks.start_soon(self._send_all)
                tasks.start_soon(self._watch, receive)
                if group.ending:
                    self.shut_down()
                await self.ended.wait()
                self.stop()
                if self.disconnected:
                    await call_on_disconnect(self.options)
                with anyio.CancelScope(shield=True):
                    await self.driven.wait()
                tasks.cancel_scope.cancel()
        finally:
            _shutdown.closed(self, group)
            release(self.content)
        if self.failure is not None:
            raise self.failure

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if not self.ended.is_set():
            self._client_has_gone()

    def _client_has_gone(self) -> None:
        self.disconnected = True
        self.sender_scope.cancel()
        self.ended.set()

    def stop(self) -> None:
        if not self.stopping:
            self.stopping = True
            self.driver_scope.cancel()

    # The driver

    async def _drive(self, group: _shutdown.ServerStreams) -> None:
        _shutdown.current.set(group)
        try:
            if hasattr(self.content, "__aiter__"):
                await self._pump(self.content.__aiter__())
            else:
                await self._pump_thread(self.content)
        except Exception as error:
            self.failure = error
        finally:
            self.driven.set()
            self.news.set()

    async def _pump(self, content: AsyncIterator[Any]) -> None:
        try:
            with self.driver_scope:
                async for item in content:
                    try:
                        due = self.buffer.push(item)
                    except Exception as error:
                        raise self.explain(error, item) from error.__cause__
                    self.news.set()
                    if due:
                        await self._wait_for_room(content)
        finally:
            aclose = getattr(content, "aclose", None)
            if aclose is not None:
                await self._clean_up(aclose)

    async def _wait_for_room(self, content: Any) -> None:
        self.room = anyio.Event()
        try:
            await self.room.wait()
            self.buffer.restart_age()
        except trio.Cancelled as cancelled:
            # A scope that the generator has opened gets it where the generator is: at its `yield`.
            athrow = getattr(content, "athrow", None)
            if self.stopping or athrow is None:
                raise
            try:
                self.buffer.push(await athrow(cancelled))
            except StopAsyncIteration:
                pass

    async def _clean_up(self, cleanup: Callable[[], Awaitable[object]]) -> None:
        with anyio.move_on_after(self.options.cleanup_timeout, shield=True) as timeout:
            await cleanup()
        if timeout.cancelled_caught:
            logger.error(
                "The cleanup of %s did not end within cleanup_timeout (%s s)",
                self.options.origin,
                self.options.cleanup_timeout,
            )

    async def _pump_thread(self, content: Iterable[Any]) -> None:
        thread = self.thread = GeneratorThread(content, self.buffer, self.options, self.explain)
        token = trio.lowlevel.current_trio_token()
        try:
            with self.driver_scope:
                thread.start(token.run_sync_soon, self._notice)
                await self._thread_end(thread)
        finally:
            thread.stop()
            await self._clean_up(lambda: self._thread_end(thread))
        thread.raise_error()

    async def _thread_end(self, thread: GeneratorThread) -> None:
        while not thread.finished:
            self.room = anyio.Event()
            await self.room.wait()

    def _notice(self) -> None:
        self.news.set()
        self.room.set()

    def explain(self, error: Exception, item: object) -> Exception:
        return self.options.origin.explain(error, item, self.scope)

    # The sender

    async def _send_all(self) -> None:
        try:
            with self.sender_scope:
                await self._send_until_driven()
                if self.failure is None:
                    await self._send_body(more_body=False)
                elif self.buffer.pending:
                    await self._send_body()
        except TimeoutError:
            warn_of_stall(self.options)
            self._client_has_gone()
        except OSError:
            # ASGI 2.4: "raise an OSError" if the client has gone.
            self._client_has_gone()
        except Exception as error:
            self.failure = error
        finally:
            self.ended.set()

    async def _send_until_driven(self) -> None:
        if self.options.open_delay == 0:
            await self._start()
        while not self.driven.is_set():
            with anyio.move_on_after(self._patience()) as timeout:
                await self.news.wait()
            self.news = anyio.Event()
            if self.buffer.pending:
                await self._send_body()
            elif timeout.cancelled_caught:
                await self._send_without_news()

    def _patience(self) -> float | None:
        if not self.started and self.options.open_delay is not None:
            return self.options.open_delay
        return self.options.ping_interval or None

    async def _send_without_news(self) -> None:
        if self.started:
            await self._send_in_time(KEEPALIVE_COMMENT)
        elif self.options.open_delay is not None:
            await self._start()

    async def _send_body(self, more_body: bool = True) -> None:
        await self._start()
        if self.thread is not None:
            self.thread.take_notice()
        await self._send_in_time(self.buffer.take(), more_body)
        if self.thread is not None:
            self.thread.resume()
        self.room.set()

    async def _start(self) -> None:
        if not self.started:
            self.started = True
            await self.send(self.options.start_message())

    async def _send_in_time(self, body: bytes, more_body: bool = True) -> None:
        with anyio.fail_after(self.options.send_timeout):
            await self.send({"type": "http.response.body", "body": body, "more_body": more_body})

    # Shutdown

    def shut_down(self) -> None:
        """Ends the stream within `shutdown_grace`."""
        self.tasks.start_soon(self._end_for_shutdown)

    async def _end_for_shutdown(self) -> None:
        await anyio.sleep(self.options.shutdown_grace)
        self.stop()
