"""`sserpent.compat.sse_starlette` beside the installed `sse-starlette`: its API by name, its bytes,
and what ends a stream."""

from __future__ import annotations

import inspect
import math
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import anyio
import pytest
import sse_starlette
import sse_starlette.event
import sse_starlette.sse
from starlette.background import BackgroundTask

import sserpent
from asgi import Connection
from event_loops import asyncio_only
from servers import Server, fetch, on, open_stream, read_to_end, until, uvicorn
from sserpent.compat import sse_starlette as ours
from sserpent.compat.sse_starlette import AppStatus, EventSourceResponse

pytestmark = pytest.mark.anyio

APP = "compat_app:app"
both = pytest.mark.parametrize("module", [ours, sse_starlette.sse], ids=["ours", "theirs"])


@pytest.fixture(autouse=True)
def fresh_status() -> Iterator[None]:
    yield
    for status in (AppStatus, sse_starlette.sse.AppStatus):
        status.should_exit = False
        status.enable_automatic_graceful_drain = True


async def silent(*first: Any) -> AsyncIterator[Any]:
    for item in first:
        yield item
    await anyio.sleep_forever()


async def run_and_end(response: Callable[[], Any], act: Callable[[Connection], Any]) -> Any:
    """Runs a response beside what acts on it, and raises what it raises."""
    connection = Connection()
    errors: list[Exception] = []
    with anyio.fail_after(1_000):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(act, connection)
            try:
                await connection.run(response())
            except Exception as error:
                errors.append(error)
            tasks.cancel_scope.cancel()
    for error in errors:
        raise error
    return connection


async def nothing(connection: Connection) -> None:
    """Does nothing."""


# The API


def test_e4_all_public_names_are_there() -> None:
    assert set(sse_starlette.__all__) <= set(ours.__all__)
    types = "Content", "ContentStream", "AsyncContentStream", "SyncContentStream"
    for name in ("AppStatus", "SendTimeoutError", "ensure_bytes", *types):
        assert hasattr(sse_starlette.sse, name)
        assert name in ours.__all__
        assert hasattr(ours, name)


def test_e4_the_signature_is_theirs() -> None:
    def described(made: Any) -> list[tuple[str, Any, Any]]:
        parameters = inspect.signature(made).parameters.values()
        return [(each.name, each.kind, each.default) for each in parameters]

    assert described(EventSourceResponse) == described(sse_starlette.EventSourceResponse)
    assert len(described(EventSourceResponse)) == 14
    assert described(ours.ServerSentEvent) == described(sse_starlette.ServerSentEvent)
    assert described(ours.ensure_bytes) == described(sse_starlette.event.ensure_bytes)


