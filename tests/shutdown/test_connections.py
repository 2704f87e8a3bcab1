"""A stream's connection, closed and aborted where the server keeps it."""

import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import anyio
import httpx2
import psutil
import pytest
from fastapi import FastAPI

from asgi import Connection
from servers import Server, on, open_stream, until
from sserpent import EventSourceResponse, _shutdown
from sserpent._shutdown.connections import Candidate
from sserpent.testing import connect
from sserpent.testing.transport import AnnouncedServer

# What ends streams is no part of the core.
pytestmark = [pytest.mark.once, pytest.mark.anyio]

APP = "connection_app:app"
LARGE = 20_000_000


def read_until_it_is_closed(connection: socket.socket) -> tuple[int, bytes, str]:
    """Returns how many bytes came, the last of them, and how the connection was closed."""
    length, last = 0, b""
    while True:
        try:
            chunk = connection.recv(1 << 20)
        except ConnectionResetError:
            return length, last, "reset"
        if not chunk:
            return length, last, "closed"
        length += len(chunk)
        last = (last + chunk)[-20:]


@pytest.mark.parametrize("copy", ["same", "copied", "headers-copied"])
@on("uvicorn", "uvicorn-asyncio-h11", "hypercorn", "hypercorn-uvloop", "hypercorn-trio")
def test_a_closed_connection_delivers_what_was_written_and_not_the_end(
    shared: Server, copy: str
) -> None:
    with open_stream(shared, f"/close/{copy}") as stream:
        length, last, how = read_until_it_is_closed(stream)
    assert length > LARGE - 65_536, "more is missing than was read with the first event"
    assert last.endswith(b"xxx\r\n"), "the last chunk would be a 0"
    assert how == "closed"
    until(lambda: "close True" in shared.log)
    until(lambda: "ended" in shared.log)
    assert "Traceback" not in shared.log, shared.log


ABORTING = [
    *("uvicorn", "uvicorn-asyncio-h11"),
    *("hypercorn", "hypercorn-uvloop", "hypercorn-trio"),
    *("granian", "granian-uvloop"),
]


@pytest.mark.parametrize("copy", ["same", "copied", "headers-copied"])
@on(*ABORTING)
def test_an_aborted_connection_is_gone_with_all_that_was_not_read(
    shared: Server, copy: str
) -> None:
    with open_stream(shared, f"/abort/{copy}") as stream:
        until(lambda: "abort True" in shared.log)
        until(lambda: "left" in shared.log)
        process = process_of(shared)
        until(lambda: not connections(process, shared.port))
        _, last, how = read_until_it_is_closed(stream)
    assert how == "reset"
    assert not last.endswith(b"0\r\n\r\n")
    until(lambda: "ended" in shared.log)
    assert "Traceback" not in shared.log, shared.log


@on(*ABORTING)
def test_an_aborted_connection_gives_its_memory_back(shared: Server) -> None:
    clients: list[socket.socket] = []
    held: list[int] = []
    for count in range(1, 13):
        clients.append(open_stream(shared, "/abort/same"))
        until(lambda count=count: shared.log.count("left") == count)
        held.append(process_of(shared).memory_info().rss)
    # The allocator keeps a few of them, and the last may still be on its way there.
    until(lambda: process_of(shared).memory_info().rss - held[0] < 5 * LARGE)
    until(lambda: shared.log.count("ended") == 12)
    for client in clients:
        client.close()


def process_of(server: Server) -> psutil.Process:
    """The worker's."""
    return psutil.Process(int(re.findall(r"pid (\d+)", server.log)[0]))


def connections(process: psutil.Process, port: int) -> list[object]:
    """Those of the server that it has not closed, whatever the system still keeps."""
    list_them = getattr(process, "net_connections", None) or process.connections
    return [each for each in list_them("tcp") if each.laddr.port == port and each.raddr]


@on("granian")
def test_granian_has_no_connection_to_close(shared: Server) -> None:
    """There an application that returns without the end of the body has the same effect."""
    with open_stream(shared, "/close/same"):
        until(lambda: "close False" in shared.log)
    until(lambda: "ended" in shared.log)


class Stream:
    def shut_down(self) -> None:
        pass


async def test_a_connection_that_nobody_knows_of_is_not_found() -> None:
    stream, scope = Stream(), Connection().scope
    streams = _shutdown.opened(stream, scope)
    for each in (scope, {}, {"client": None}, {"client": ("h", "x"), "server": ("h", 1)}):
        assert streams.close_connection(each) is False
        assert streams.abort_connection(each) is False
    _shutdown.closed(stream, streams)


def hidden(app: Any) -> Any:
    """A middleware after which no connection is found: each request has the address of a proxy."""

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope = {**scope, "headers": [*scope["headers"]], "client": ("10.0.0.1", 0)}
        await app(scope, receive, send)

    return serve


@pytest.mark.virtual_time
@pytest.mark.parametrize("wrap", [lambda app: app, hidden], ids=["found", "not found"])
async def test_a_shutdown_with_many_streams_looks_for_all_connections_at_once(
    wrap: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stream looks for its own connection, to cut it: one look at a time for all of them."""
    looked_at = 0
    requests = AnnouncedServer.requests

    def counted(server: AnnouncedServer) -> Iterator[Candidate]:
        nonlocal looked_at
        for each in requests(server):
            looked_at += 1
            yield each

    async def content() -> AsyncIterator[str]:
        yield "a"
        await anyio.sleep_forever()

    monkeypatch.setattr(AnnouncedServer, "requests", counted)
    app = FastAPI()
    app.get("/", response_class=EventSourceResponse)(content)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(connect(wrap(app)))
        streams = [await stack.enter_async_context(client.events("/")) for _ in range(100)]
        for events in streams:
            await events.next()
        looked_at = 0
        await client.shut_down()
        for events in streams:
            with pytest.raises(httpx2.RemoteProtocolError):
                await events.next()
    assert looked_at <= 10 * len(streams)


@pytest.mark.virtual_time
async def test_a_server_that_cannot_be_asked_costs_no_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def is_exiting(server: AnnouncedServer) -> bool:
        raise AttributeError("of a later release")

    async def content() -> AsyncIterator[str]:
        yield "a"
        await anyio.sleep(2)
        yield "b"

    monkeypatch.setattr(AnnouncedServer, "is_exiting", is_exiting)
    app = FastAPI()
    app.get("/", response_class=EventSourceResponse)(content)
    async with connect(app) as client, client.events("/") as events:
        assert [(await events.next()).data for _ in range(2)] == ['"a"', '"b"']
