"""D15: a generator may read its request while it streams, and a client that leaves is noticed
meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from asgi import Connection, Replaying
from servers import APP, SERVERS, Server, read_to_end, until
from sserpent import EventSourceResponse
from sserpent._delivery.inbox import ASK_AGAIN, PATIENCE

pytestmark = pytest.mark.anyio

Reader = Callable[[Request], AsyncIterator[Any]]


async def read_json(request: Request) -> AsyncIterator[Any]:
    yield "before"
    yield await request.json()


async def read_body(request: Request) -> AsyncIterator[Any]:
    yield "before"
    yield (await request.body()).decode()


async def read_stream(request: Request) -> AsyncIterator[Any]:
    yield "before"
    async for part in request.stream():
        yield part.decode()


async def read_form(request: Request) -> AsyncIterator[Any]:
    yield "before"
    async with request.form() as form:
        yield dict(form)


def fastapi_app(read: Reader) -> Any:
    app = FastAPI()

    @app.post("/", response_class=EventSourceResponse)
    async def endpoint(request: Request) -> AsyncIterator[Any]:
        async for item in read(request):
            yield item

    return app


def returning_app(read: Reader) -> Any:
    app = FastAPI()

    @app.post("/", response_class=EventSourceResponse)
    async def endpoint(request: Request) -> Any:
        return EventSourceResponse(read(request))

    return app


def starlette_app(read: Reader) -> Any:
    async def endpoint(request: Request) -> Any:
        return EventSourceResponse(read(request))

    return Starlette(routes=[Route("/", endpoint, methods=["POST"])])


apps = pytest.mark.parametrize("make", [fastapi_app, returning_app, starlette_app])


@apps
@pytest.mark.parametrize(
    ("read", "data", "expected"),
    [
        (read_json, {"content": b'{"a":1}'}, '{"a":1}'),
        (read_body, {"content": b"text"}, '"text"'),
        (read_stream, {"content": b"text"}, '"text"'),
        (read_form, {"data": {"a": "1"}}, '{"a":"1"}'),
    ],
)
def test_d15_the_body_can_be_read(
    make: Callable[[Reader], Any],
    read: Reader,
    data: Any,
    expected: str,
    anyio_backend: str,
) -> None:
    client = TestClient(make(read), backend=anyio_backend)  # type: ignore[arg-type]
    text = client.post("/", **data).text
    assert text.startswith(f'data: "before"\n\ndata: {expected}\n\n')


class Uploading(Connection):
    """A client that sends its body in parts, when it is told to."""

    def __init__(self) -> None:
        super().__init__(method="POST")
        self.unread: deque[Any] = deque()
        self._arrived = anyio.Event()

    async def receive(self) -> Any:
        while not self.unread:
            self._arrived = anyio.Event()
            await self._arrived.wait()
        message = self.unread.popleft()
        if message["type"] == "http.disconnect":
            self.unread.append(message)
        return message

    def _arrive(self, message: Any) -> None:
        self.unread.append(message)
        self._arrived.set()

    def part(self, body: bytes, more_body: bool = True) -> None:
        self._arrive({"type": "http.request", "body": body, "more_body": more_body})

    def disconnect(self) -> None:
        self._arrive({"type": "http.disconnect"})


@apps
async def test_d15_a_body_that_still_arrives(make: Callable[[Reader], Any]) -> None:
    connection = Uploading()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run, make(read_stream))
        await connection.until(lambda: connection.data == ['"before"'])
        connection.part(b"a")
        await connection.until(lambda: '"a"' in connection.data)
        connection.part(b"b", more_body=False)
        await connection.until(lambda: connection.complete)
    assert connection.data[:3] == ['"before"', '"a"', '"b"']


@apps
async def test_d15_a_client_that_leaves_in_the_middle_of_its_body(
    make: Callable[[Reader], Any],
) -> None:
    reading = False
    raised: list[BaseException] = []

    async def read(request: Request) -> AsyncIterator[Any]:
        nonlocal reading
        yield "before"
        reading = True
        try:
            yield await request.json()
        except BaseException as error:
            raised.append(error)
            raise

    connection = Uploading()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_through, connection, make(read))
            connection.part(b'{"a":')
            await connection.until(lambda: reading and connection.data == ['"before"'])
            connection.disconnect()
    assert len(raised) == 1


async def run_through(connection: Connection, app: Any) -> None:
    try:
        await connection.run(app)
    except ClientDisconnect:
        pass  # Starlette's word for it, where the generator read first


@apps
async def test_d15_is_disconnected_says_so(make: Callable[[Reader], Any]) -> None:
    asked: list[bool] = []

    async def read(request: Request) -> AsyncIterator[Any]:
        try:
            while True:
                asked.append(await request.is_disconnected())
                yield len(asked)
                await anyio.sleep(0.001)
        finally:
            with anyio.CancelScope(shield=True):
                asked.append(await request.is_disconnected())

    connection = Uploading()
    connection.part(b"", more_body=False)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run, make(read))
            await connection.until(lambda: len(asked) > 10)
            connection.disconnect()
    assert not any(asked[:-1])
    assert asked[-1]


@apps
async def test_d15_a_body_that_nobody_reads_is_not_kept_whole(
    make: Callable[[Reader], Any],
) -> None:
    async def read(request: Request) -> AsyncIterator[Any]:
        yield "before"
        await go.wait()
        yield len(await request.body())

    go = anyio.Event()
    connection = Uploading()
    for _ in range(100):
        connection.part(b"x" * 10_000)
    connection.part(b"", more_body=False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run, make(read))
        await connection.until(lambda: connection.data == ['"before"'])
        await anyio.wait_all_tasks_blocked()
        assert len(connection.unread) > 90, "the server could not hold the client back"
        go.set()
        await connection.until(lambda: connection.complete)
    assert connection.data == ['"before"', "1000000"]


@pytest.mark.virtual_time
async def test_d15_a_connection_that_is_closed_is_noticed_before_the_body_is_thrown_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its server knows of it from a `send`, and tells `receive` after the body that it holds."""
    closed_at: list[float] = []
    monkeypatch.setattr(
        "sserpent._shutdown.watch_connection", lambda _: lambda: anyio.current_time() >= begin + 2
    )
    begin = 0.0
    begin = anyio.current_time()

    async def read(request: Request) -> AsyncIterator[Any]:
        try:
            while True:
                yield "progress"
                await anyio.sleep(0.2)
        finally:
            closed_at.append(anyio.current_time() - begin)

    connection = Uploading()
    for _ in range(100):
        connection.part(b"x" * 10_000)
    await connection.run(fastapi_app(read))
    assert closed_at[0] <= 2 + ASK_AGAIN < PATIENCE