def test_e4_status_has_their_attributes() -> None:
    names = {each for each in vars(sse_starlette.sse.AppStatus) if not each.startswith("_")}
    assert all(hasattr(AppStatus, each) for each in names)
    assert issubclass(ours.SendTimeoutError, TimeoutError)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sep": "\n\n"}, ValueError, "sep must be one of"),
        ({"shutdown_grace_period": -1}, ValueError, "shutdown_grace_period must be >= 0"),
        ({"cleanup_timeout": -1}, ValueError, "cleanup_timeout must be >= 0"),
        ({"ping": -1}, ValueError, "ping"),
        ({"ping": "1"}, TypeError, "ping"),
    ],
)
@both
def test_e4_bad_arguments_are_refused(
    module: Any, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        module.EventSourceResponse(iter(()), **options)


def test_e4_a_subclass_sets_the_defaults() -> None:
    class Quick(EventSourceResponse):
        DEFAULT_PING_INTERVAL = 5
        DEFAULT_SEPARATOR = "\n"

    response = Quick(iter(()))
    assert (response.ping_interval, response.sep) == (5, "\n")
    with pytest.raises(NotImplementedError):
        response.enable_compression()


# Bytes and headers

ITEMS: list[Callable[[Any], Any]] = [
    lambda m: "text",
    lambda m: "two\nlines\r\nthree\rfour",
    lambda m: "",
    lambda m: 1,
    lambda m: None,
    lambda m: ["a", {"b": 1}],
    lambda m: b"data: ready\n\n",
    lambda m: memoryview(b": ready\r\n"),
    lambda m: {},
    lambda m: {"data": "text", "event": "e", "id": "1", "retry": 5, "comment": "c"},
    lambda m: {"data": {"b": [1, None]}},
    lambda m: {"event": "a\r\nb", "id": "1\n2"},
    lambda m: {"comment": "one\ntwo", "retry": True},
    lambda m: {"data": "line\u2028separator\x85\x0b é 😀"},
    lambda m: m.ServerSentEvent(),
    lambda m: m.ServerSentEvent("text", event="e", id="", retry=0, comment=""),
    lambda m: m.ServerSentEvent(5, sep="\n"),
    lambda m: m.ServerSentEvent(["a"], sep=""),
    lambda m: json_event(m)({"a": [1, "é"], "b": None}),
    lambda m: json_event(m)(None, event="empty"),
    lambda m: json_event(m)("text", sep="\r"),
]


def json_event(module: Any) -> Any:
    return (
        sse_starlette.JSONServerSentEvent
        if module is sse_starlette.sse
        else module.JSONServerSentEvent
    )


@pytest.mark.parametrize("sep", [None, "\r\n", "\n", "\r"])
@pytest.mark.parametrize("make", ITEMS)
@asyncio_only
async def test_e4_an_item_has_their_bytes(make: Callable[[Any], Any], sep: str | None) -> None:
    separator = sep or "\r\n"
    expected = sse_starlette.event.ensure_bytes(make(sse_starlette.sse), separator)
    assert ours.ensure_bytes(make(ours), separator) == expected
    for in_thread in (False, True):
        bodies = []
        for module in (ours, sse_starlette.sse):
            item = make(module)
            content = [item] if in_thread else silent_end(item)
            connection = Connection()
            await connection.run(module.EventSourceResponse(content, sep=sep))
            bodies.append(connection.body)
        assert bodies == [expected, expected]


async def silent_end(*items: Any) -> AsyncIterator[Any]:
    for item in items:
        yield item


@pytest.mark.parametrize(
    "item", [{"bogus": 1}, {"retry": "1"}, {"id": 1}, {"data": "\ud800"}, {"event": 1}], ids=str
)
@both
@asyncio_only
async def test_e4_a_bad_item_ends_the_stream_after_what_came_before(module: Any, item: Any) -> None:
    cleaned_up = []

    async def content() -> AsyncIterator[Any]:
        try:
            yield "before"
            yield item
            raise AssertionError("went on")
        finally:
            await anyio.sleep(0.001)
            cleaned_up.append(True)

    connection = Connection()
    with pytest.raises((TypeError, UnicodeEncodeError)):
        await connection.run(module.EventSourceResponse(content()))
    assert connection.body == b"data: before\r\n\r\n"
    assert not connection.complete
    assert cleaned_up


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"headers": {"cache-control": "public", "X-A": "b", "connection": "close"}},
        {"headers": {"X-Accel-Buffering": "yes"}, "status_code": 202},
        {"media_type": "text/plain"},
    ],
)
@asyncio_only
async def test_e4_headers_are_theirs_and_go_out_at_once(options: Any) -> None:
    sent = []
    for module in (ours, sse_starlette.sse):
        connection = Connection()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run, module.EventSourceResponse(silent(), **options))
            await connection.until(lambda c=connection: c.started)
            connection.disconnect()
        sent.append(connection.messages[0])
    assert sent[0] == sent[1]


def test_e4_events_of_sserpent_are_events_too() -> None:
    assert ours.ensure_bytes(sserpent.ServerSentEvent(data=1), "\r\n") == b"data: 1\n\n"


