"""How a stream ends, and by when: each reason of `life.Ending`, with clients that stall at
the worst moment. By a clock that jumps, on asyncio and Trio."""

from __future__ import annotations

import asyncio
import contextlib
import runpy
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from asgi import Connection
from event_loops import asyncio_only
from sserpent import EventSourceResponse
from sserpent._core import Buffer
from sserpent._delivery.life import Ending
from sserpent._delivery.on_asyncio import Delivery
from sserpent._fastapi.response import _delivery_class
from sserpent._shutdown import streams as shutdown
from timelines import PING, timeline

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


class Stream:
    """One response, run in the background of a test, and when it ended."""

    def __init__(self, content: Any, **options: Any) -> None:
        self.connection = Connection()
        self.log: list[str] = []
        self.error: BaseException | None = None
        self.ended_at: float | None = None
        options.setdefault("on_disconnect", lambda: self.log.append("told"))
        self.response = EventSourceResponse(content, **options)

    async def run(self) -> None:
        try:
            await self.connection.run(self.response)
        except Exception as error:
            self.error = error
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.ended_at = round(anyio.current_time(), 3)


async def play(stream: Callable[[], Stream], act: Callable[[Stream], Awaitable[Any]]) -> Stream:
    """Runs a stream while `act` is done to it, until it has ended; at most 1,000 s."""
    one = stream()
    begin = anyio.current_time()
    with anyio.fail_after(1_000):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.run)
            await act(one)
    assert one.ended_at is not None
    one.ended_at = round(one.ended_at - begin, 3)
    return one


def begin_shutdown() -> None:
    shutdown._of_this_loop()._look(signalled=True)


async def finite() -> AsyncIterator[str]:
    yield "a"


def finite_sync() -> Iterator[str]:
    yield "a"


async def endless() -> AsyncIterator[str]:
    yield "a"
    await anyio.sleep(10_000)


# The last send


async def test_d9_the_last_send_is_bounded_by_send_timeout() -> None:
    async def act(stream: Stream) -> None:
        stream.connection.stall()

    stream = await play(lambda: Stream(finite(), send_timeout=5, ping_interval=None), act)
    assert stream.ended_at == 5
    assert stream.log == ["told"]
    assert not stream.connection.complete


async def test_d9_the_last_send_alone_is_bounded_by_send_timeout() -> None:
    """The generator has ended while the client read; only the end of the body stalls."""

    async def content() -> AsyncIterator[str]:
        yield "a"
        await anyio.sleep(1)
        stream.connection.stall()

    def make() -> Stream:
        nonlocal stream
        stream = Stream(content(), send_timeout=5, ping_interval=None)
        return stream

    async def act(_: Stream) -> None:
        pass

    stream: Stream = None  # type: ignore[assignment]
    stream = await play(make, act)
    assert stream.ended_at == 6
    assert stream.connection.data == ['"a"']
    assert not stream.connection.complete


@pytest.mark.parametrize("open_delay", [0, 0.25, None])
async def test_d9_headers_are_bounded_by_send_timeout(open_delay: float | None) -> None:
    async def act(stream: Stream) -> None:
        stream.connection.stall()

    options = {"open_delay": open_delay, "send_timeout": 5, "ping_interval": None}
    stream = await play(lambda: Stream(endless(), **options), act)
    assert stream.ended_at == 5
    assert stream.log == ["told"]


async def test_d9_a_generator_is_not_started_before_headers_that_are_sent_at_once() -> None:
    log: list[str] = []

    async def content() -> AsyncIterator[str]:
        log.append("started")
        yield "a"

    async def act(stream: Stream) -> None:
        stream.connection.stall()
        await anyio.sleep(3)
        assert log == []
        stream.connection.unstall()

    stream = await play(lambda: Stream(content(), open_delay=0), act)
    assert log == ["started"]
    assert stream.connection.complete


@pytest.mark.parametrize("grace", [0, 2])
@pytest.mark.parametrize("content", [finite, endless])
async def test_d8_a_client_that_does_not_read_cannot_hold_the_exit(
    content: Callable[[], Any], grace: float
) -> None:
    """Not even with the last send, of a generator that has ended."""

    async def act(stream: Stream) -> None:
        stream.connection.stall()
        await anyio.sleep(10)
        begin_shutdown()

    options = {"shutdown_grace": grace, "cleanup_timeout": 3, "ping_interval": None}
    stream = await play(lambda: Stream(content(), **options), act)
    assert stream.ended_at == 10 + grace + 3
    assert not stream.connection.complete


