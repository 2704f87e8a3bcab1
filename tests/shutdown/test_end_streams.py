"""`end_streams()` ends what is open, as a shutdown does, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from typing import Any

import anyio
import httpx
import pytest
import uvicorn

import sserpent
from asgi import Connection
from servers import free_port, give_back, until
from sserpent import EventSourceResponse, _shutdown
from sserpent.channels import Channels

pytestmark = pytest.mark.anyio


async def endless() -> AsyncIterator[str]:
    yield "a"
    await anyio.sleep_forever()


async def polite() -> AsyncIterator[str]:
    yield "a"
    await sserpent.shutdown_event().wait()
    await anyio.sleep(1)
    yield "bye"


class Client(Connection):
    def __init__(self) -> None:
        super().__init__()
        self.returned = anyio.Event()

    async def run(self, app: Any) -> None:
        await super().run(app)
        self.returned.set()


async def opened(tasks: Any, response: EventSourceResponse) -> Client:
    """Opens a stream, and returns when its first event has come."""
    connection = Client()
    tasks.start_soon(connection.run, response)
    await connection.until(lambda: connection.data)
    return connection


@pytest.mark.virtual_time
async def test_e5_without_a_stream_it_does_nothing() -> None:
    assert sserpent.end_streams() is None  # type: ignore[func-returns-value]
    sserpent.end_streams()
    async with anyio.create_task_group() as tasks:
        connection = await opened(tasks, EventSourceResponse(endless()))
        await anyio.sleep(1)
        assert not connection.returned.is_set()
        connection.disconnect()


@pytest.mark.virtual_time
async def test_e5_open_streams_end_as_at_a_shutdown_and_later_ones_stream_on() -> None:
    with anyio.fail_after(1_000):
        async with anyio.create_task_group() as tasks:
            first = await opened(tasks, EventSourceResponse(endless()))
            sserpent.end_streams()
            later = await opened(tasks, EventSourceResponse(polite(), shutdown_grace=5))
            await first.returned.wait()
            assert not first.complete
            await anyio.sleep(100)
            latest = await opened(tasks, EventSourceResponse(polite(), shutdown_grace=5))
            assert not later.returned.is_set()
            sserpent.end_streams()
            for each in (later, latest):
                await each.returned.wait()
                assert (each.data, each.complete) == (['"a"', '"bye"'], True)


@pytest.mark.virtual_time
async def test_e5_streams_count_as_open_until_they_have_ended() -> None:
    """So that the clients of many come back spread over a longer time."""
    with anyio.fail_after(1_000):
        async with anyio.create_task_group() as tasks:
            options = {"shutdown_grace": 5}
            clients = [await opened(tasks, EventSourceResponse(polite(), **options)) for _ in "ab"]
            sserpent.end_streams()
            later = await opened(tasks, EventSourceResponse(endless()))
            assert _shutdown.count_open() == 3
            for each in clients:
                await each.returned.wait()
            assert _shutdown.count_open() == 1
            later.disconnect()
            await later.returned.wait()
            assert _shutdown.count_open() == 0


@pytest.mark.virtual_time
async def test_e5_one_that_cannot_be_told_keeps_no_other_from_ending(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Odd:
        def shut_down(self) -> None:
            raise LookupError("on purpose")

    odd = Odd()
    with anyio.fail_after(1_000):
        async with anyio.create_task_group() as tasks:
            clients = [await opened(tasks, EventSourceResponse(endless())) for _ in range(20)]
            streams = _shutdown.opened(odd, clients[0].scope)
            sserpent.end_streams()
            for each in clients:
                await each.returned.wait()
            _shutdown.closed(odd, streams)
    [record] = caplog.records
    assert record.exc_info is not None


@pytest.mark.virtual_time
async def test_e5_a_stream_that_opens_in_the_same_turn_is_a_later_one() -> None:
    async def finite() -> AsyncIterator[str]:
        yield "a"
        await anyio.sleep(10)
        yield "b"

    with anyio.fail_after(1_000):
        async with anyio.create_task_group() as tasks:
            first = await opened(tasks, EventSourceResponse(endless()))
            sserpent.end_streams()
            second = Client()
            await second.run(EventSourceResponse(finite()))
            assert (second.data, second.complete) == (['"a"', '"b"'], True)
            await first.returned.wait()
            assert not first.complete


@pytest.mark.virtual_time
async def test_e5_runs_end_too() -> None:
    with anyio.fail_after(1_000):
        async with Channels() as channels, anyio.create_task_group() as tasks:
            runs = channels.runs("answers", str)
            answer = await runs.start(endless())
            follower = await opened(tasks, answer.follow())
            sserpent.end_streams()
            status = await answer.wait()
            assert (status.state, status.reason) == ("stopped", "shutdown")
            await follower.returned.wait()
            after = await runs.start(endless())
            await anyio.sleep(100)
            assert (await runs.status(after.id)).state == "running"
            await after.stop()


def test_e5_it_ends_the_streams_of_every_event_loop_from_any_thread() -> None:
    open_in: list[str] = []
    ended: list[str] = []

    def serve(backend: str) -> None:
        async def main() -> None:
            async with anyio.create_task_group() as tasks:
                connection = await opened(tasks, EventSourceResponse(endless()))
                open_in.append(backend)
                await connection.returned.wait()
                ended.append(backend)

        anyio.run(main, backend=backend)

    threads = [threading.Thread(target=serve, args=(each,)) for each in ("asyncio", "trio")]
    for thread in threads:
        thread.start()
    while len(open_in) < 2:
        threads[0].join(0.01)
    sserpent.end_streams()
    for thread in threads:
        thread.join(20)
    assert sorted(ended) == ["asyncio", "trio"]


@contextmanager
def embedded(app: Any) -> Iterator[int]:
    """Serves an application with uvicorn in a thread, and returns its port."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield port
    finally:
        server.should_exit = True
        thread.join(30)
        give_back(port)
    assert not thread.is_alive()