# Pings


@pytest.mark.virtual_time
@pytest.mark.parametrize("sep", ["\r\n", "\n"])
async def test_e4_a_ping_is_a_comment_line_after_quiet_seconds(sep: str) -> None:
    async def content() -> AsyncIterator[str]:
        yield "a"
        await anyio.sleep(4)
        yield "b"
        await anyio.sleep(11)

    response = partial(EventSourceResponse, ping=5, sep=sep)
    connection = await run_and_end(lambda: response(content()), nothing)
    expected = f"data: a{sep}{sep}data: b{sep}{sep}: ping{sep}: ping{sep}"
    assert connection.body.decode() == expected


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "made", [{"comment": "me"}, b": me\r\n\r\n", ours.ServerSentEvent(comment="me")]
)
async def test_e4_a_ping_by_the_factory(made: Any) -> None:
    async def content() -> AsyncIterator[str]:
        await anyio.sleep(12)
        yield "a"

    options = {"ping": 5, "ping_message_factory": lambda: made}
    connection = await run_and_end(lambda: EventSourceResponse(content(), **options), nothing)
    assert connection.body == b": me\r\n\r\n" * 2 + b"data: a\r\n\r\n"


@pytest.mark.virtual_time
async def test_e4_a_factory_that_raises_ends_the_stream() -> None:
    options: Any = {"ping": 5, "ping_message_factory": lambda: 1 / 0}
    with pytest.raises(ZeroDivisionError):
        await run_and_end(lambda: EventSourceResponse(silent(), **options), nothing)


@pytest.mark.virtual_time
async def test_e4_no_ping_if_it_is_off() -> None:
    async def leave(connection: Connection) -> None:
        await anyio.sleep(100)
        connection.disconnect()

    connection = await run_and_end(lambda: EventSourceResponse(silent("a"), ping=0), leave)
    assert connection.body == b"data: a\r\n\r\n"


# Ends


@pytest.mark.virtual_time
async def test_e4_the_close_handler_has_the_message_and_the_background_runs() -> None:
    told: list[Any] = []

    async def closed(message: Any) -> None:
        told.append(message)

    async def leave(connection: Connection) -> None:
        await anyio.sleep(1)
        connection.disconnect()

    def response() -> EventSourceResponse:
        task = BackgroundTask(told.append, "background")
        return EventSourceResponse(silent(), client_close_handler_callable=closed, background=task)

    await run_and_end(response, leave)
    assert told == [{"type": "http.disconnect"}, "background"]


@pytest.mark.virtual_time
async def test_e4_a_client_that_does_not_read_is_a_send_timeout_error() -> None:
    done: list[Any] = []

    async def content() -> AsyncIterator[str]:
        try:
            while True:
                yield "a"
                await anyio.sleep(1)
        finally:
            done.append("cleanup")

    async def closed(message: Any) -> None:
        done.append(message)

    async def stall(connection: Connection) -> None:
        await anyio.sleep(3.5)
        connection.stall()

    def response() -> EventSourceResponse:
        task = BackgroundTask(done.append, "background")
        options: Any = {"client_close_handler_callable": closed, "background": task}
        return EventSourceResponse(content(), send_timeout=2, **options)

    with pytest.raises(ours.SendTimeoutError):
        await run_and_end(response, stall)
    assert done == ["cleanup"]


@pytest.mark.virtual_time
async def test_e4_a_data_sender_feeds_the_stream_and_ends_with_it() -> None:
    ended = []

    async def feed(channel: Any) -> None:
        try:
            async with channel:
                for number in range(3):
                    await channel.send({"data": number})
                    await anyio.sleep(1)
        finally:
            ended.append(True)

    def response() -> EventSourceResponse:
        send, receive = anyio.create_memory_object_stream[Any](1)
        return EventSourceResponse(receive, data_sender_callable=partial(feed, send))

    connection = await run_and_end(response, nothing)
    assert connection.body == b"data: 0\r\n\r\ndata: 1\r\n\r\ndata: 2\r\n\r\n"
    assert connection.complete
    assert ended