class Droppable(Connection):
    """A connection that its server drops when it is asked to, and then tells of it."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, tells: bool = True, http_version: str = "1.1"
    ) -> None:
        super().__init__(http_version=http_version)
        self.receiving = False
        self.tells = tells
        #: What the server was told to wait for when it was asked.
        self.dropped: list[str] = []
        streams = shutdown.ServerStreams
        monkeypatch.setattr(streams, "abort_connection", lambda *_: self.drop())
        monkeypatch.setattr(streams, "close_connection", lambda *_: True)

    async def receive(self) -> Any:
        self.receiving = True
        try:
            return await super().receive()
        finally:
            self.receiving = False

    def drop(self) -> bool:
        waits = {"receive": self.receiving, "send": bool(self.sending)}
        self.dropped.append(" and ".join(name for name, waiting in waits.items() if waiting))
        if self.tells:
            asyncio.get_running_loop().call_later(0.1, self.disconnect)
        return True


DROPS = {
    "stalled": ({"send_timeout": 2.0, "cleanup_timeout": 30.0}, False, 2),
    "shutdown": ({"cleanup_timeout": 3.0}, True, 4),
    "shutdown-stalled": ({"send_timeout": 2.0, "cleanup_timeout": 30.0}, True, 2),
}


@pytest.mark.parametrize(
    ("http_version", "waits", "given_up"),
    [("1.1", "receive and send", 0.0), ("2", "receive", 0.05)],
    ids=["http-1.1", "http-2"],
)
@pytest.mark.parametrize("tells", [True, False], ids=["told", "silent"])
@pytest.mark.parametrize(("options", "shuts_down", "drops_at"), DROPS.values(), ids=DROPS)
@asyncio_only
async def test_d8_a_dropped_connection_is_told_of_before_the_response_returns(
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    shuts_down: bool,
    drops_at: float,
    tells: bool,
    http_version: str,
    waits: str,
    given_up: float,
) -> None:
    """Neither `receive` nor `send` is cancelled before, or granian's worker never ends; over HTTP/2
    it tells `send` first, so that is. A server that says nothing of it holds nobody for longer than
    a second."""

    async def act(stream: Stream) -> None:
        stream.connection.stall()
        await anyio.sleep(1)
        if shuts_down:
            begin_shutdown()

    def make() -> Stream:
        stream = Stream(endless(), ping_interval=None, **options)
        stream.connection = Droppable(monkeypatch, tells, http_version)
        return stream

    stream = await play(make, act)
    assert stream.connection.dropped == [waits]
    assert stream.ended_at == round(drops_at + given_up + (0.1 if tells else 1), 3)
    assert not stream.connection.complete


class Stubborn(Connection):
    """A connection over HTTP/2 that is not found, whose `send` ignores that it is cancelled."""

    def __init__(self) -> None:
        super().__init__(http_version="2")

    async def send(self, message: Any) -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                return await super().send(message)


@pytest.mark.parametrize(("options", "shuts_down", "drops_at"), DROPS.values(), ids=DROPS)
@asyncio_only
async def test_d8_over_http_2_a_send_that_goes_on_holds_nobody(
    options: dict[str, Any], shuts_down: bool, drops_at: float
) -> None:
    """Where the connection is not found either: its address may be a proxy's."""

    async def act(stream: Stream) -> None:
        stream.connection.stall()
        await anyio.sleep(1)
        if shuts_down:
            begin_shutdown()

    def make() -> Stream:
        stream = Stream(endless(), ping_interval=None, **options)
        stream.connection = Stubborn()
        return stream

    stream = await play(make, act)
    assert stream.ended_at is not None
    assert stream.ended_at <= drops_at + options["cleanup_timeout"] + 0.05


