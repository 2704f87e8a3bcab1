"""Plays one small world after the other, and notes what happens."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import anyio
from starlette.requests import ClientDisconnect, Request

from gunzip import GZIP, Gunzip
from sserpent import EventSourceResponse
from sserpent._core import Buffer
from sserpent._fastapi.requests import share
from sserpent._shutdown import streams as shutdown

from .clock import JumpingClock, JumpingLoop, Stuck
from .scripts import CANCELS_AT, FOREVER, LEAVES_AT, SHUTS_DOWN_AT, USUAL, Act, World

# Where the server's part finds the stage of a request.
_STAGE = "explorer.stage"
# For how long what blocks a thread does.
_BLOCKS = {"second": 1.0, "forever": FOREVER}
# How often `receive` may be called in one moment.
_CALLS = 50


class Odd(BaseException):
    """No Exception."""


class Note(NamedTuple):
    """Something that happened.

    Attributes:
        at: When, in seconds since the stream was opened.
        what: What, in a word.
        of: To what.
    """

    at: float
    what: str
    of: Any = None


class Story:
    """What came of a world.

    Attributes:
        notes: What happened, in order.
        accepted: The messages that the server has accepted, and when.
        log: What was logged at WARNING or above.
        left: What was left when the response had returned.
        faults: What the stream did that nothing may do.
        ended_at: When it returned; None if it never did.
        error: What it raised.
    """

    def __init__(self, world: World, library: str) -> None:
        self.world = world
        self.library = library
        self.notes: list[Note] = []
        self.accepted: list[tuple[float, Any]] = []
        self.log: list[str] = []
        self.left: list[str] = []
        self.faults: list[str] = []
        self.ended_at: float | None = None
        self.error: BaseException | None = None

    def all(self, *whats: str) -> list[Note]:
        return [each for each in self.notes if each.what in whats]

    def first(self, *whats: str) -> Note | None:
        return next((each for each in self.notes if each.what in whats), None)


class _Response(EventSourceResponse):
    def _make_buffer(self) -> Buffer:
        # By the machine's clock events would be due sooner on a slow machine.
        return Buffer(None, max_pending=self.max_pending, max_age=3_600)


class _Stage:
    """Plays one world; a subclass for each event loop."""

    library: str

    def __init__(self, world: World) -> None:
        self.world = world
        self.story = Story(world, self.library)
        self.began = self.now()
        self.sends = iter(world.send)
        self.heard = 0  # letters of `receive` that are done with
        self.calls = (0.0, 0)  # of `receive`, in this moment
        self.sending = False
        self.yielded = 0
        self.request: Request | None = None
        self.leaving = self.event()
        self.decoder = Gunzip() if dict(world.options).get("compress") else None
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "root_path": "",
            "headers": GZIP,
            "server": ("testserver", 80),
            "client": ("testclient", 1),
            _STAGE: self,
        }

    # What each event loop has

    def now(self) -> float: ...
    def event(self) -> Any: ...
    async def sleep(self, seconds: float) -> None: ...
    async def turn(self) -> None: ...
    async def sleep_whatever_comes(self, seconds: float) -> None: ...
    async def wait_for_cancelled(self) -> None: ...
    def shielded(self) -> Any: ...

    Cancelled: type[BaseException]

    def note(self, what: str, of: Any = None) -> None:
        self.story.notes.append(Note(self.now() - self.began, what, of))

    # The generator

    async def content(self) -> AsyncIterator[str]:
        self.note("starts")
        try:
            for letter in self.world.generator:
                if letter == "yields":
                    yield self.item()
                elif letter == "turn":
                    await self.turn()
                elif letter == "second":
                    await self.sleep(1)
                elif letter == "forever":
                    await self.sleep(FOREVER)
                elif letter == "timeout":
                    with anyio.move_on_after(0.5):
                        await self.sleep(FOREVER)
                elif letter == "swallows":
                    with contextlib.suppress(self.Cancelled):
                        await self.sleep(1)
                elif letter == "reads":
                    await self.read()
                else:
                    self.fail(letter)
            self.note("ends")
        finally:
            try:
                self.note("cleans up")
                for letter in self.world.cleanup:
                    if letter == "turn":
                        with self.shielded():
                            await self.turn()
                    elif letter == "second":
                        with self.shielded():
                            await self.sleep(1)
                    elif letter == "forever":
                        await self.sleep(FOREVER)
                    elif letter == "deaf":
                        await self.sleep_whatever_comes(6)
                    else:
                        self.fail(letter)
            finally:
                self.note("closed", sys.exc_info()[1])

    def sync_content(self) -> Iterator[str]:
        self.note("starts")
        try:
            for letter in self.world.generator:
                if letter == "yields":
                    yield self.item()
                elif letter in _BLOCKS:
                    self.block(_BLOCKS[letter])
                else:
                    self.fail(letter)
            self.note("ends")
        finally:
            try:
                self.note("cleans up")
                for letter in self.world.cleanup:
                    if letter in _BLOCKS:
                        self.block(_BLOCKS[letter])
                    else:
                        self.fail(letter)
            finally:
                self.note("closed", sys.exc_info()[1])

    def block(self, seconds: float) -> None:
        raise NotImplementedError

    def item(self) -> str:
        self.yielded += 1
        self.note("yields", self.yielded)
        return str(self.yielded)

    def fail(self, letter: str) -> None:
        error: BaseException = {
            "raises": LookupError,
            "odd": Odd,
            "cancelled": self.Cancelled if self.library == "asyncio" else LookupError,
        }[letter]()
        self.note("raises", error)
        raise error

    async def read(self) -> None:
        assert self.request is not None
        try:
            await self.request.body()
            self.note("reads")
        except ClientDisconnect:
            self.note("reads that the client has gone")

    # The server

    async def send(self, message: Any) -> None:
        if self.sending:
            self.story.faults.append("two sends at once")
        letter = next(self.sends, "returns")
        message = self.decoded(message)
        self.sending = True
        self.note("sends", message)
        try:
            if letter == "drains":
                self.accept(message)
                await self.sleep(1)
                return
            await self.do_to_send(letter)
            self.accept(message)
        except BaseException as error:
            self.note("send raises", error)
            raise
        finally:
            self.sending = False
            self.note("send ends", message)

    def decoded(self, message: Any) -> Any:
        """The message as it would be if nothing was compressed."""
        if self.decoder is None or "body" not in message:
            return message
        plain = self.decoder.feed(message["body"])
        if self.decoder.whole is message["more_body"]:
            self.story.faults.append("gzip's end is not that of the body")
        is_ping = message["more_body"] and message["body"] and not plain
        return {**message, "body": b": ping\n" if is_ping else plain}

    async def do_to_send(self, letter: str) -> None:
        if letter == "turn":
            await self.turn()
        elif letter == "second":
            await self.sleep(1)
        elif letter == "stalls":
            await self.sleep(FOREVER)
        elif letter == "gone":
            raise BrokenPipeError
        elif letter == "gone later":
            await self.turn()
            raise BrokenPipeError
        elif letter == "fails":
            raise KeyError("of a middleware")
        elif letter == "fails later":
            await self.turn()
            raise KeyError("of a middleware")
        elif letter == "cancelled":
            await self.wait_for_cancelled()
        elif letter == "times out":
            with anyio.fail_after(0.5):
                await self.sleep(FOREVER)
        elif letter == "deaf":
            await self.sleep_whatever_comes(1)

    def accept(self, message: Any) -> None:
        self.story.accepted.append((self.now() - self.began, message))
        self.note("accepts", message)

    async def receive(self) -> Any:
        self.count_call()
        script = self.world.receive
        while self.heard < len(script):
            letter = script[self.heard]
            if letter == "turn":
                await self.turn()
            elif letter == "second":
                await self.sleep(1)
            elif letter == "gone":
                return self.gone()
            elif letter == "raises":
                error = ValueError("of the server")
                self.note("receive raises", error)
                raise error
            elif letter == "replays":
                return {"type": "http.request", "body": b"", "more_body": False}
            self.heard += 1
            if letter in ("body", "part"):
                return {"type": "http.request", "body": b"b", "more_body": letter == "part"}
        await self.leaving.wait()
        return self.gone()

    def gone(self) -> Any:
        self.note("gone")
        return {"type": "http.disconnect"}

    def count_call(self) -> None:
        at, calls = self.calls
        self.calls = (at, calls + 1) if at == self.now() else (self.now(), 1)
        if calls > _CALLS:
            self.story.faults.append("receive is called again and again")
            raise Stuck

    def close_connection(self) -> bool:
        return self.drop("closes")

    def abort_connection(self) -> bool:
        return self.drop("aborts")

    def drop(self, how: str) -> bool:
        self.note(how)
        if self.world.server == "known":
            self.leaving.set()
        return self.world.server == "known"

    # What else happens

    def act(self, act: Act) -> None:
        if self.story.ended_at is None:
            self.note(act.kind)
            if act.kind == "shutdown":
                try:
                    shutdown._of_this_loop()._look(signalled=True)
                except Exception as error:
                    self.story.faults.append(f"shut_down raised {error!r}")
            elif act.kind == "leave":
                self.leaving.set()
            else:
                self.cancel(act.kind)

    def cancel(self, kind: str) -> None: ...

    @property
    def acts(self) -> list[Act]:
        return [
            *self.world.acts,
            Act("leave", 0, LEAVES_AT),
            Act("shutdown", 0, SHUTS_DOWN_AT),
            Act("cancel", 0, CANCELS_AT),
        ]

    # The application

    async def on_disconnect(self) -> None:
        self.note("told")
        letter = self.world.told
        try:
            if letter == "second":
                await self.sleep(1)
            elif letter == "forever":
                await self.sleep(FOREVER)
            elif letter == "raises":
                raise ArithmeticError("of on_disconnect")
        finally:
            self.note("told ends")

    def response(self) -> Any:
        options = {**USUAL, **dict(self.world.options)}
        self.generator: Any = self.sync_content() if self.world.kind == "sync" else self.content()
        if "reads" in self.world.generator or "part" in self.world.receive:
            self.request = Request(self.scope, self.receive)
            share(self.request)
        return _Response(self.generator, on_disconnect=self.on_disconnect, **options)

    async def call(self) -> None:
        """Is the server's task."""
        response = self.response()
        if Act("shutdown", None) in self.world.acts:
            shutdown._of_this_loop().of_server(self.scope).look(signalled=True)
            self.note("shuts down before")
        try:
            await self.run_response(response)
        except BaseException as error:
            self.story.error = error
        self.story.ended_at = self.now() - self.began
        self.note("returns", self.story.error)
        self.look_what_is_left()

    async def run_response(self, response: Any) -> None:
        await response(self.scope, self.receive, self.send)

    def look_what_is_left(self) -> None:
        left = self.story.left
        # Of this event loop: a test before may have left one on its own, which ended with it.
        if shutdown._of_this_loop().are_open():
            left.append("a stream is registered")
        if getattr(self.generator, "ag_frame", None) is not None:
            left.append("the generator is open")
        if self.sending:
            left.append("a send is in progress")


