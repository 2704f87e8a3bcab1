"""A server that has stopped is freed, and its event loop with it."""

import asyncio
import gc
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any
from weakref import ref

import hypercorn.trio
import pytest
import trio
import uvicorn
from fastapi import FastAPI
from hypercorn.config import Config

import sserpent
from servers import free_port, until
from sserpent import EventSourceResponse
from sserpent._shutdown import streams

# What ends streams is no part of the core.
pytestmark = pytest.mark.once

app = FastAPI()


@app.get("/idle", response_class=EventSourceResponse)
async def idle() -> AsyncIterator[str]:
    event = sserpent.shutdown_event()
    yield "first"
    await event.wait()


def open_stream(port: int) -> socket.socket:
    connection = until(lambda: connect(port))
    connection.sendall(b"GET /idle HTTP/1.1\r\nHost: localhost\r\n\r\n")
    received = b""
    while b"data: " not in received:
        received += connection.recv(65536)
    return connection


def connect(port: int) -> socket.socket | None:
    try:
        return socket.create_connection(("127.0.0.1", port), timeout=20)
    except OSError:
        return None


def serve_with_uvicorn(port: int, cut: bool, loop: str) -> list[Any]:
    server = uvicorn.Server(uvicorn.Config(app, port=port, loop=loop, log_level="warning"))
    references: list[Any] = [ref(server)]

    async def serve() -> None:
        references.append(ref(asyncio.get_running_loop()))
        await server.serve()

    def run() -> None:
        factory = server.config.get_loop_factory()
        new_loop = factory() if factory else asyncio.new_event_loop()
        new_loop.run_until_complete(serve())
        new_loop.run_until_complete(new_loop.shutdown_asyncgens())
        new_loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    stream = open_stream(port)
    if not cut:
        stream.close()
        until(lambda: not server.server_state.connections)
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()
    stream.close()
    return references


def serve_with_hypercorn_on_trio(port: int, cut: bool) -> list[Any]:
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.errorlog = None
    config.graceful_timeout = 1  # it waits for all of that
    references: list[Any] = []
    tokens: list[Any] = []
    stop: Any = None

    async def serve() -> None:
        nonlocal stop
        stop = trio.Event()
        token = trio.lowlevel.current_trio_token()
        references.append(ref(token))
        tokens.append(token)
        await hypercorn.trio.serve(app, config, shutdown_trigger=stop.wait)

    thread = threading.Thread(target=lambda: trio.run(serve))
    thread.start()
    stream = open_stream(port)
    if not cut:
        stream.close()
    tokens.pop().run_sync_soon(stop.set)
    thread.join(20)
    assert not thread.is_alive()
    stream.close()
    return references


@pytest.mark.parametrize("cut", [False, True], ids=["closed", "cut"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_stopped_uvicorn_is_freed(cut: bool, loop: str) -> None:
    references = [each for _ in range(2) for each in serve_with_uvicorn(free_port(), cut, loop)]
    gc.collect()
    assert [each() for each in references] == [None] * 4


@pytest.mark.parametrize("cut", [False, True], ids=["closed", "cut"])
def test_an_event_loop_of_trio_is_freed(cut: bool) -> None:
    references = [each for _ in range(2) for each in serve_with_hypercorn_on_trio(free_port(), cut)]
    gc.collect()
    assert [each() for each in references] == [None] * 2


def test_an_event_loop_that_was_stopped_with_a_stream_is_forgotten_when_the_next_one_opens() -> (
    None
):
    class Stream:
        def shut_down(self) -> None:
            raise AssertionError("its event loop has ended")

    async def open_one() -> None:
        streams.opened(Stream(), {})

    for _ in range(3):
        asyncio.run(open_one())
        gc.collect()
    assert len(streams._busy) == 1
