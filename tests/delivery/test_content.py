"""What can be streamed, and what is said of what cannot."""

from __future__ import annotations

import asyncio
import inspect
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

import anyio
import fastapi.sse
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

from asgi import Connection
from sserpent import EventSourceResponse, ServerSentEvent
from sserpent.channels import Channels
from sserpent.protocols import StreamEnd

# What is said of content does not depend on the core.
pytestmark = pytest.mark.once


class Text(str):
    pass


class Colour(Enum):
    RED = 1


class Item(BaseModel):
    name: str


async def events() -> AsyncIterator[int]:
    yield 1


async def made() -> AsyncIterator[int]:
    return events()


REFUSED: list[tuple[Any, str]] = [
    ("text", "not str, of which each character would be an event: put it into a list"),
    (Text("text"), "not Text, of which each character would be an event: put it into a list"),
    (b"text", "not bytes, of which each character would be an event: put it into a list"),
    (bytearray(b"a"), "not bytearray, of which each"),
    (memoryview(b"a"), "not memoryview, of which each"),
    ({"a": 1}, "not dict, of which the keys alone would be sent: put it into a list"),
    (OrderedDict(a=1), "not OrderedDict, of which the keys"),
    (MappingProxyType({"a": 1}), "not mappingproxy, of which the keys"),
    (Item(name="a"), "not Item, of which each field would be an event: put it into a list"),
    (7, "not int"),
    (None, "not NoneType"),
    (ServerSentEvent(data=1), "not ServerSentEvent: put it into a list"),
    (fastapi.sse.ServerSentEvent(data=1), "not ServerSentEvent, of which each field"),
    (events, "not function: call it"),
    (Item, "not the class Item: call it"),
    (ServerSentEvent, "not the class ServerSentEvent: call it"),
    (list, "not the class list: call it"),
]


@pytest.mark.parametrize(("content", "message"), REFUSED)
def test_content_that_nobody_means_to_stream_in_parts_is_refused(
    content: Any, message: str
) -> None:
    rule = f"EventSourceResponse streams an async iterable or an iterable of events, {message}"
    with pytest.raises(TypeError) as caught:
        EventSourceResponse(content)
    assert str(caught.value).startswith(rule)


@pytest.mark.parametrize(("content", "message"), REFUSED)
@pytest.mark.anyio
async def test_a_run_of_content_that_nobody_means_to_stream_in_parts_is_refused(
    content: Any, message: str
) -> None:
    runs = Channels().runs("answers")
    with pytest.raises(TypeError) as caught:
        await runs.start(content)
    rule = f"'source' of runs 'answers' must be a generator of events, {message}"
    assert str(caught.value).startswith(rule)


@pytest.mark.anyio
async def test_a_coroutine_is_refused_and_closed() -> None:
    for refuse in EventSourceResponse, Channels().runs("answers").start:
        coroutine: Any = made()
        with pytest.raises(TypeError, match="not coroutine: await it"):
            await refuse(coroutine)  # type: ignore[operator]
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


@pytest.mark.anyio
async def test_what_is_awaited_to_have_an_item_is_no_iterable_of_events() -> None:
    """It can be iterated, which is how it is awaited."""
    loop = asyncio.new_event_loop()
    future = loop.create_future()
    loop.close()
    generator = events()
    for refuse in EventSourceResponse, Channels().runs("answers").start:
        for content, kind in (
            (generator.__anext__(), "async_generator_asend"),
            (future, "Future"),
        ):
            with pytest.raises(TypeError, match=f"not {kind}: await it, or yield in it"):
                await refuse(content)  # type: ignore[operator]
    assert not future.done()
    await generator.aclose()  # since Python 3.13 it is closed with what `__anext__` has returned


def test_an_enum_class_is_iterable() -> None:
    EventSourceResponse(Colour)


def test_a_list_of_what_is_refused_is_streamed() -> None:
    app = FastAPI()

    @app.get("/")
    def items() -> EventSourceResponse:
        return EventSourceResponse(["text", {"a": 1}, Item(name="a")])

    expected = 'data: "text"\n\ndata: {"a":1}\n\ndata: {"name":"a"}\n\n'
    assert TestClient(app).get("/").text == expected