class _OnAsyncio(_Stage):
    library = "asyncio"
    Cancelled = asyncio.CancelledError

    def __init__(self, world: World) -> None:
        self.loop: Any = asyncio.get_running_loop()
        self.handles: set[asyncio.TimerHandle] = set()
        self.blocked: list[threading.Event] = []
        self.cancel_scope: anyio.CancelScope | None = None
        super().__init__(world)

    def now(self) -> float:
        return float(self.loop.time())

    def event(self) -> Any:
        return asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def turn(self) -> None:
        await asyncio.sleep(0)

    async def sleep_whatever_comes(self, seconds: float) -> None:
        until = self.now() + seconds
        while self.now() < until:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(until - self.now())

    async def wait_for_cancelled(self) -> None:
        future = self.loop.create_future()
        self.loop.call_soon(self.cancel_future, future)
        await future

    def cancel_future(self, future: Any) -> None:
        if future.cancel():
            self.note("send is cancelled by its server")

    def shielded(self) -> Any:
        return contextlib.nullcontext()

    def cancel(self, kind: str) -> None:
        if kind == "cancel":
            self.task.cancel()
        elif self.cancel_scope is not None:
            self.cancel_scope.cancel()

    async def run_response(self, response: Any) -> None:
        if not any(each.kind == "scope" for each in self.world.acts):
            await super().run_response(response)
            return
        with anyio.CancelScope() as self.cancel_scope:
            try:
                await super().run_response(response)
            finally:
                # The scope goes on cancelling for as long as it is open.
                self.cancel_scope, scope = None, self.cancel_scope
                assert scope is not None
        if scope.cancelled_caught:
            raise asyncio.CancelledError

    def block(self, seconds: float) -> None:
        released = threading.Event()
        self.blocked.append(released)
        if self.over.done():
            return
        self.loop.call_soon_threadsafe(self.release_after, seconds, released)
        released.wait()

    def release_after(self, seconds: float, released: threading.Event) -> None:
        self.handles.add(self.loop.call_later(seconds, released.set))

    async def play(self) -> Story:
        self.loop.threads.are_expected = self.world.kind == "sync"
        self.main = asyncio.current_task()
        self.over = self.loop.create_future()
        self.task = self.loop.create_task(self.call())
        self.task.add_done_callback(self.end)
        self.handles.add(self.loop.call_at(self.began + CANCELS_AT + 20, self.end))
        for act in self.acts:
            if act.turns is not None:
                self.loop.call_soon(self.after_turns, act.turns, act)
        await self.over
        await self.end_all()
        shutdown._of_this_loop()._by_address.clear()
        return self.story

    def end(self, _: Any = None) -> None:
        if not self.over.done():
            self.over.set_result(None)

    def after_turns(self, turns: int, act: Act) -> None:
        if turns:
            self.loop.call_soon(self.after_turns, turns - 1, act)
        elif act.seconds:
            self.handles.add(self.loop.call_at(self.began + act.seconds, self.act, act))
        else:
            self.act(act)

    async def end_all(self) -> None:
        """Waits for what goes on without its response."""
        for released in self.blocked:
            released.set()
        for thread in self.loop.threads.running():
            thread.join(10)
            if thread.is_alive():
                self.story.left.append("a thread")
        for _ in range(3):
            others = self.others({self.main})
            if not others:
                break
            await asyncio.wait(others, timeout=10)
            for task in others:
                task.cancel()
        for handle in self.loop._scheduled:
            handle.cancel()
        self.loop._scheduled.clear()
        self.loop.tasks.clear()

    def others(self, known: Any) -> list[asyncio.Task[Any]]:
        return [each for each in self.loop.tasks if not each.done() and each not in known]

    def look_what_is_left(self) -> None:
        super().look_what_is_left()
        self.story.left += [
            f"a task: {task.get_coro().__qualname__}"
            for task in self.others({self.main, self.task})
        ]
        self.story.left += [
            f"a timer: {getattr(handle._callback, '__qualname__', handle)}"
            for handle in self.loop._scheduled
            if not (handle._cancelled or handle in self.handles)
        ]


