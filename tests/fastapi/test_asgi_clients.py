"""D12 and D13: other ways to be called than by a server over HTTP/1.1."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse
from starlette.types import Receive, Scope, Send

from asgi import Connection, Left
from sserpent import EventSourceResponse


def build() -> FastAPI:
    app = FastAPI()

    @app.get("/async", response_class=EventSourceResponse)
    async def route() -> AsyncIterator[int]:
        for number in range(100):
            yield number
            if number % 10 == 0:
                await anyio.lowlevel.checkpoint()

    @app.get("/sync", response_class=EventSourceResponse)
    def route_sync() -> Iterator[int]:
        yield from range(100)

    @app.get("/endless", response_class=EventSourceResponse)
    async def endless() -> AsyncIterator[int]:
        number = 0
        while True:
            yield number
            number += 1
            await anyio.sleep(0.001)

    return app


def numbers(text: str) -> list[int]:
    return [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: ")]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("path", ["/async", "/sync"])
def test_d13_the_test_client(backend: Any, path: str) -> None:
    response = TestClient(build(), backend=backend).get(path)
    assert numbers(response.text) == list(range(100))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_d13_the_test_client_reads_an_endless_stream(backend: Any) -> None:
    client = TestClient(build(), backend=backend)
    with client.stream("GET", "/endless") as response:
        lines = response.iter_lines()
        assert [next(lines) for _ in range(3)] == ["data: 0", "", "data: 1"]


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/async", "/sync"])
async def test_d13_the_asgi_transport_of_httpx(path: str, anyio_backend: str) -> None:
    transport = httpx.ASGITransport(build())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.get(path)
    assert numbers(response.text) == list(range(100))


@pytest.mark.anyio
async def test_d13_a_base_http_middleware_passes_a_disconnect_on(anyio_backend: str) -> None:
    from starlette.middleware.base import BaseHTTPMiddleware

    closed = anyio.Event()

    async def content() -> AsyncIterator[int]:
        try:
            yield 1
            await anyio.sleep_forever()
        finally:
            closed.set()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await EventSourceResponse(content())(scope, receive, send)

    async def dispatch(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    connection = Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run, BaseHTTPMiddleware(app, dispatch))
        await connection.until(lambda: connection.bodies)
        connection.disconnect()
        with anyio.fail_after(20):
            await closed.wait()


@pytest.mark.anyio
@pytest.mark.parametrize("when", ["before", "held"])
@pytest.mark.parametrize("open_delay", [0.25, None])
async def test_d13_a_base_http_middleware_has_a_response_of_a_client_that_left_early(
    when: str, open_delay: float | None, anyio_backend: str
) -> None:
    """It raises "No response returned" where the application says nothing."""
    from starlette.middleware.base import BaseHTTPMiddleware

    connection = Left() if when == "before" else Connection()
    seen: list[int] = []
    told: list[str] = []

    async def content() -> AsyncIterator[int]:
        connection.disconnect()
        await anyio.sleep_forever()
        yield 1

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = EventSourceResponse(
            content(), open_delay=open_delay, on_disconnect=lambda: told.append("told")
        )
        await response(scope, receive, send)

    async def dispatch(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        seen.append(response.status_code)
        return response

    with anyio.fail_after(20):
        await connection.run(BaseHTTPMiddleware(app, dispatch))
    assert seen == [200]
    assert told == ["told"]


@pytest.mark.anyio
@pytest.mark.virtual_time
@pytest.mark.parametrize("cleanup_timeout", [0, 30])
async def test_d13_headers_that_are_not_taken_do_not_hold_a_request_without_client(
    cleanup_timeout: float,
) -> None:
    connection = Connection()

    async def content() -> AsyncIterator[int]:
        connection.disconnect()
        await anyio.sleep_forever()
        yield 1

    async def never(message: Any) -> None:
        await anyio.sleep_forever()

    response = EventSourceResponse(content(), open_delay=None, cleanup_timeout=cleanup_timeout)
    begin = anyio.current_time()
    with anyio.fail_after(60):
        await response(connection.scope, connection.receive, never)
    assert anyio.current_time() - begin <= 1.1


def test_d12_a_websocket_is_denied_as_with_starlettes_response() -> None:
    async def content() -> AsyncIterator[str]:
        yield "no sockets here"

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await EventSourceResponse(content(), status_code=403)(scope, receive, send)

    with (
        pytest.raises(WebSocketDenialResponse) as denied,
        TestClient(app).websocket_connect("/"),
    ):
        pass
    assert denied.value.status_code == 403
    assert denied.value.text == 'data: "no sockets here"\n\n'


@pytest.mark.anyio
async def test_d12_head_closes_the_generator_unstarted(anyio_backend: str) -> None:
    started: list[str] = []

    async def content() -> AsyncIterator[str]:
        started.append("started")
        yield "a"

    connection = Connection(method="HEAD")
    await connection.run(EventSourceResponse(content()))
    assert started == []
    assert connection.complete
    assert connection.body == b""
    assert "connection" not in connection.headers