def test_e5_a_server_that_is_embedded_in_a_thread_goes_on_after_it() -> None:
    async def serve(scope: Any, receive: Any, send: Any) -> None:
        await EventSourceResponse(endless())(scope, receive, send)

    with embedded(serve) as port:
        url = f"http://127.0.0.1:{port}/"
        with httpx.stream("GET", url, timeout=30) as response:
            parts = response.iter_text()
            assert next(parts).startswith('data: "a"')
            sserpent.end_streams()
            with pytest.raises(httpx.RemoteProtocolError):
                list(parts)
        with httpx.stream("GET", url, timeout=30) as later:
            assert next(later.iter_text()).startswith('data: "a"')


def test_e5_a_later_stream_on_the_connection_of_one_that_has_ended_streams_on() -> None:
    async def says_goodbye() -> AsyncIterator[str]:
        yield "a"
        await sserpent.shutdown_event().wait()
        yield "bye"

    async def outlasts_the_cleanup_of_the_first() -> AsyncIterator[str]:
        yield "a"
        await anyio.sleep(0.5)
        yield "b"

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        first = scope["path"] == "/first"
        content = says_goodbye() if first else outlasts_the_cleanup_of_the_first()
        response = EventSourceResponse(content, shutdown_grace=20, cleanup_timeout=0.1)
        await response(scope, receive, send)

    with embedded(serve) as port, closing(HTTPConnection("127.0.0.1", port, 30)) as connection:
        connection.request("GET", "/first")
        response = connection.getresponse()
        assert response.readline() == b'data: "a"\n'
        sserpent.end_streams()
        assert response.read() == b'\ndata: "bye"\n\n'
        sock = connection.sock
        connection.request("GET", "/later")
        assert connection.getresponse().read() == b'data: "a"\n\ndata: "b"\n\n'
        assert connection.sock is sock
