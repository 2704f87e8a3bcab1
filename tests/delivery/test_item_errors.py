"""D6, D9: an item that cannot be encoded and the cleanup after it; errors that come too late for a
response of their own; sends that stall where nothing is streamed. By a clock that jumps."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest
from fastapi import FastAPI, HTTPException
from starlette.exceptions import HTTPException as StarletteHTTPException

from asgi import Connection
from event_loops import asyncio_only
from sserpent import EventSourceResponse

pytestmark = pytest.mark.anyio


async def refused(
    content: Callable[[], Any], expected: type[BaseException], **options: Any
) -> tuple[BaseException, float, Connection]:
    """Returns what a stream raised, when, and what it sent."""
    connection = Connection()
    begin = anyio.current_time()
    with anyio.fail_after(1_000), pytest.raises(expected) as raised:
        await connection.run(EventSourceResponse(content(), **options))
    return raised.value, anyio.current_time() - begin, connection


def causes(error: BaseException | None) -> list[type[BaseException]]:
    found: list[type[BaseException]] = []
    while error is not None:
        found.append(type(error))
        error = error.__cause__
    return found


@pytest.mark.virtual_time
@pytest.mark.parametrize("before", [0, 1])
async def test_d6_e8_the_cleanup_after_an_item_that_cannot_be_encoded_runs_to_its_end(
    before: int,
) -> None:
    log: list[str] = []

    async def content() -> AsyncIterator[Any]:
        try:
            for _ in range(before):
                yield "fine"
            yield threading.Lock()
        finally:
            await anyio.sleep(2)
            log.append("closed")

    error, seconds, connection = await refused(content, ValueError, cleanup_timeout=3)
    assert log == ["closed"]
    assert seconds == pytest.approx(2, abs=0.1)
    assert connection.data == ['"fine"'] * before
    assert connection.started is bool(before), "an error before the headers is a real response"
    assert not connection.complete
    assert causes(error)[0] is ValueError


@pytest.mark.virtual_time
async def test_d6_e8_that_cleanup_has_its_time_and_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def content() -> AsyncIterator[Any]:
        try:
            yield "fine"
            yield threading.Lock()
        finally:
            await anyio.sleep(500)

    error, seconds, connection = await refused(content, ValueError, cleanup_timeout=3)
    assert seconds == pytest.approx(3, abs=0.1)
    assert asyncio.CancelledError not in causes(error)
    assert connection.data == ['"fine"']
    assert "did not end within cleanup_timeout (3 s)" in caplog.text


@pytest.mark.virtual_time
@pytest.mark.parametrize("cause", [None, KeyError])
async def test_d6_e8_a_cleanup_that_fails_too_is_told_with_the_first_error(
    cause: type[Exception] | None,
) -> None:
    async def content() -> AsyncIterator[Any]:
        try:
            yield threading.Lock()
        finally:
            await anyio.sleep(1)
            raise LookupError("in the cleanup") from (cause and cause())

    error, _, _ = await refused(content, LookupError)
    assert causes(error)[:1] == [LookupError]
    assert ValueError in causes(error)
    assert cause is None or cause in causes(error)


async def test_d6_a_sync_generators_too() -> None:
    """In real time: it has a thread."""
    log: list[str] = []

    def fails() -> Iterator[Any]:
        try:
            yield threading.Lock()
        finally:
            raise LookupError("in the cleanup")

    def hangs() -> Iterator[Any]:
        try:
            yield threading.Lock()
        finally:
            go_on.wait(20)
            log.append("closed")

    go_on = threading.Event()
    error, _, _ = await refused(fails, LookupError)
    assert ValueError in causes(error)
    begin = time.monotonic()
    await refused(hangs, ValueError, cleanup_timeout=0.2)
    assert time.monotonic() - begin < 10
    go_on.set()


@pytest.mark.virtual_time
async def test_d6_an_http_exception_after_the_headers_says_what_to_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = FastAPI()

    @app.get("/late", response_class=EventSourceResponse)
    async def late() -> AsyncIterator[str]:
        await anyio.sleep(1)
        raise HTTPException(403)
        yield "never"

    @app.get("/after", response_class=EventSourceResponse)
    async def after() -> AsyncIterator[str]:
        yield "first"
        raise StarletteHTTPException(403)

    @app.get("/early", response_class=EventSourceResponse)
    async def early() -> AsyncIterator[str]:
        raise HTTPException(403)
        yield "never"

    for path, name in (("/late", "late"), ("/after", "after")):
        connection = Connection(path)
        with pytest.raises(RuntimeError, match=r"HTTPException\(403\)") as raised:
            await connection.run(app)
        text = str(raised.value)
        assert name in text
        assert "open_delay (0.25 s)" in text
        assert "dependency" in text
        assert StarletteHTTPException in {*causes(raised.value)} | {
            each.__mro__[1] for each in causes(raised.value)
        }
        assert not connection.complete
    connection = Connection("/early")
    await connection.run(app)
    assert connection.status == 403


# HEAD


async def never() -> AsyncIterator[str]:
    raise AssertionError("HEAD never starts the generator")
    yield "never"


@pytest.mark.virtual_time
async def test_d9_head_is_bounded_by_send_timeout(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    with caplog.at_level(logging.WARNING):
        connection = Connection(method="HEAD")
        connection.stall()
        content = never()
        response = EventSourceResponse(
            content, send_timeout=5, on_disconnect=lambda: told.append("told")
        )
        begin = anyio.current_time()
        await connection.run(response)
        assert anyio.current_time() - begin == pytest.approx(5, abs=0.1)
        assert content.ag_frame is None  # type: ignore[attr-defined]
    assert "has not read for send_timeout (5 s) and is dropped" in caplog.text
    assert told == []


@pytest.mark.virtual_time
async def test_d12_head_is_whole() -> None:
    connection = Connection(method="HEAD")
    await connection.run(EventSourceResponse(never()))
    assert [message["type"] for message in connection.messages] == [
        "http.response.start",
        "http.response.body",
    ]
    assert connection.complete
    assert connection.body == b""


# The last send


@asyncio_only
@pytest.mark.virtual_time
async def test_d7_a_last_send_that_has_stalled_for_long_is_given_up_when_the_client_leaves() -> (
    None
):
    for stalled_for, more in ((10, 0), (0.4, 0.6)):
        connection = Connection()

        async def finite(connection: Connection = connection) -> AsyncIterator[str]:
            yield "a"
            await anyio.sleep(1)
            connection.stall()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run, EventSourceResponse(finite()))
            await anyio.sleep(1 + stalled_for)
            begin = anyio.current_time()
            connection.disconnect()
        assert anyio.current_time() - begin == pytest.approx(more, abs=0.01)


# What says that the client has gone


class Odd(Exception):
    """No OSError."""


class ServerConnection:
    """As a server's object that has a transport, and writes to it for an application."""

    def __init__(self, name: str, is_closing: bool) -> None:
        setattr(self, name, self)
        self._is_closing = is_closing

    def is_closing(self) -> bool:
        return self._is_closing

    async def send(self, message: Any) -> None:
        raise Odd