class Shielded(Connection):
    """A connection whose `send` cannot be cancelled, as hypercorn's on Trio: it ends when the
    connection is dropped."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        monkeypatch.setattr(shutdown.ServerStreams, "abort_connection", lambda *_: self.drop())

    async def send(self, message: Any) -> None:
        with anyio.CancelScope(shield=True):
            await super().send(message)

    def drop(self) -> bool:
        self.unstall()
        return True


@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_d8_a_cancelled_request_drops_the_connection_in_whatever_order_trio_cancels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Trio takes the tasks of a turn in one order or the other, by chance."""
    for _ in range(20):
        connection = Shielded(monkeypatch)
        connection.stall()
        begin = anyio.current_time()
        with anyio.fail_after(100), anyio.move_on_after(5):
            await connection.run(EventSourceResponse(endless()))
        assert anyio.current_time() == begin + 5


@asyncio_only
async def test_d8_a_cancelled_request_drops_the_connection_that_a_send_waits_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """hypercorn cancels it at its graceful timeout, and then waits for the client without end."""
    connection = Droppable(monkeypatch)
    connection.stall()
    with anyio.move_on_after(5):
        await connection.run(EventSourceResponse(endless()))
    assert anyio.current_time() == 5
    assert connection.dropped == ["send"]


