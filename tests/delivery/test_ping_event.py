"""`ping_event`: a keep-alive of the route's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import fastapi.sse
import pytest

from asgi import Connection
from sserpent import EventSourceResponse, ServerSentEvent
from timelines import timeline

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


async def silent() -> AsyncIterator[int]:
    yield 0
    await anyio.sleep(100)


def raises(error: BaseException) -> Callable[[], Any]:
    def ping() -> Any:
        raise error

    return ping


async def async_ping() -> None:
    """An async function, by mistake."""


async def test_an_event_is_sent_in_place_of_the_comment() -> None:
    event = ServerSentEvent(event="ping", comment="here")
    sent = await timeline(silent, until=40, ping_event=event)
    assert sent[2:] == [(15, ": here\nevent: ping\n\n"), (30, ": here\nevent: ping\n\n")]


async def test_an_event_of_fastapi_too() -> None:
    sent = await timeline(silent, until=20, ping_event=fastapi.sse.ServerSentEvent(event="ping"))
    assert sent[2:] == [(15, "event: ping\n\n")]


async def test_a_function_is_called_for_each() -> None:
    numbers = iter(range(9))
    sent = await timeline(silent, until=40, ping_event=lambda: ServerSentEvent(data=next(numbers)))
    assert sent[2:] == [(15, "data: 0\n\n"), (30, "data: 1\n\n")]


async def test_ready_bytes_where_the_stream_is_framed() -> None:
    sent = await timeline(silent, until=40, ping_event=lambda: b": me\r\n", framed=True)
    assert sent[2:] == [(15, ": me\r\n"), (30, ": me\r\n")]


async def test_nothing_to_send_is_asked_again_an_interval_later() -> None:
    asked: list[bool] = []

    def nothing() -> bytes:
        asked.append(True)
        return b""

    await timeline(silent, until=40, ping_event=nothing, framed=True)
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("ping_event", "error", "message"),
    [
        (lambda: 1 / 0, ZeroDivisionError, "division"),
        (lambda: object(), Exception, "object"),
        (lambda: ServerSentEvent(id="a\nb"), ValueError, "id"),
        (
            raises(asyncio.CancelledError()),
            RuntimeError,
            "'ping_event' of .* raised CancelledError",
        ),
        (raises(GeneratorExit()), RuntimeError, "'ping_event' of .* raised GeneratorExit"),
        (raises(SystemExit("exits")), SystemExit, "exits"),
    ],
)
async def test_an_error_ends_the_stream(
    ping_event: Any, error: type[Exception], message: str
) -> None:
    cleaned_up = []

    async def content() -> AsyncIterator[int]:
        try:
            yield 0
            await anyio.sleep(100)
        finally:
            cleaned_up.append(True)

    connection = Connection()
    with pytest.raises(error, match=message):
        await connection.run(EventSourceResponse(content(), ping_event=ping_event))
    assert connection.body == b"data: 0\n\n"
    assert not connection.complete
    assert cleaned_up


async def test_a_class_has_a_method_a_function_or_an_event() -> None:
    class Method(EventSourceResponse):
        def ping_event(self) -> ServerSentEvent:
            return ServerSentEvent(event=f"after-{self.ping_interval:.0f}")

    class Function(EventSourceResponse):
        def ping_event() -> ServerSentEvent:  # type: ignore[misc]
            return ServerSentEvent(event="function")

    class Event(EventSourceResponse):
        ping_event = ServerSentEvent(event="event")

    for response_class, name in [
        (Method, "after-15"),
        (Function, "function"),
        (Event, "event"),
    ]:
        connection = Connection()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run, response_class(silent()))
            await anyio.sleep(20)
            connection.disconnect()
        assert connection.bodies[1:] == [f"event: {name}\n\n".encode()]


def test_an_async_function_is_refused_where_the_class_is_made() -> None:
    with pytest.raises(TypeError, match="'ping_event' must be a function that is not async"):
        type("Async", (EventSourceResponse,), {"ping_event": async_ping})
