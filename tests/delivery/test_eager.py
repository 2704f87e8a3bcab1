"""The delivery rules under an eager task factory, where a stream's generator runs before
`create_task` returns: https://docs.python.org/3/library/asyncio-task.html#eager-task-factory"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import anyio
import pytest
import uvicorn
from fastapi import FastAPI, HTTPException

import sserpent
from asgi import Connection
from servers import free_port
from sserpent import EventSourceResponse
from sserpent._shutdown import streams as shutdown
from timelines import timeline
from virtual_time import VirtualTimeLoop

pytestmark = pytest.mark.skipif(sys.version_info < (3, 12), reason="new in Python 3.12")


def run_eagerly(
    main: Callable[[], Coroutine[Any, Any, None]],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = VirtualTimeLoop,
) -> None:
    loop = loop_factory()
    loop.set_task_factory(asyncio.eager_task_factory)
    try:
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def complete(content: Any, **options: Any) -> Connection:
    """What a stream sends from its beginning to its end."""
    connections: list[Connection] = []

    async def main() -> None:
        connections.append(Connection())
        await connections[0].run(EventSourceResponse(content, **options))

    run_eagerly(main)
    return connections[0]


def test_a_task_starts_eagerly_in_these_tests() -> None:
    log: list[str] = []

    async def note() -> None:
        log.append("task")

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(note())
        log.append("creator")
        await task

    run_eagerly(main)
    assert log == ["task", "creator"]


# D1


@pytest.mark.parametrize("open_delay", [0, 0.25])
@pytest.mark.parametrize("pause", [0, 1, 7])
def test_d1_events_come_in_order_each_once(pause: int, open_delay: float) -> None:
    async def content() -> AsyncIterator[int]:
        for i in range(5_000):
            yield i
            if pause and i % pause == 0:
                await asyncio.sleep(0)

    connection = complete(content(), open_delay=open_delay)
    assert connection.data == [str(i) for i in range(5_000)]
    assert connection.complete


def test_d1_sync_events_come_in_order_each_once() -> None:
    def content() -> Iterator[int]:
        yield from range(5_000)

    connections: list[Connection] = []

    async def main() -> None:
        connections.append(Connection())
        await connections[0].run(EventSourceResponse(content()))

    run_eagerly(main, asyncio.new_event_loop)  # a thread takes real time
    assert connections[0].data == [str(i) for i in range(5_000)]
    assert connections[0].complete


def test_d1_a_generator_that_ends_before_its_first_event_is_a_complete_response() -> None:
    async def content() -> AsyncIterator[int]:
        for i in ():
            yield i

    connection = complete(content())
    assert (connection.status, connection.body, connection.complete) == (200, b"", True)


def test_d1_a_stalled_client_holds_the_generator_and_loses_nothing() -> None:
    pushed = 0

    async def content() -> AsyncIterator[str]:
        nonlocal pushed
        for _ in range(200):
            pushed += 1
            yield "x" * 1_000

    async def main() -> None:
        connection = Connection()
        connection.stall()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run, EventSourceResponse(content()))
            await asyncio.sleep(100)
            assert 60 < pushed < 80
            connection.unstall()
        assert len(connection.data) == 200
        assert connection.complete

    run_eagerly(main)


# D5


def test_d5_an_exception_before_the_first_event_reaches_fastapi() -> None:
    app = FastAPI()

    @app.get("/", response_class=EventSourceResponse)
    async def forbidden() -> AsyncIterator[str]:
        raise HTTPException(403)
        yield "never"

    async def main() -> None:
        connection = Connection()
        await connection.run(app)
        assert connection.status == 403

    run_eagerly(main)


def test_d5_an_exception_before_the_first_event_sends_nothing() -> None:
    async def content() -> AsyncIterator[str]:
        raise ZeroDivisionError
        yield "never"

    async def main() -> None:
        connection = Connection()
        with pytest.raises(ZeroDivisionError):
            await connection.run(EventSourceResponse(content()))
        assert connection.messages == []

    run_eagerly(main)


# D7


@pytest.mark.parametrize("left_before", [True, False])
def test_d7_a_client_that_leaves_is_noticed_at_once(left_before: bool) -> None:
    log: list[str] = []

    async def content() -> AsyncIterator[str]:
        try:
            yield "first"
            await asyncio.sleep(10_000)
        finally:
            await asyncio.sleep(1)
            log.append("closed")

    async def main() -> None:
        connection = Connection()
        response = EventSourceResponse(content(), on_disconnect=lambda: log.append("told"))
        loop = asyncio.get_running_loop()
        begin = loop.time()
        if left_before:
            connection.disconnect()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run, response)
            if not left_before:
                await asyncio.sleep(3)
                connection.disconnect()
        assert loop.time() - begin == pytest.approx(1 if left_before else 4)
        assert sorted(log) == ["closed", "told"]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_eagerly(main)


# D8


def test_d8_shutdown_event_is_the_one_of_the_streams_server() -> None:
    async def content() -> AsyncIterator[Any]:
        event = sserpent.shutdown_event()
        yield event.is_set()
        await event.wait()
        yield event.is_set()
        await asyncio.sleep(1_000)

    async def shut_down(connection: Connection, _: Any) -> None:
        await asyncio.sleep(3)
        streams = shutdown._of_this_loop().of_server(connection.scope)
        assert streams.open
        streams.look(signalled=True)

    async def main() -> None:
        sent.extend(
            await timeline(content, until=50, act=shut_down, shutdown_grace=2, ping_interval=None)
        )

    sent: list[tuple[float, str]] = []
    run_eagerly(main)
    assert sent == [(0, "headers"), (0, "data: false\n\n"), (3, "data: true\n\n")]


def test_d8_one_of_two_uvicorns_on_an_eager_loop_says_goodbye_alone() -> None:
    app = FastAPI()

    class Graceful(EventSourceResponse):
        shutdown_grace = 20

    @app.get("/", response_class=Graceful)
    async def goodbye() -> AsyncIterator[str]:
        event = sserpent.shutdown_event()
        yield "first"
        await event.wait()
        yield "goodbye"

    async def open_stream(port: int) -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        writers.append(writer)
        assert b"first" in await reader.readuntil(b'data: "first"\n\n')
        return reader

    writers: list[asyncio.StreamWriter] = []

    async def main() -> None:
        ports = [free_port(), free_port()]
        servers = [
            uvicorn.Server(uvicorn.Config(app, port=port, log_level="error")) for port in ports
        ]
        loop = asyncio.get_running_loop()
        serving = [loop.create_task(server._serve()) for server in servers]
        try:
            async with asyncio.timeout(60):
                while not all(server.started for server in servers):
                    await asyncio.sleep(0.001)
                streams = [await open_stream(port) for port in ports]
                servers[0].should_exit = True
                assert (await streams[0].read()).endswith(b'data: "goodbye"\n\n\r\n0\r\n\r\n')
                await serving[0]
                assert not streams[1].at_eof()
                assert not serving[1].done()
                servers[1].should_exit = True
                assert b'data: "goodbye"' in await streams[1].read()
                await serving[1]
        finally:
            for writer in writers:
                writer.close()

    run_eagerly(main, asyncio.new_event_loop)


# D11


def test_d11_one_task_drives_the_generator() -> None:
    tasks: set[asyncio.Task[Any] | None] = set()

    async def content() -> AsyncIterator[int]:
        try:
            async with asyncio.timeout(5):
                for i in range(3):
                    tasks.add(asyncio.current_task())
                    yield i
                    await asyncio.sleep(0)
                await asyncio.sleep(100)
        except TimeoutError:
            yield 3
        finally:
            tasks.add(asyncio.current_task())

    async def main() -> None:
        connection = Connection()
        await connection.run(EventSourceResponse(content()))
        assert connection.data == ["0", "1", "2", "3"]
        assert len(tasks) == 1
        assert asyncio.current_task() not in tasks

    run_eagerly(main)