@pytest.mark.virtual_time
async def test_e4_a_data_sender_is_cancelled_when_the_client_leaves() -> None:
    ended = []

    async def feed() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    async def leave(connection: Connection) -> None:
        await anyio.sleep(1)
        connection.disconnect()

    await run_and_end(lambda: EventSourceResponse(silent(), data_sender_callable=feed), leave)
    assert ended


@pytest.mark.virtual_time
async def test_e4_a_data_sender_that_waits_for_room_is_cancelled_when_the_client_leaves() -> None:
    ends: list[Any] = []

    async def feed(channel: Any) -> None:
        try:
            async with channel:
                while True:
                    await channel.send("a")
        except BaseException as error:
            ends.append(type(error) is anyio.get_cancelled_exc_class())
            raise

    async def leave(connection: Connection) -> None:
        await anyio.sleep(1)
        connection.stall()
        await anyio.sleep(1)
        connection.disconnect()

    def response() -> EventSourceResponse:
        send, receive = anyio.create_memory_object_stream[Any](1)
        return EventSourceResponse(paced(receive), data_sender_callable=partial(feed, send), ping=0)

    async def paced(items: Any) -> AsyncIterator[Any]:
        async with items:
            async for item in items:
                yield item
                await anyio.sleep(0.3)

    await run_and_end(response, leave)
    assert ends == [True]


@pytest.mark.parametrize("limit", [0, 0.1])
@asyncio_only
@pytest.mark.virtual_time
async def test_e4_a_cleanup_that_outlives_its_time_does_not_hold_the_response(
    limit: float, caplog: pytest.LogCaptureFixture
) -> None:
    ends: list[str] = []

    async def content() -> AsyncIterator[str]:
        try:
            yield "a"
            await anyio.sleep_forever()
        finally:
            ends.append("cleanup")
            await anyio.sleep_forever()

    async def leave(connection: Connection) -> None:
        await anyio.sleep(1)
        connection.disconnect()

    await run_and_end(lambda: EventSourceResponse(content(), cleanup_timeout=limit), leave)
    assert ends == ["cleanup"]
    assert "did not end within cleanup_timeout" in caplog.text


@pytest.mark.virtual_time
async def test_e4_a_data_sender_that_raises_ends_the_stream_with_that() -> None:
    async def feed() -> None:
        await anyio.sleep(1)
        raise LookupError("no data")

    with pytest.raises(LookupError, match="no data"):
        await run_and_end(lambda: EventSourceResponse(silent(), data_sender_callable=feed), nothing)


@pytest.mark.virtual_time
async def test_e4_what_a_generator_raises_is_not_in_a_group() -> None:
    async def content() -> AsyncIterator[str]:
        yield "a"
        raise LookupError("no data")

    for sender in (None, anyio.sleep_forever):
        response = partial(EventSourceResponse, data_sender_callable=sender)
        with pytest.raises(LookupError, match="no data"):
            await run_and_end(lambda make=response: make(content()), nothing)