def test_an_endpoint_that_returns_what_cannot_be_streamed_is_named() -> None:
    app = FastAPI()

    def text() -> Any:
        return "text"

    async def keys() -> Any:
        return {"a": 1}

    def listed() -> Any:
        return [1]

    for endpoint in (text, keys, listed):
        app.get(f"/{endpoint.__name__}", response_class=EventSourceResponse)(endpoint)
        with pytest.raises(TypeError, match=rf"{endpoint.__name__} \(.*must yield, or return"):
            TestClient(app).get(f"/{endpoint.__name__}")


def test_a_response_that_is_yielded_or_not_awaited_is_told_apart() -> None:
    app = FastAPI()
    channels = Channels()
    news, runs = channels.channel("news"), channels.runs("answers")

    async def yielded() -> AsyncIterator[Any]:
        yield news.subscribe()

    async def declared() -> AsyncIterator[Item]:
        yield news.subscribe()  # type: ignore[misc]

    async def undeclared():  # type: ignore[no-untyped-def]
        yield news.subscribe()

    def unawaited() -> Any:
        return runs.start(events())

    async def not_followed() -> Any:
        return await runs.start(events())

    for endpoint, message in (
        (not_followed, r"it returned Run: return run.follow\(\)$"),
        (yielded, r"yielded \(.* yielded a Subscription: return it"),
        (declared, r"declared \(.* yielded a Subscription: return it"),
        (undeclared, r"undeclared \(.* yielded a Subscription: return it"),
        (unawaited, r"must yield, or return .* coroutine: await Runs.start\(\)"),
    ):
        app.get(f"/{endpoint.__name__}", response_class=EventSourceResponse)(endpoint)
        with pytest.raises(TypeError, match=message):
            TestClient(app).get(f"/{endpoint.__name__}")


def test_iterators_and_iterables_of_all_kinds_are_streamed() -> None:
    class Iterable:
        def __iter__(self) -> Iterator[int]:
            return iter([1])

    class AsyncIterable:
        def __aiter__(self) -> AsyncIterator[int]:
            return events()

    app = FastAPI()

    @app.get("/{number}")
    def items(number: int) -> EventSourceResponse:
        contents = [Iterable(), AsyncIterable(), events(), iter([1]), (1,), {1}, range(1, 2)]
        return EventSourceResponse(contents[number])

    assert {TestClient(app).get(f"/{number}").text for number in range(7)} == {"data: 1\n\n"}


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_an_iterable_is_asked_for_its_iterator_once_and_not_for_head(method: str) -> None:
    queues: list[list[int]] = []

    class Subscribers:
        def __aiter__(self) -> AsyncIterator[int]:
            queues.append([1])
            return events()

    connection = Connection(method=method)
    await connection.run(EventSourceResponse(Subscribers()))
    assert len(queues) == (method == "GET")
    assert connection.body == (b"data: 1\n\n" if method == "GET" else b"")


@pytest.mark.anyio
async def test_a_response_of_a_list_can_be_used_again() -> None:
    class Ended(EventSourceResponse):
        def closing_event(self, end: StreamEnd) -> str:
            return end.kind

    response = Ended([1])
    bodies: list[bytes] = []
    for method in ("GET", "HEAD", "GET"):
        connection = Connection(method=method)
        await connection.run(response)
        bodies.append(connection.body)
    assert bodies == [b'data: 1\n\ndata: "done"\n\n', b"", b'data: 1\n\ndata: "done"\n\n']


@dataclass(frozen=True)
class Topic:
    """An iterator that is equal to another with the same name."""

    name: str

    def __aiter__(self) -> Topic:
        return self

    async def __anext__(self) -> str:
        await anyio.sleep(0.001)
        raise StopAsyncIteration


@pytest.mark.anyio
async def test_iterators_that_are_equal_are_streamed_at_the_same_time() -> None:
    connections = [Connection(), Connection()]
    async with anyio.create_task_group() as tasks:
        for each in connections:
            tasks.start_soon(each.run, EventSourceResponse(Topic("news")))
    assert all(each.complete for each in connections)


@pytest.mark.anyio
async def test_an_iterator_can_be_streamed_again_when_its_stream_has_ended() -> None:
    iterator = Topic("news")
    for _ in range(2):
        connection = Connection()
        await connection.run(EventSourceResponse(iterator))
        assert connection.complete


@pytest.mark.anyio
async def test_a_run_takes_what_a_response_takes() -> None:
    async with Channels() as channels:
        run = await channels.runs("answers").start(["text", {"a": 1}])
        body = b"".join([chunk async for chunk in run.follow().body_iterator])
    assert b'data: "text"\n' in body
    assert b'data: {"a":1}\n' in body
    assert b'"end":"done"' in body