@asyncio_only
async def test_d8_a_scope_of_anyio_cancels_the_request_once_while_its_generator_cleans_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would cancel again in each turn of the event loop: a hundred here."""
    cancelled: list[BaseException] = []
    on_cancellation = Delivery._on_cancellation

    def noted(self: Delivery, error: asyncio.CancelledError) -> None:
        cancelled.append(error)
        on_cancellation(self, error)

    monkeypatch.setattr(Delivery, "_on_cancellation", noted)

    async def content() -> AsyncIterator[int]:
        try:
            yield 1
            await anyio.sleep(10_000)
        finally:
            with anyio.CancelScope(shield=True):
                for _ in range(100):
                    await asyncio.sleep(0)

    with anyio.move_on_after(5):
        await Connection().run(EventSourceResponse(content()))
    assert len(cancelled) == 1


@asyncio_only
async def test_d8_a_cancelled_request_drops_the_connection_that_is_closed_already(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection = Droppable(monkeypatch)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run, EventSourceResponse(endless()))
        await anyio.sleep(1)
        begin_shutdown()
        await anyio.sleep(3)
        assert connection.dropped == []
        tasks.cancel_scope.cancel()
    assert anyio.current_time() == 4
    assert len(connection.dropped) == 1


# Keep-alives


async def test_d4_no_keep_alive_follows_the_end() -> None:
    """Nor is there one while the end waits to be sent."""

    async def stall(connection: Connection, _: Any) -> None:
        connection.stall()
        await anyio.sleep(40)
        connection.unstall()

    sent = await timeline(finite, until=100, act=stall, ping_interval=15)
    assert sent == [(40, "headers"), (40, 'data: "a"\n\n'), (40, "END")]


async def test_d4_the_end_follows_a_keep_alive_that_stalled() -> None:
    async def content() -> AsyncIterator[str]:
        yield "a"
        await anyio.sleep(20)

    async def stall(connection: Connection, _: Any) -> None:
        await anyio.sleep(14)
        connection.stall()
        await anyio.sleep(30)
        connection.unstall()

    sent = await timeline(content, until=100, act=stall, ping_interval=15)
    assert sent == [(0, "headers"), (0, 'data: "a"\n\n'), (44, PING), (44, "END")]


async def test_d3_the_generator_waits_for_a_keep_alive_that_stalls() -> None:
    yielded: list[float] = []

    async def content() -> AsyncIterator[str]:
        begin = anyio.current_time()
        for _ in range(20):
            yielded.append(round(anyio.current_time() - begin, 3))
            yield "x" * 70_000
            await anyio.sleep(10)

    async def stall(connection: Connection, _: Any) -> None:
        await anyio.sleep(19)
        connection.stall()
        await anyio.sleep(500)
        assert len(yielded) <= 4, "the generator went on while nothing was sent"
        connection.unstall()

    await timeline(content, until=530, act=stall, ping_interval=4)


# Shutdown


async def test_d8_a_stream_that_is_cut_does_not_look_complete() -> None:
    async def act(stream: Stream) -> None:
        await anyio.sleep(1)
        begin_shutdown()

    stream = await play(lambda: Stream(endless()), act)
    assert stream.ended_at == 1
    assert stream.connection.data == ['"a"']
    assert not stream.connection.complete
    assert (stream.error, stream.log) == (None, [])


async def test_d8_a_cut_stream_with_held_headers_is_a_200() -> None:
    async def silent() -> AsyncIterator[str]:
        await anyio.sleep(10_000)
        yield "never"

    async def act(stream: Stream) -> None:
        await anyio.sleep(0.1)
        begin_shutdown()

    stream = await play(lambda: Stream(silent()), act)
    assert stream.connection.status == 200
    assert not stream.connection.complete
    assert stream.error is None


async def test_d8_one_that_ends_by_itself_in_the_grace_ends_cleanly() -> None:
    async def content() -> AsyncIterator[str]:
        yield "a"
        await shutdown.shutdown_event().wait()
        yield "goodbye"

    async def act(stream: Stream) -> None:
        await anyio.sleep(1)
        begin_shutdown()

    stream = await play(lambda: Stream(content(), shutdown_grace=5), act)
    assert stream.ended_at == 1
    assert stream.connection.data == ['"a"', '"goodbye"']
    assert stream.connection.complete


async def test_d8_one_that_fails_while_it_tidies_up_does_not_look_complete() -> None:
    async def content() -> AsyncIterator[str]:
        try:
            yield "a"
            raise LookupError("on purpose")
        finally:
            await anyio.sleep(2)

    async def act(stream: Stream) -> None:
        await anyio.sleep(1)
        begin_shutdown()

    stream = await play(lambda: Stream(content()), act)
    assert stream.connection.data == ['"a"']
    assert not stream.connection.complete


@pytest.mark.parametrize("make", [endless, finite, finite_sync])
async def test_d8_a_stream_that_opens_after_the_shutdown_began_is_a_whole_200(
    make: Callable[[], Any],
) -> None:
    started: list[str] = []

    async def noting() -> AsyncIterator[str]:
        started.append("started")
        yield "a"

    async def act(first: Stream) -> None:
        await anyio.sleep(1)
        begin_shutdown()
        for content in (make(), noting()):
            second = Stream(content, shutdown_grace=5)
            await second.run()
            assert second.connection.status == 200
            assert second.connection.complete
            assert second.connection.body == b""
            assert (second.error, second.log) == (None, [])
        assert len(shutdown._of_this_loop()._by_address["testserver", 80].open) == 1

    # The first keeps the server's streams known while the second comes.
    await play(lambda: Stream(endless(), shutdown_grace=2), act)
    assert started == []


# Failures


class Odd(BaseException):
    """No Exception."""


@pytest.mark.parametrize("error", [Odd, GeneratorExit, LookupError])
async def test_d6_nothing_yielded_before_any_kind_of_exception_is_lost(
    error: type[BaseException],
) -> None:
    async def content() -> AsyncIterator[str]:
        yield "a"
        await anyio.sleep(1)
        yield "b"
        raise error

    connection = Connection()
    with pytest.raises(error):
        await connection.run(EventSourceResponse(content()))
    assert not connection.complete
    assert connection.data == ['"a"', '"b"']


async def test_d6_a_client_that_stalls_does_not_hide_the_exception(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # On a busy machine the event would be due, and the generator wait for its `send`.
    monkeypatch.setattr(EventSourceResponse, "_make_buffer", lambda _: Buffer(max_age=60))

    async def content() -> AsyncIterator[str]:
        yield "a"
        raise LookupError("on purpose")

    async def act(stream: Stream) -> None:
        stream.connection.stall()

    stream = await play(lambda: Stream(content(), send_timeout=5), act)
    assert stream.ended_at == 5
    assert isinstance(stream.error, LookupError)


async def test_d7_what_fails_in_a_cleanup_after_a_disconnect_is_raised() -> None:
    """So that the server logs it."""

    async def content() -> AsyncIterator[str]:
        try:
            yield "a"
            await anyio.sleep(10_000)
        finally:
            raise LookupError("in the cleanup")

    async def act(stream: Stream) -> None:
        await stream.connection.until(lambda: stream.connection.bodies)
        stream.connection.disconnect()

    stream = await play(lambda: Stream(content()), act)
    assert isinstance(stream.error, LookupError)
    assert stream.log == ["told"]


async def awaits_what_is_cancelled() -> None:
    task = asyncio.ensure_future(asyncio.sleep(100))
    task.cancel()
    await task


async def exits() -> None:
    raise SystemExit(3)


def raises_cancelled() -> None:
    raise asyncio.CancelledError


ENDS_ITSELF = [
    pytest.param(
        backend,
        on_disconnect,
        marks=pytest.mark.skipif(
            backend == "asyncio" and on_disconnect is not exits and sys.version_info < (3, 11),
            reason="asyncio does not say whether it has cancelled a task",
        ),
    )
    for backend in ("asyncio", "trio")
    for on_disconnect in (exits, raises_cancelled, awaits_what_is_cancelled)
    if on_disconnect is not awaits_what_is_cancelled or backend == "asyncio"
]


@pytest.mark.parametrize(
    ("anyio_backend", "on_disconnect"), ENDS_ITSELF, indirect=["anyio_backend"]
)
async def test_d7_an_on_disconnect_that_ends_itself_ends_nothing_else(
    on_disconnect: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []

    async def content() -> AsyncIterator[int]:
        try:
            yield 0
            await anyio.sleep(1_000)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1)
            log.append("closed")

    async def act(stream: Stream) -> None:
        await anyio.sleep(1)
        stream.connection.disconnect()

    stream = await play(lambda: Stream(content(), on_disconnect=on_disconnect), act)
    assert stream.error is None
    assert (log, stream.ended_at) == (["closed"], 2)
    (record,) = caplog.records
    assert "on_disconnect of" in record.getMessage()


@asyncio_only
async def test_d7_a_request_that_is_cancelled_in_on_disconnect_is_cancelled() -> None:
    log: list[str] = []

    async def on_disconnect() -> None:
        try:
            await anyio.sleep(100)
        finally:
            log.append("told")

    stream = Stream(endless(), on_disconnect=on_disconnect)
    task = asyncio.ensure_future(stream.run())
    await anyio.sleep(1)
    stream.connection.disconnect()
    await anyio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stream.ended_at == 2
    assert log == ["told"]


async def test_d7_a_receive_that_fails_ends_the_stream_with_its_error() -> None:
    log: list[str] = []

    async def content() -> AsyncIterator[str]:
        try:
            yield "a"
            await anyio.sleep(10_000)
        finally:
            log.append("closed")

    async def act(stream: Stream) -> None:
        pass

    def make() -> Stream:
        stream = Stream(content())

        async def receive() -> Any:
            await anyio.sleep(1)
            raise LookupError("in a middleware")

        stream.connection.receive = receive  # type: ignore[method-assign]
        return stream

    stream = await play(make, act)
    assert isinstance(stream.error, LookupError)
    assert stream.ended_at == 1
    assert log == ["closed"]


@asyncio_only
async def test_d7_a_receive_that_raises_what_is_no_exception_leaves_no_generator_behind() -> None:
    class Odd(BaseException):
        pass

    log: list[str] = []
    connection = Connection()

    async def content() -> AsyncIterator[str]:
        try:
            while True:
                yield "a"
                await anyio.sleep(0.1)
        finally:
            log.append("closed")

    async def receive() -> Any:
        await anyio.sleep(1)
        raise Odd

    connection.receive = receive  # type: ignore[method-assign]
    with pytest.raises(Odd):
        await connection.run(EventSourceResponse(content()))
    await anyio.sleep(1)
    assert log == ["closed"]


# A generator that tidies up


@pytest.mark.parametrize("leave", ["disconnect", "shutdown"])
async def test_d7_a_generator_that_tidies_up_by_itself_is_not_cut_off(leave: str) -> None:
    log: list[str] = []

    async def content() -> AsyncIterator[str]:
        try:
            yield "a"
        finally:
            await anyio.sleep(5)
            log.append("tidied up")

    async def act(stream: Stream) -> None:
        await anyio.sleep(1)
        stream.connection.disconnect() if leave == "disconnect" else begin_shutdown()

    stream = await play(lambda: Stream(content(), cleanup_timeout=30), act)
    assert log == ["tidied up"]
    assert stream.ended_at == 5
    # It has come to its end by itself.
    assert stream.connection.complete == (leave == "shutdown")


EXCEPT_STAR = """
import anyio