@pytest.mark.virtual_time
async def test_e4_should_exit_ends_open_streams_after_their_grace() -> None:
    ends: list[Any] = []

    async def content(event: anyio.Event) -> AsyncIterator[str]:
        yield "a"
        await event.wait()
        yield "bye"
        await anyio.sleep_forever()

    event = anyio.Event()
    plain, graceful = Connection(), Connection()

    async def open_stream(connection: Connection, response: Any) -> None:
        await connection.run(response)
        ends.append((connection, anyio.current_time()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(open_stream, plain, EventSourceResponse(silent("a")))
        response = EventSourceResponse(
            content(event), shutdown_event=event, shutdown_grace_period=5
        )
        tasks.start_soon(open_stream, graceful, response)
        await anyio.sleep(10)
        begin = anyio.current_time()
        # A thread may set it.
        thread = threading.Thread(target=setattr, args=(AppStatus, "should_exit", True))
        thread.start()
        thread.join()
    assert [each for each, _ in ends] == [plain, graceful]
    assert [round(at - begin) for _, at in ends] == [0, 5]
    assert plain.body == b"data: a\r\n\r\n"
    assert graceful.body == b"data: a\r\n\r\ndata: bye\r\n\r\n"
    assert not plain.complete
    assert not graceful.complete
    assert not ours._Exit._open


@pytest.mark.virtual_time
async def test_e4_streams_that_open_while_should_exit_is_set_end_at_once() -> None:
    AppStatus.should_exit = True
    connection = await run_and_end(lambda: EventSourceResponse(silent("a")), nothing)
    assert (connection.body, connection.complete) == (b"", True)


@pytest.mark.virtual_time
async def test_e4_one_with_a_grace_period_has_it_then_too() -> None:
    AppStatus.should_exit = True

    async def content(event: anyio.Event) -> AsyncIterator[str]:
        await event.wait()
        yield "bye"

    def response() -> EventSourceResponse:
        event = anyio.Event()
        return EventSourceResponse(content(event), shutdown_event=event, shutdown_grace_period=5)

    connection = await run_and_end(response, nothing)
    assert (connection.body, connection.complete) == (b"data: bye\r\n\r\n", True)


@asyncio_only
async def test_e4_head_has_the_headers_alone() -> None:
    connection = Connection(method="HEAD")
    await connection.run(EventSourceResponse(silent("a")))
    assert (connection.status, connection.body, connection.complete) == (200, b"", True)


def test_e4_no_limit_for_a_cleanup() -> None:
    assert EventSourceResponse(iter(()), cleanup_timeout=None).cleanup_timeout > 10**6


@pytest.mark.parametrize(
    "name", ["ping", "send_timeout", "cleanup_timeout", "shutdown_grace_period"]
)
@both
@asyncio_only
async def test_e4_a_time_may_be_infinite(module: Any, name: str) -> None:
    options: Any = {name: math.inf}
    response = module.EventSourceResponse(iter("a"), **options)
    connection = await run_and_end(lambda: response, nothing)
    assert (connection.body, connection.complete) == (b"data: a\r\n\r\n", True)


# On a server


@on("uvicorn")
def test_e4_a_server_sends_their_bytes(shared: Server) -> None:
    assert (
        fetch(shared, "/ours").partition("\r\n\r\n")[2]
        == fetch(shared, "/theirs").partition("\r\n\r\n")[2]
    )


@on("uvicorn")
def test_e4_a_client_that_leaves_is_told_to_the_handler(shared: Server) -> None:
    open_stream(shared, "/closing").close()
    until(lambda: "closed by http.disconnect" in shared.log)


def test_e4_a_shutdown_sets_the_event_and_waits_for_the_grace(serve: Callable[..., Server]) -> None:
    server = serve(uvicorn(APP))
    with open_stream(server, "/graceful") as connection:
        server.process.terminate()
        assert b"data: bye\r\n\r\n" in read_to_end(connection)
    server.process.wait(20)


@pytest.mark.skipif(sys.platform == "win32", reason="the application takes SIGUSR1")
def test_e4_without_the_drain_a_stream_goes_on_until_should_exit(
    serve: Callable[..., Server],
) -> None:
    server = serve(uvicorn(APP))
    with open_stream(server, "/undrained") as connection:
        server.process.terminate()
        until(lambda: "Waiting for connections to close" in server.log)
        # It looks for the end of its server four times a second.
        time.sleep(0.6)
        assert server.process.poll() is None
        os.kill(server.process.pid, signal.SIGUSR1)
        assert b": ping" not in read_to_end(connection)
    server.process.wait(20)
