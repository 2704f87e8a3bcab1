"""D7: a client that has left before its stream opens. `receive` says so, or raises, without ever
suspending, as real servers do whenever a client leaves while a dependency works. By a clock that
jumps, on asyncio and Trio."""

from __future__ import annotations

import asyncio
import inspect
import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import anyio
import pytest
from fastapi import Depends, FastAPI, Request
from starlette.applications import Starlette
from starlette.routing import Route

from asgi import WAYS_TO_LEAVE, Connection, Left
from servers import SERVERS, Server, commands, fetch, until, uvicorn
from sserpent import EventSourceResponse
from sserpent._shutdown import streams as shutdown
from sserpent.channels import Channels
from virtual_time import run_on_asyncio

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


ways = pytest.mark.parametrize("how", WAYS_TO_LEAVE)


class OnePlace(EventSourceResponse):
    max_streams = 1
    log: list[str]

    async def on_disconnect(self) -> None:
        self.log.append("told")


class App:
    """An application with every kind of stream, and what becomes of them."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.generators: list[Any] = []
        self.response_class = type("Response", (OnePlace,), {"log": self.log})
        self.channel = Channels().channel("rooms")
        self.app = FastAPI()
        response_class: Any = self.response_class

        async def session() -> AsyncIterator[None]:
            yield
            self.log.append("session closed")

        routes: dict[str, Any] = {
            "methods": ["GET", "POST"],
            "dependencies": [Depends(session)],
        }
        streams = {**routes, "response_class": response_class}

        @self.app.api_route("/async", **streams)
        async def yields() -> AsyncIterable[str]:
            async for item in self.entered():
                yield item

        @self.app.api_route("/reads", **streams)
        async def reads(request: Request) -> AsyncIterable[str]:
            async for item in self.entered():
                yield item + repr(await request.body())

        @self.app.api_route("/sync", **streams)
        def yields_sync() -> Iterable[str]:
            self.log.append("entered")
            yield "never"

        @self.app.api_route("/returned", **routes)
        async def returned() -> Any:
            return response_class(self.kept(self.entered()))

        @self.app.api_route("/returned-sync", **routes)
        async def returned_sync() -> Any:
            return response_class(self.kept(self.entered_sync()))

        @self.app.api_route("/subscribed", **routes)
        async def subscribed() -> Any:
            return self.channel.subscribe()

        async def plain(request: Request) -> Any:
            return response_class(self.kept(self.entered()))

        self.app.mount("/plain", Starlette(routes=[Route("/", plain, methods=["GET", "POST"])]))

    async def entered(self) -> AsyncIterator[str]:
        self.log.append("entered")
        yield "never"
        await anyio.sleep(10_000)

    def entered_sync(self) -> Iterator[str]:
        self.log.append("entered")
        yield "never"

    def kept(self, generator: Any) -> Any:
        self.generators.append(generator)
        return generator


async def seconds_of(app: Any, connection: Connection) -> float:
    begin = anyio.current_time()
    with anyio.fail_after(1_000):
        await connection.run(app)
    return anyio.current_time() - begin


PATHS = ["/async", "/reads", "/sync", "/returned", "/returned-sync", "/subscribed", "/plain/"]


@ways
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_d7_a_client_that_left_before_its_stream_opens_is_noticed_at_once(
    path: str, how: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        served = App()
        for _ in range(3):  # there is one place for all of them
            connection = Left(how, path=path, method=method)
            assert await seconds_of(served.app, connection) < 0.1
            assert not connection.messages or connection.status == 200
        assert "entered" not in served.log
        assert all(is_closed_unentered(each) for each in served.generators)
        if path != "/plain/":
            assert served.log.count("session closed") == 3
        if path != "/subscribed":
            assert served.log.count("told") == 3
    assert caplog.records == []


def is_closed_unentered(generator: Any) -> bool:
    if inspect.isgenerator(generator):
        return inspect.getgeneratorstate(generator) == inspect.GEN_CLOSED
    return generator.ag_frame is None


@ways
@pytest.mark.parametrize("open_delay", [0, None])
async def test_d7_whenever_the_headers_go_out(how: str, open_delay: float | None) -> None:
    content = App().entered()
    response = EventSourceResponse(content, open_delay=open_delay)
    assert await seconds_of(response, Left(how)) < 0.1
    assert is_closed_unentered(content)


async def test_d7_an_iterable_of_its_own_is_closed_within_its_time() -> None:
    log: list[str] = []

    class Content:
        def __aiter__(self) -> Content:
            return self

        async def __anext__(self) -> str:
            raise AssertionError

        async def aclose(self) -> None:
            log.append("closed")
            await anyio.sleep(100)

    response = EventSourceResponse(Content(), cleanup_timeout=3)
    assert await seconds_of(response, Left()) == pytest.approx(3)
    assert log == ["closed"]


async def test_d8_a_server_that_shuts_down_in_that_moment_is_not_held(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        content = App().entered()
        connection = Connection()
        response = EventSourceResponse(content)
        receive = connection.receive

        async def receive_and_shut_down() -> Any:
            shutdown._of_this_loop()._look(signalled=True)
            return await receive()

        connection.receive = receive_and_shut_down  # type: ignore[method-assign]
        assert await seconds_of(response, connection) < 0.1
        assert connection.status == 200
    assert caplog.records == []


async def test_d7_a_request_that_is_cancelled_in_that_moment_ends() -> None:
    content = App().entered()
    connection = Connection()
    with anyio.CancelScope() as scope:
        receive = connection.receive

        async def receive_and_cancel() -> Any:
            scope.cancel()
            return await receive()

        connection.receive = receive_and_cancel  # type: ignore[method-assign]
        assert await seconds_of(EventSourceResponse(content), connection) < 0.1
    assert is_closed_unentered(content)


def test_d7_a_task_that_somebody_cancels_before_its_first_turn_fails_its_stream() -> None:
    async def main() -> None:
        connection = Connection()

        async def receive() -> Any:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(10_000)

        connection.receive = receive  # type: ignore[method-assign]
        with pytest.raises(RuntimeError, match="was cancelled from within"):
            await seconds_of(EventSourceResponse(App().entered()), connection)

    run_on_asyncio(main)


# On real servers


@pytest.mark.parametrize(
    "name", ["uvicorn", "uvicorn-asyncio-h11", "hypercorn", "hypercorn-trio", "granian"]
)
def test_d7_on_real_servers(serve: Callable[..., Server], name: str) -> None:
    server = serve(SERVERS[name])
    for path in ("/left", "/left-sync"):
        client = server.connect()
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        until(lambda: "working" in server.log)
        client.close()
        until(lambda: "session closed" in server.log, timeout=10)
        assert "cleanup_timeout" not in server.log
        assert "Traceback" not in server.log
        server.begin_log()
    assert "answered" in fetch(server, "/sync-route")


# Where `receive` does not say it


DEAF = {
    **commands("deaf_app:app"),
    "uvicorn-asyncio": uvicorn("deaf_app:app", "--loop", "asyncio", "--http", "httptools"),
}
GET = "GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("path", ["/idle", "/ticking"])
@pytest.mark.parametrize(
    "name", ["uvicorn", "uvicorn-asyncio", "uvicorn-asyncio-h11", "hypercorn", "hypercorn-trio"]
)
def test_d7_a_client_is_noticed_behind_a_receive_that_says_nothing(
    serve: Callable[..., Server], name: str, path: str
) -> None:
    server = serve(DEAF[name])
    client = server.connect()
    client.sendall(GET.format(f"{path}?deaf").encode())
    until(lambda: b"data: " in client.recv(65_536))
    time.sleep(1)  # a server forgets its connections: each is found within 0.25 s
    client.close()
    until(lambda: "told" in server.log and "closed" in server.log)
    assert "Traceback" not in server.log


@pytest.mark.parametrize("path", ["/idle", "/ticking"])
@pytest.mark.parametrize("name", ["uvicorn", "uvicorn-asyncio"])
def test_d7_a_client_is_noticed_that_has_sent_another_request_behind_its_stream(
    serve: Callable[..., Server], name: str, path: str
) -> None:
    """uvicorn tells only the newest of a connection's requests that it is gone. It reads no further
    meanwhile, so that it notices an idle one by its keep-alives."""
    server = serve(DEAF[name], SSERPENT_PING="0.2")
    client = server.connect()
    client.sendall(2 * GET.format(path).encode())
    until(lambda: b"data: " in client.recv(65_536))
    client.close()
    until(lambda: "told" in server.log and "closed" in server.log)
    assert "Traceback" not in server.log


@pytest.mark.parametrize("name", ["uvicorn", "uvicorn-asyncio"])
def test_d8_another_request_behind_a_stream_does_not_hold_the_exit(
    serve: Callable[..., Server], name: str
) -> None:
    server = serve(DEAF[name])
    with server.connect() as client:
        client.sendall(2 * GET.format("/idle").encode())
        until(lambda: b"data: " in client.recv(65_536))
        server.process.terminate()
        until(lambda: server.process.poll() is not None, timeout=15)


FIRST_TO_LEAVE = """
import asyncio, sys
from collections.abc import AsyncIterator
from fastapi import FastAPI
from sserpent import EventSourceResponse

app = FastAPI()

@app.get("/", response_class=EventSourceResponse)
async def stream() -> AsyncIterator[int]:
    yield 1
    await asyncio.sleep(100)

async def receive():
    return {"type": "http.disconnect"}

async def send(message):
    pass

scope = {"type": "http", "asgi": {"version": "3.0"}, "method": "GET", "path": "/"}
scope |= {"raw_path": b"/", "root_path": "", "query_string": b"", "headers": []}
before = set(sys.modules)
asyncio.run(app(scope, receive, send))
print(*set(sys.modules) - before)
"""


def test_d7_the_first_client_that_leaves_has_nothing_imported() -> None:
    """In the event loop, in which nothing else would run meanwhile."""
    command = [sys.executable, "-c", FIRST_TO_LEAVE]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout.split()) == (0, []), ran.stderr
