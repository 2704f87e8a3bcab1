"""Applications that misbehave: each is an error that says what has happened, in a bounded time, and
leaves no task behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any
from weakref import ref

import anyio
import httpx2
import pytest
from starlette.types import Message, Receive, Scope, Send

from sserpent import EventSourceResponse
from sserpent.testing import connect
from sserpent.testing.task import Task

pytestmark = pytest.mark.anyio

START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream")],
}
EVENT: Message = {"type": "http.response.body", "body": b"data: a\n\n", "more_body": True}
END: Message = {"type": "http.response.body"}


def running() -> list[str]:
    """The tasks of ours that run on this event loop."""
    try:
        coroutines = [task.get_coro() for task in asyncio.all_tasks()]
    except RuntimeError:
        import trio

        root: Any = trio.lowlevel.current_root_task()
        coroutines = [task.coro for nursery in root.child_nurseries for task in nursery.child_tasks]
    return [name for each in coroutines if (name := each.__qualname__) == Task._run.__qualname__]


@pytest.fixture(autouse=True)
async def no_task_is_left(anyio_backend: str) -> AsyncIterator[None]:
    yield
    await anyio.wait_all_tasks_blocked()
    assert running() == []


async def test_the_tasks_are_found() -> None:
    task = Task(anyio.sleep_forever)
    assert running() == ["Task._run"]
    task.cancel()
    await task.wait()


@pytest.mark.virtual_time
async def test_one_that_never_answers() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        while (await receive())["type"] != "http.disconnect":
            pass

    async with connect(app, timeout=0.25) as client:
        for _ in range(2):
            with pytest.raises(
                httpx2.ReadTimeout, match=r"GET /: the response did not start within 0\.25 s"
            ):
                await client.get("/")
        with pytest.raises(httpx2.ReadTimeout):
            async with client.events("/"):
                pass


@pytest.mark.virtual_time
async def test_one_that_sends_nothing_more() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(EVENT)
        while (await receive())["type"] != "http.disconnect":
            pass

    async with connect(app, timeout=0.25) as client, client.stream("GET", "/") as response:
        with pytest.raises(
            httpx2.ReadTimeout, match=r"nothing came within 0\.25 s; .* status 200 and 9 bytes"
        ):
            await response.aread()


@pytest.mark.parametrize("read", ["get", "events", "bytes"])
async def test_one_that_yields_without_a_pause_and_without_end(read: str) -> None:
    until = anyio.current_time() + 10

    async def content() -> AsyncIterator[str]:
        while anyio.current_time() < until:
            yield "x" * 1_000

    # Where the timeout is not what ends the reading, it is long enough for a slow machine.
    timeout = 1 if read == "get" else 20
    async with connect(EventSourceResponse(content()), timeout=timeout) as client:
        if read == "get":
            with pytest.raises(httpx2.ReadTimeout):
                await client.get("/")
        elif read == "events":
            async with client.events("/") as events:
                with anyio.move_on_after(0.25):
                    async for _ in events:
                        pass
        else:
            async with client.stream("GET", "/") as response:
                with anyio.move_on_after(0.25):
                    async for _ in response.aiter_bytes():
                        pass
    assert anyio.current_time() < until


async def test_one_that_does_not_notice_a_client_that_leaves() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await send(START)
        while True:
            await send(EVENT)

    async with connect(app, timeout=1) as client, client.events("/") as events:
        await events.next()
        with pytest.raises(TimeoutError, match=r"still ran 1\.0 s after .* and was cancelled"):
            await events.leave()


@pytest.mark.virtual_time
async def test_one_that_does_not_end_at_the_end_of_the_test() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await send(START)
        await anyio.sleep_forever()

    with pytest.raises(TimeoutError, match="was cancelled"):
        async with connect(app, timeout=0.25) as client:
            await client.http.send(client.build_request("GET", "/"), stream=True)


@pytest.mark.virtual_time
async def test_one_that_swallows_its_cancellation(anyio_backend: str) -> None:
    stop = anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await send(START)
        with anyio.CancelScope(shield=True):
            await stop.wait()

    with pytest.raises(TimeoutError, match="goes on after a cancellation"):
        async with connect(app, timeout=0.25) as client, client.events("/"):
            pass
    stop.set()


async def test_one_that_cancels_itself(anyio_backend: str) -> None:
    if anyio_backend == "trio":
        pytest.skip("Trio has no such exception")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise asyncio.CancelledError("by itself")

    async with connect(app) as client:
        with pytest.raises(asyncio.CancelledError, match="by itself"):
            await client.get("/")


@pytest.mark.parametrize("kind", [ValueError, TimeoutError, OSError, GeneratorExit, SystemExit])
async def test_one_that_raises_at_once(kind: Any) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise kind("at once")

    async with connect(app) as client:
        with pytest.raises(kind, match="at once"):
            await client.get("/")


@pytest.mark.parametrize("kind", [ValueError, TimeoutError, OSError, GeneratorExit, SystemExit])
async def test_one_that_raises_later(kind: Any) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await send(START)
        await send(EVENT)
        raise kind("later")

    async with connect(app) as client, client.events("/") as events:
        await events.next()
        with pytest.raises(httpx2.RemoteProtocolError, match=r"raised .*later") as cut:
            await events.next()
        assert isinstance(cut.value.__cause__, kind)


async def test_one_that_raises_after_its_response() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(END)
        raise LookupError("in a background task")

    with pytest.raises(LookupError, match="in a background task"):
        async with connect(app) as client:
            await client.get("/")


async def test_one_that_returns_without_a_response() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    async with connect(app) as client:
        with pytest.raises(RuntimeError, match="GET /: the application sent no response"):
            await client.get("/")


async def test_one_that_returns_before_the_end_of_the_body() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send(START)
            await send(EVENT)

    async with connect(app) as client:
        with pytest.raises(httpx2.RemoteProtocolError, match="before the end of the body"):
            await client.get("/")


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([EVENT], "sent 'http.response.body', expected http.response.start"),
        ([START, START], "sent 'http.response.start', expected http.response.body"),
        ([START, END, END], "expected no message, since the response is complete"),
        ([{"type": "http.nonsense"}], "sent 'http.nonsense', expected http.response.start"),
        ([START, {**EVENT, "body": "text"}], "'body' must be bytes, not str"),
        ([{**START, "status": "200"}], "'status' must be an integer, not str"),
        ([{**START, "headers": [("a", "b")]}], "'headers' must be pairs of bytes, not"),
        ([{**START, "headers": [b"abc"]}], "'headers' must be pairs of bytes, not"),
        ([{}], "has no 'type'"),
        ([None], "a message must be a dict, not NoneType"),
    ],
)
async def test_one_that_sends_garbage(messages: list[Any], error: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for message in messages:
                await send(message)

    with pytest.raises(Exception, match=error) as caught:
        async with connect(app) as client:
            await client.get("/")
    assert isinstance(caught.value, (RuntimeError, TypeError, httpx2.RemoteProtocolError))


async def test_a_client_that_leaves_while_it_stalls() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send(START)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send_for_ever, send)
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

    async def send_for_ever(send: Send) -> None:
        while True:
            await send(EVENT)

    async with connect(app) as client, client.events("/") as events:
        await events.next()
        await events.stall()
        await events.until_send_waits()
        await events.leave()


async def test_a_client_that_is_cut_while_it_stalls() -> None:
    ended: list[str] = []

    async def content() -> AsyncIterator[str]:
        try:
            while True:
                yield "a"
                await anyio.sleep(0.001)
        finally:
            ended.append("content")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await EventSourceResponse(content())(scope, receive, send)

    async with connect(app) as client, client.events("/") as events:
        await events.stall()
        await events.until_send_waits()
        events.cut()
        await events.leave()
        assert ended == ["content"]


async def test_until_send_waits_is_bounded() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send(START)
            while (await receive())["type"] != "http.disconnect":
                pass

    async with connect(app) as client, client.events("/") as events:
        await events.stall()
        with pytest.raises(TimeoutError, match=r"no send waited within 0\.01 s"):
            await events.until_send_waits(0.01)
        await events.leave()
        with pytest.raises(TimeoutError, match="the application has ended"):
            await events.until_send_waits()


@pytest.mark.virtual_time
async def test_an_exception_in_the_test_leaves_no_task(anyio_backend: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send(START)
            await anyio.sleep_forever()

    with pytest.raises(ZeroDivisionError):
        async with connect(app, timeout=0.25) as client, client.events("/"):
            raise ZeroDivisionError


async def test_a_fixture_may_open_and_close_in_different_tasks(anyio_backend: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send(START)
            await send(EVENT)
            await receive()
            await receive()

    context = connect(app)
    opened: list[Any] = []

    async def open_it() -> None:
        opened.append(await context.__aenter__())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(open_it)
    async with opened[0].events("/") as events:
        await events.next()

    async def close_it() -> None:
        await context.__aexit__(None, None, None)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(close_it)


async def test_a_client_is_freed_with_all_that_it_had() -> None:
    async def content() -> AsyncIterator[str]:
        yield "a"

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await EventSourceResponse(content())(scope, receive, send)

    async def use() -> list[ref[Any]]:
        async with connect(app) as client:
            async with client.events("/") as events:
                await events.next()
            await client.shut_down()
            return [ref(client), ref(client._server), ref(events)]

    left = await use()
    gc.collect()
    assert [each() for each in left] == [None, None, None]