class _OnTrio(_Stage):
    library = "trio"

    def __init__(self, world: World) -> None:
        import trio

        self.trio = trio
        self.Cancelled = trio.Cancelled
        super().__init__(world)

    def now(self) -> float:
        return float(self.trio.current_time())

    def event(self) -> Any:
        return self.trio.Event()

    async def sleep(self, seconds: float) -> None:
        await self.trio.sleep(seconds)

    async def turn(self) -> None:
        await self.trio.lowlevel.checkpoint()

    async def sleep_whatever_comes(self, seconds: float) -> None:
        with self.shielded():
            await self.trio.sleep(seconds)

    async def wait_for_cancelled(self) -> None:
        raise NotImplementedError("Trio has no futures")

    def shielded(self) -> Any:
        return self.trio.CancelScope(shield=True)

    def cancel(self, kind: str) -> None:
        self.cancel_scope.cancel()

    async def run_response(self, response: Any) -> None:
        error = None
        with self.trio.CancelScope() as self.cancel_scope:
            try:
                await super().run_response(response)
            except BaseException as raised:
                error = raised
                while hasattr(error, "exceptions"):
                    (error, *_) = error.exceptions
                raise
        if error is not None:
            raise error

    async def play(self) -> Story:
        statistics = self.trio.lowlevel.current_statistics
        before = statistics().tasks_living
        async with self.trio.open_nursery() as nursery:
            for act in self.acts:
                if act.turns is not None:
                    nursery.start_soon(self.act_later, act)
            with self.trio.move_on_after(CANCELS_AT + 20):
                await self.call()
            nursery.cancel_scope.cancel()
        if statistics().tasks_living > before:
            self.story.left.append(f"{statistics().tasks_living - before} tasks")
        shutdown._of_this_loop()._by_address.clear()
        return self.story

    async def act_later(self, act: Act) -> None:
        for _ in range(act.turns or 0):
            await self.turn()
        if act.seconds:
            await self.trio.sleep_until(self.began + act.seconds)
        self.act(act)