@pytest.mark.virtual_time
@pytest.mark.parametrize("name", ["transport", "writer"])
@pytest.mark.parametrize("is_closing", [True, False])
async def test_d7_whatever_a_closed_connection_raises_is_a_disconnect(
    name: str, is_closing: bool
) -> None:
    told: list[str] = []

    async def content() -> AsyncIterator[str]:
        yield "a"
        await anyio.sleep(10_000)

    connection = Connection()
    server = ServerConnection(name, is_closing)

    async def send(message: Any) -> None:
        await server.send(message)

    connection.send = send  # type: ignore[method-assign]
    response = EventSourceResponse(content(), on_disconnect=lambda: told.append("told"))
    if is_closing:
        await connection.run(response)
    else:
        with pytest.raises(Odd):
            await connection.run(response)
    assert told == (["told"] if is_closing else [])


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "error", [anyio.BrokenResourceError, anyio.ClosedResourceError, BrokenPipeError]
)
async def test_d7_a_broken_stream_of_anyios_is_a_disconnect(error: type[Exception]) -> None:
    told: list[str] = []
    connection = Connection()

    async def send(message: Any) -> None:
        raise error

    connection.send = send  # type: ignore[method-assign]
    response = EventSourceResponse(never_ends(), on_disconnect=lambda: told.append("told"))
    await connection.run(response)
    assert told == ["told"]


@pytest.mark.virtual_time
@pytest.mark.parametrize("also", [None, LookupError])
async def test_d7_a_disconnect_may_come_in_a_group(also: type[Exception] | None) -> None:
    told: list[str] = []
    connection = Connection()

    async def fail(error: type[Exception]) -> None:
        raise error

    async def send(message: Any) -> None:
        async with anyio.create_task_group() as tasks:
            for each in (BrokenPipeError, also):
                if each is not None:
                    tasks.start_soon(fail, each)

    connection.send = send  # type: ignore[method-assign]
    response = EventSourceResponse(never_ends(), on_disconnect=lambda: told.append("told"))
    if also is None:
        await connection.run(response)
        assert told == ["told"]
    else:
        with pytest.raises(Exception, match=r"Exceptions from|errors in a"):
            await connection.run(response)
        assert told == []


async def never_ends() -> AsyncIterator[str]:
    yield "a"
    await anyio.sleep(10_000)