async def content(log):
    try:
        yield "a"
    except* ValueError:
        pass
    finally:
        await anyio.sleep(5)
        log.append("tidied up")
"""


@pytest.mark.skipif(sys.version_info < (3, 11), reason="`except*` is younger")
async def test_d7_a_finally_after_except_star_is_not_cut_off_either(tmp_path: Path) -> None:
    log: list[str] = []
    module = tmp_path / "except_star.py"
    module.write_text(EXCEPT_STAR)
    content = runpy.run_path(str(module))["content"]

    async def act(stream: Stream) -> None:
        await anyio.sleep(1)
        stream.connection.disconnect()

    stream = await play(lambda: Stream(content(log), cleanup_timeout=30), act)
    assert log == ["tidied up"]
    assert stream.ended_at == 5


async def test_d7_one_that_tidies_up_for_too_long_is_cancelled() -> None:
    async def content() -> AsyncIterator[str]:
        try:
            yield "a"
        finally:
            await anyio.sleep(5_000)

    async def act(stream: Stream) -> None:
        await anyio.sleep(1)
        stream.connection.disconnect()

    stream = await play(lambda: Stream(content(), cleanup_timeout=30), act)
    assert stream.ended_at == 31


async def test_d7_one_that_tidies_up_between_its_events_goes_no_further() -> None:
    log: list[str] = []

    async def content() -> AsyncIterator[str]:
        while True:
            try:
                yield "a"
            finally:
                await anyio.sleep(2)
                log.append("tidied up")

    async def act(stream: Stream) -> None:
        await anyio.sleep(1)
        stream.connection.disconnect()

    stream = await play(lambda: Stream(content(), cleanup_timeout=30), act)
    assert stream.ended_at is not None
    assert stream.ended_at <= 4
    assert 1 <= len(log) <= 2


# Headers that were never sent


@pytest.mark.parametrize("begins", [False, True], ids=["held", "sent"])
async def test_d6_a_failed_stream_is_cut_off_only_where_its_headers_are_out(
    monkeypatch: pytest.MonkeyPatch, begins: bool
) -> None:
    """Before that, the exception becomes a response, on the same connection."""
    cut: list[bool] = []
    monkeypatch.setattr(shutdown.ServerStreams, "cut_off", lambda *_: cut.append(True))

    async def content() -> AsyncIterator[str]:
        if begins:
            yield "a"
        raise LookupError("on purpose")
        yield "b"

    async def act(stream: Stream) -> None:
        pass

    stream = await play(lambda: Stream(content()), act)
    assert isinstance(stream.error, LookupError)
    assert cut == [True] * begins


# A request that is cancelled


class Source:
    """A source of ready frames that notes that it is stopped."""

    pending = 0
    at_line_start = True
    holds_headers = False
    stopped = 0

    def take(self) -> bytes:
        return b""

    def start(self, sink: Any) -> None:
        pass

    def stop(self, is_heard: bool = True) -> None:
        self.stopped += 1


@pytest.mark.parametrize("pushes", [False, True], ids=["generator", "source"])
async def test_a_cancelled_request_is_the_reason_and_ends_what_is_streamed(pushes: bool) -> None:
    source = Source()
    response: Any = EventSourceResponse(endless())
    response._source = source if pushes else None
    connection = Connection()
    arguments = connection.scope, connection.receive, connection.send
    delivery = _delivery_class()(response, *arguments)
    with anyio.move_on_after(1):
        await delivery.run()
    assert delivery.ending is Ending.CANCELLED
    assert bool(source.stopped) == pushes


@pytest.mark.parametrize("sends", [True, False])
async def test_a_request_that_is_cancelled_raises_a_cancellation_and_no_group(sends: bool) -> None:
    """A dependency with `yield` may ask for it by its class."""

    async def content() -> AsyncIterator[str]:
        if sends:
            yield "a"
        await anyio.sleep_forever()
        yield "b"

    raised: list[type[BaseException]] = []
    with anyio.move_on_after(1):
        try:
            await Connection().run(EventSourceResponse(content()))
        except BaseException as error:
            raised.append(type(error))
            raise
    assert raised == [anyio.get_cancelled_exc_class()]