async def upload_and_leave(app: Any, seconds: float) -> None:
    """The client sends a megabyte, and leaves later, which is noticed within a second."""
    connection = Uploading()
    for _ in range(100):
        connection.part(b"x" * 10_000)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run, app)
        await anyio.sleep(seconds)
        assert len(connection.unread) == 0
        begin = anyio.current_time()
        connection.disconnect()
    assert anyio.current_time() - begin < 1


@pytest.mark.virtual_time
async def test_d15_a_client_that_leaves_is_noticed_behind_a_body_that_nobody_reads() -> None:
    """Within `PATIENCE`, after which the body is thrown away, and who asks for it is told."""
    log: list[str] = []

    async def read(request: Request) -> AsyncIterator[Any]:
        yield "before"
        await anyio.sleep(10)
        try:
            await request.body()
        except RuntimeError as error:
            log.append(str(error))
        try:
            await anyio.sleep(3_600)
        finally:
            log.append("closed")

    await upload_and_leave(fastapi_app(read), seconds=11)
    assert "more than 65536 bytes" in log[0]
    assert log[1:] == ["closed"]


@pytest.mark.virtual_time
@pytest.mark.parametrize("make", [fastapi_app, returning_app, starlette_app])
async def test_d15_a_client_that_leaves_is_noticed_behind_a_body_that_nobody_reads_on(
    make: Callable[[Reader], Any],
) -> None:
    """The generator has read a part of it."""
    log: list[str] = []

    async def read(request: Request) -> AsyncIterator[Any]:
        parts = request.stream()
        yield len(await parts.__anext__())
        try:
            for _ in range(15):
                yield "progress"
                await anyio.sleep(1)
            try:
                await parts.__anext__()
            except RuntimeError as error:
                log.append(str(error))
            await anyio.sleep(3_600)
        finally:
            log.append("closed")

    await upload_and_leave(make(read), seconds=20)
    assert "more than 65536 bytes" in log[0]
    assert "did not read on within 5 s" in log[0]
    assert log[1:] == ["closed"]


@pytest.mark.virtual_time
async def test_d15_one_that_reads_on_in_time_reads_it_whole() -> None:
    async def read(request: Request) -> AsyncIterator[Any]:
        size = 0
        async for part in request.stream():
            size += len(part)
            await anyio.sleep(4)
        yield size

    connection = Uploading()
    for _ in range(20):
        connection.part(b"x" * 10_000)
    connection.part(b"", more_body=False)
    await connection.run(fastapi_app(read))
    assert connection.data == ["200000"]


# A `receive` that breaks ASGI

replaying = pytest.mark.parametrize(
    "more", [{}, {"body": b""}, {"body": b"", "more_body": True}, {"type": "http.unknown"}]
)