class _Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.name}: {record.getMessage()}")


def _close(_: Any, scope: Any) -> bool:
    return bool(scope[_STAGE].close_connection())


def _abort(_: Any, scope: Any) -> bool:
    return bool(scope[_STAGE].abort_connection())


@contextlib.contextmanager
def _playing() -> Iterator[list[str]]:
    """Collects what is logged, and what Python complains of. No time has a jitter, and connections
    are the stage's."""
    with (
        mock.patch("random.uniform", lambda low, high: high),
        mock.patch.object(shutdown.ServerStreams, "close_connection", _close),
        mock.patch.object(shutdown.ServerStreams, "abort_connection", _abort),
        _listening() as log,
    ):
        yield log


@contextlib.contextmanager
def _listening() -> Iterator[list[str]]:
    log = _Log()
    loggers = [logging.getLogger(name) for name in ("sserpent", "asyncio")]
    kept = [each.propagate for each in loggers]
    hook = sys.unraisablehook
    for each in loggers:
        each.addHandler(log)
        each.propagate = False
    sys.unraisablehook = lambda unraisable: log.lines.append(
        f"UNRAISABLE {unraisable.exc_value!r} in {unraisable.object!r}"
    )
    try:
        yield log.lines
    finally:
        sys.unraisablehook = hook
        for each, propagate in zip(loggers, kept, strict=True):
            each.removeHandler(log)
            each.propagate = propagate


