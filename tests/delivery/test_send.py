"""What middlewares and servers may do in `send` (D1, D14): timeouts of their own, awaitables of
their own, context variables; and whose a cancellation is."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import anyio
import pytest

from asgi import Connection
from event_loops import asyncio_only
from sserpent import EventSourceResponse
from sserpent._delivery import on_asyncio
from sserpent._delivery.sender import Sender, TaskSender

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


@pytest.fixture(autouse=True, params=[Sender, TaskSender], ids=["steps", "tasks"])
def _sender(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stream sends by on asyncio: the latter where private names of asyncio are missing."""
    monkeypatch.setattr(on_asyncio, "make_sender", request.param)


async def ticking() -> AsyncGenerator[int, None]:
    for number in range(100):
        yield number
        await anyio.sleep(1)


def numbers(received: list[str]) -> list[int]:
    return [int(number) for number in received]


class Timeouts:
    """A middleware with a timeout around each `send`, which tries again once or gives up."""

    def __init__(self, app: Any, kind: str, *, retry: bool) -> None:
        self.app = app
        self.kind = kind
        self.retry = retry
        self.fired = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_in_time(message: Any) -> None:
            try:
                await self.in_time(send, message)
            except (TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
                self.fired += 1
                if not self.retry:
                    raise
                await send(message)

        await self.app(scope, receive, send_in_time)

    async def in_time(self, send: Any, message: Any) -> None:
        if self.kind == "asyncio.timeout":
            async with asyncio.timeout(2):
                await send(message)
        elif self.kind == "asyncio.wait_for":
            await asyncio.wait_for(send(message), 2)
        else:
            with anyio.fail_after(2):
                await send(message)


needs_timeout = pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout is 3.11's")
kinds = pytest.mark.parametrize(
    ("anyio_backend", "kind"),
    [
        pytest.param("asyncio", "asyncio.timeout", marks=needs_timeout),
        ("asyncio", "asyncio.wait_for"),
        ("asyncio", "anyio.fail_after"),
        ("trio", "anyio.fail_after"),
    ],
    indirect=["anyio_backend"],
)


async def run_with_a_stall(connection: Connection, app: Any, rest: float) -> None:
    """The client does not read for 5 s, and leaves so many seconds after that."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run, app)
        await anyio.sleep(10.5)
        connection.stall()
        await anyio.sleep(5)
        connection.unstall()
        await anyio.sleep(rest)
        connection.disconnect()


@kinds
async def test_d14_a_timeout_of_a_middleware_fires_in_the_middleware(kind: str) -> None:
    connection = Connection()
    app = Timeouts(EventSourceResponse(ticking(), ping_interval=None), kind, retry=True)
    await run_with_a_stall(connection, app, rest=20)
    assert app.fired == 1
    # The generator never saw it, nothing is lost, and nothing is on the wire twice.
    assert numbers(connection.data) == list(range(len(connection.data)))
    assert len(connection.data) > 20


@kinds
async def test_d14_a_timeout_that_a_middleware_lets_through_fails_the_stream(kind: str) -> None:
    async def stall_later(connection: Connection) -> None:
        await anyio.sleep(10.5)
        connection.stall()

    closed: list[str] = []

    async def content() -> AsyncIterator[int]:
        try:
            # A send that fails at the `yield`, because the event was late, closes both.
            async with aclosing(ticking()) as inner:
                async for number in inner:
                    yield number
        finally:
            closed.append("closed")

    connection = Connection()
    app = Timeouts(EventSourceResponse(content(), ping_interval=None), kind, retry=False)
    begin = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stall_later, connection)
        with pytest.raises((TimeoutError, asyncio.TimeoutError)):
            await connection.run(app)
    assert app.fired == 1
    assert closed == ["closed"]
    assert anyio.current_time() - begin < 20


@asyncio_only
async def test_d14_under_a_middleware_whose_receive_has_scopes_too() -> None:
    """BaseHTTPMiddleware opens a task group in each `receive()`: scopes of a `send` must not be
    nested in it."""
    from starlette.middleware.base import BaseHTTPMiddleware

    connection = Connection()
    inner = Timeouts(
        EventSourceResponse(ticking(), ping_interval=None), "anyio.fail_after", retry=True
    )

    async def dispatch(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    await run_with_a_stall(connection, BaseHTTPMiddleware(inner, dispatch), rest=10)
    assert inner.fired >= 1
    assert numbers(connection.data) == list(range(len(connection.data)))


async def test_d14_a_timeout_of_the_generators_own_reaches_the_generator() -> None:
    """While a `send` waits for a client that does not read."""
    log: list[float] = []
    begin = anyio.current_time()

    async def content() -> AsyncIterator[str]:
        with anyio.move_on_after(5):
            yield "a" * 70_000
            await anyio.sleep(3_600)
        log.append(round(anyio.current_time() - begin, 3))
        yield "b"

    connection = Connection()
    connection.stall()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run, EventSourceResponse(content()))
        await anyio.sleep(20)
        connection.unstall()
    assert [line[1] for line in connection.data] == ["a", "b"]
    assert connection.complete
    assert log == [5]


@asyncio_only
async def test_d14_a_cancellation_of_the_request_is_the_requests() -> None:
    """A timeout around the whole application, while a `send` waits."""
    log: list[str] = []

    async def content() -> AsyncIterator[str]:
        try:
            while True:
                yield "a" * 1000
                await asyncio.sleep(1)
        finally:
            await asyncio.sleep(1)
            log.append("closed")

    connection = Connection()
    connection.stall()
    with anyio.move_on_after(10) as scope:
        await connection.run(EventSourceResponse(content()))
    assert scope.cancelled_caught
    assert connection.sending == 0, "the send is still under way"
    assert log == ["closed"]


# Awaitables of a server's own


class Completion:
    """What granian's `send` returns: a future of its own, which after it was cancelled yields
    itself again, however often it is asked."""

    _asyncio_future_blocking = False

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.callbacks: list[Any] = []
        self.cancelled = False

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self.loop

    def add_done_callback(self, callback: Any, *, context: Any = None) -> None:
        self.callbacks.append(callback)

    def remove_done_callback(self, callback: Any) -> int:
        self.callbacks.remove(callback)
        return 1

    def cancel(self, msg: Any = None) -> bool:
        self.cancelled = True
        for callback in self.callbacks:
            self.loop.call_soon(callback, self)
        self.callbacks.clear()
        return True

    def done(self) -> bool:
        return self.cancelled

    def result(self) -> None:
        raise asyncio.CancelledError

    def __await__(self) -> Any:
        return self

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        self._asyncio_future_blocking = True
        return self


@asyncio_only
async def test_d9_a_send_that_yields_itself_again_does_not_turn_in_a_circle() -> None:
    log: list[str] = []
    connection = Connection()
    loop = asyncio.get_running_loop()

    async def send(message: Any) -> None:
        if message.get("body"):
            await Completion(loop)  # type: ignore[misc]
        connection.messages.append(message)

    connection.send = send  # type: ignore[method-assign]
    response = EventSourceResponse(
        ticking(), send_timeout=1, on_disconnect=lambda: log.append("told")
    )
    await connection.run(response)
    assert loop.time() < 3
    assert log == ["told"]


@asyncio_only
async def test_d1_a_send_whose_future_is_cancelled_ends_the_stream() -> None:
    connection = Connection()
    loop = asyncio.get_running_loop()

    async def send(message: Any) -> None:
        if message.get("body"):
            waits = Completion(loop)
            loop.call_later(1, waits.cancel)
            await waits  # type: ignore[misc]

    connection.send = send  # type: ignore[method-assign]
    await connection.run(EventSourceResponse(ticking()))
    assert loop.time() < 3


@asyncio_only
async def test_d1_a_send_that_waits_for_no_future_fails() -> None:
    class Odd:
        def __await__(self) -> Any:
            yield "no future"

    connection = Connection()

    async def send(message: Any) -> None:
        await Odd()

    connection.send = send  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="no future"):
        await connection.run(EventSourceResponse(ticking()))


@asyncio_only
async def test_d1_an_awaitable_of_the_generators_that_yields_no_future_is_an_error_there() -> None:
    log: list[str] = []

    class Odd:
        def __await__(self) -> Any:
            yield "no future"

    async def content() -> AsyncIterator[str]:
        try:
            yield "a"
            await Odd()
        finally:
            await asyncio.sleep(1)
            log.append("closed")

    connection = Connection()
    with pytest.raises(RuntimeError, match="no future"):
        await connection.run(EventSourceResponse(content()))
    assert connection.data == ['"a"']
    assert log == ["closed"]


@asyncio_only
async def test_d1_a_send_that_lets_the_loop_turn() -> None:
    connection = Connection()
    send = connection.send

    async def slow_send(message: Any) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        await send(message)

    connection.send = slow_send  # type: ignore[method-assign]
    await connection.run(EventSourceResponse(ticking()))
    assert numbers(connection.data) == list(range(100))
    assert connection.complete


# Context


@pytest.mark.parametrize("waits", [True, False])
@asyncio_only
async def test_a_context_variable_around_a_send_can_be_reset(waits: bool) -> None:
    """As tracing middlewares do."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")
    inside: list[str] = []

    async def content() -> AsyncIterator[str]:
        for _ in range(3):
            inside.append(variable.get())
            yield "a"
            variable.set("of the generator")
            await asyncio.sleep(1)

    connection = Connection()
    send = connection.send

    async def tracing_send(message: Any) -> None:
        token = variable.set("in a send")
        try:
            await asyncio.sleep(0.1 if waits else 0)
            await send(message)
        finally:
            variable.reset(token)

    connection.send = tracing_send  # type: ignore[method-assign]
    await connection.run(EventSourceResponse(content(), ping_interval=0.4))
    assert connection.complete
    assert inside == ["outside", "of the generator", "of the generator"]


@asyncio_only
async def test_the_current_task_in_a_send_answers_what_is_asked_of_tasks() -> None:
    asked: list[Any] = []
    connection = Connection()
    send = connection.send

    async def asking_send(message: Any) -> None:
        task: Any = asyncio.current_task()
        asked.append((task.get_name(), task.done(), task.cancelled(), task.get_loop()))
        assert anyio.get_current_task().id
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(asyncio.sleep, 0.1)
        await send(message)

    connection.send = asking_send  # type: ignore[method-assign]
    await connection.run(EventSourceResponse(ticking()))
    assert connection.complete
    assert asked[0] == ("sserpent send", False, False, asyncio.get_running_loop())