async def reads_before(request: Request) -> AsyncIterator[Any]:
    yield (await request.body()).decode()
    await anyio.sleep(10_000)


async def reads_on(request: Request) -> AsyncIterator[Any]:
    yield "before"
    while not await request.is_disconnected():
        await anyio.sleep(0.5)
    yield "after"


async def reads_nothing(request: Request) -> AsyncIterator[Any]:
    yield "before"
    await anyio.sleep(10_000)


@pytest.mark.virtual_time
@apps
@pytest.mark.parametrize("read", [reads_nothing, reads_before, reads_on])
async def test_d15_a_receive_that_replays_the_body_for_ever_holds_nothing(
    make: Callable[[Reader], Any], read: Reader
) -> None:
    connection = Replaying(method="POST")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run, make(read))
        await anyio.sleep(100)
        assert connection.data
        assert connection.asked < 150, "the delivery spins"
        begin = anyio.current_time()
        connection.disconnect()
    assert anyio.current_time() - begin <= ASK_AGAIN + 0.5


@pytest.mark.virtual_time
@replaying
async def test_d15_nor_does_one_that_replays_something_else(more: dict[str, Any]) -> None:
    for app in (EventSourceResponse(endless()), fastapi_app(reads_nothing)):
        connection = Replaying(more, method="POST")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run, app)
            await anyio.sleep(100)
            assert connection.data
            begin = anyio.current_time()
            connection.disconnect()
        assert anyio.current_time() - begin <= ASK_AGAIN + 0.5


async def endless() -> AsyncIterator[str]:
    yield "before"
    await anyio.sleep(10_000)


@pytest.mark.virtual_time
async def test_d15_where_it_hides_the_disconnect_a_send_that_fails_tells_it() -> None:
    connection = Replaying(tells=False, method="POST")
    send = connection.send

    async def failing_send(message: Any) -> None:
        if connection.data:
            raise ConnectionResetError
        await send(message)

    connection.send = failing_send  # type: ignore[method-assign]
    begin = anyio.current_time()
    await connection.run(EventSourceResponse(endless(), ping_interval=15))
    assert anyio.current_time() - begin == pytest.approx(15, abs=0.1)


@pytest.mark.parametrize("name", ["uvicorn", "uvicorn-asyncio-h11", "hypercorn", "hypercorn-trio"])
@pytest.mark.parametrize(
    ("request_line", "opened", "closed"),
    [
        (b"GET /replayed/idle", "opened", "closed"),
        (b"POST /replayed/upload", "read a part", "upload closed"),
    ],
)
def test_d15_where_it_hides_the_disconnect_the_connection_tells_it(
    serve: Callable[..., Server], name: str, request_line: bytes, opened: str, closed: str
) -> None:
    server = serve(SERVERS[name])
    client = server.connect()
    client.sendall(request_line + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
    until(lambda: opened in server.log)
    client.close()
    until(lambda: closed in server.log, timeout=ASK_AGAIN + 15)
    until(lambda: "told" in server.log)
    assert "Traceback" not in server.log


@pytest.mark.parametrize("name", ["uvicorn", "uvicorn-asyncio-h11", "granian", "hypercorn"])
@pytest.mark.parametrize("chunked", [False, True])
def test_d15_half_a_body_and_gone_on_real_servers(
    serve: Callable[..., Server], name: str, chunked: bool
) -> None:
    server = serve(SERVERS[name])
    client = server.connect()
    body = b"x" * 200_000
    if chunked:
        head, body = b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n" % (len(body), body)
    else:
        head = b"Content-Length: 1000000"
    client.sendall(b"POST /upload HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n\r\n" + body)
    until(lambda: "read a part" in server.log)
    client.close()
    until(lambda: "upload closed" in server.log, timeout=PATIENCE + 10)
    assert "Traceback" not in server.log


@pytest.mark.parametrize("name", ["uvicorn", "granian", "hypercorn", "hypercorn-trio"])
def test_d15_on_real_servers(serve: Callable[..., Server], name: str) -> None:
    server = serve(SERVERS[name])
    with server.connect() as connection:
        connection.sendall(
            b"POST /echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: 7\r\n\r\n"
        )
        received = b""
        while b"before" not in received:
            received += connection.recv(4096)
        connection.sendall(b'{"a":1}')
        received += read_to_end(connection)
    assert b'data: {"a":1}\n\n' in received
    assert APP
    leaving = server.connect()
    leaving.sendall(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7\r\n\r\n")
    received = b""
    while b"before" not in received:
        received += leaving.recv(4096)
    leaving.close()
    until(lambda: "echo closed" in server.log and server.log.count("echo closed") == 2)