def on_asyncio(worlds: Iterable[World]) -> Iterator[Story]:
    """Plays worlds on asyncio."""
    loop = JumpingLoop()
    with _playing() as log:
        try:
            for world in worlds:
                loop.begin_anew()

                async def main(world: World = world) -> Story:
                    return await _OnAsyncio(world).play()

                try:
                    story = loop.run_until_complete(main())
                except Stuck:
                    raise RuntimeError(f"the event loop turns in a circle in {world!r}") from None
                story.log, log[:] = log[:], []
                yield story
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


def on_trio(worlds: Iterable[World]) -> Iterator[Story]:
    """Plays worlds on Trio."""
    import trio
    from trio._core import _run

    clock: Any = JumpingClock()
    waiting = [each for each in worlds if not _NOT_ON_TRIO.intersection(_letters(each))]
    waiting.reverse()

    async def main() -> list[Story]:
        stories = []
        for _ in range(min(len(waiting), 100)):
            _run._r.seed(0)
            clock.begin_anew()
            stories.append(await _OnTrio(waiting.pop()).play())
            stories[-1].log, log[:] = log[:], []
        return stories

    deterministic = _run._ALLOW_DETERMINISTIC_SCHEDULING
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True
    with _playing() as log:
        try:
            while waiting:
                yield from trio.run(main, clock=clock)
        finally:
            _run._ALLOW_DETERMINISTIC_SCHEDULING = deterministic


# "scope" is what "cancel" would be there, and the clock knows of no threads.
_NOT_ON_TRIO = {"cancel", "cancelled", "sync"}


def _letters(world: World) -> Iterator[str]:
    yield from world.generator
    yield from world.send
    yield from (each.kind for each in world.acts)
    yield world.kind
