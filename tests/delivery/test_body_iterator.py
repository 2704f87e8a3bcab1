"""`body_iterator`: looking at it changes nothing, and what is put in its place is delivered."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest
from starlette.background import BackgroundTask

import sserpent._delivery.observer as observing
from asgi import Connection
from event_loops import asyncio_only
from sserpent import EventSourceResponse, ServerSentEvent
from sserpent._shutdown import streams as shutdown
from sserpent.channels import Channels

pytestmark = pytest.mark.anyio

Wrap = Callable[[Any], Any]

PING = b": ping\n"


async def upper(chunks: Any) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        yield chunk.upper()


def look(response: Any) -> None:
    assert hasattr(response, "body_iterator")


def wrap(response: Any) -> None:
    response.body_iterator = upper(response.body_iterator)


def put_back(response: Any) -> None:
    response.body_iterator = response.body_iterator


def wrap_twice(response: Any) -> None:
    wrap(response)
    assert hasattr(response, "body_iterator")
    wrap(response)


#: What other people's decorators do with a response.
TOUCHES = pytest.mark.parametrize("touch", [look, put_back, wrap, wrap_twice])


class Content:
    """A generator, and what becomes of it."""

    def __init__(self, *items: Any, pause: float = 0, last: float = 0) -> None:
        self.items, self.pause, self.last = items, pause, last
        self.log: list[str] = []

    async def stream(self) -> AsyncIterator[Any]:
        self.log.append("began")
        try:
            for item in self.items:
                yield item
                await anyio.sleep(self.pause)
            await anyio.sleep(self.last)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
            self.log.append("closed")


async def leave_after_first(connection: Connection, response: Any) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run, response)
        await connection.until(lambda: connection.body)
        connection.disconnect()


@pytest.mark.virtual_time
@TOUCHES
async def test_e2_keep_alives_are_sent(touch: Wrap) -> None:
    connection = Connection()
    response = EventSourceResponse(Content("a", last=5).stream(), ping_interval=2)
    touch(response)
    await connection.run(response)
    first = b'data: "a"\n\n'
    assert connection.body in (first + 2 * PING, first.upper() + 2 * PING)
    assert connection.complete


@pytest.mark.virtual_time
@TOUCHES
async def test_e2_a_client_that_leaves_is_told_and_the_generator_cleans_up(touch: Wrap) -> None:
    content = Content("a", last=1_000)
    told = content.log.append
    response = EventSourceResponse(content.stream(), on_disconnect=lambda: told("told"))
    touch(response)
    await leave_after_first(Connection(), response)
    assert sorted(content.log) == ["began", "closed", "told"]


@pytest.mark.virtual_time
@TOUCHES
async def test_e2_a_generator_at_its_yield_is_closed_before_the_response_returns(
    touch: Wrap,
) -> None:
    """The wrapper waits for something of its own meanwhile."""
    content = Content("a", "b")

    async def slowly(chunks: Any) -> AsyncIterator[Any]:
        async for chunk in chunks:
            yield chunk
            await anyio.sleep(1_000)

    response = EventSourceResponse(content.stream(), max_pending=1)
    touch(response)
    response.body_iterator = slowly(response.body_iterator)
    await leave_after_first(Connection(), response)
    assert content.log == ["began", "closed"]


@pytest.mark.virtual_time
@TOUCHES
async def test_e2_head_starts_nothing(touch: Wrap) -> None:
    content = Content("a")
    connection = Connection(method="HEAD")
    response = EventSourceResponse(content.stream())
    touch(response)
    await connection.run(response)
    assert (connection.body, connection.complete, content.log) == (b"", True, [])


@pytest.mark.virtual_time
@TOUCHES
async def test_e2_places_are_counted_and_metrics_and_background_tasks_follow(
    touch: Wrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observing, "current", observing.Observer())
    log: list[str] = []

    class One(EventSourceResponse):
        max_streams = 1

    refused, content = Connection(endpoint=Content), Content("a", last=60)
    first = One(content.stream(), background=BackgroundTask(log.append, "background"))
    touch(first)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Connection(endpoint=Content).run, first)
        await anyio.sleep(1)
        second = One(Content("a").stream())
        touch(second)
        await refused.run(second)
    assert refused.status == 503
    assert log == ["background"]
    (totals,) = observing.observe().by_route().values()
    assert (totals["events"], totals["refused"]) == (1, 1)


@pytest.mark.virtual_time
@TOUCHES
async def test_e2_a_stalled_client_is_dropped_and_a_shutdown_ends_the_stream(touch: Wrap) -> None:
    stalled, ended = Connection(), Connection()
    response = EventSourceResponse(Content("a", last=1_000).stream(), send_timeout=5)
    touch(response)
    stalled.stall()
    await stalled.run(response)
    response = EventSourceResponse(Content("a", last=1_000).stream())
    touch(response)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ended.run, response)
        await ended.until(lambda: ended.body)
        shutdown._of_this_loop()._look(signalled=True)
    assert stalled.messages == []
    assert ended.body.lower() == b'data: "a"\n\n'
    assert not ended.complete


@pytest.mark.virtual_time
async def test_e2_the_goodbye_follows_what_was_put_in_its_place() -> None:
    connection = Connection()
    response = EventSourceResponse(Content("a", last=1_000).stream(), max_duration=10)
    wrap(response)
    await connection.run(response)
    assert connection.body.startswith(b'DATA: "A"\n\n: goodbye\nretry: ')


@pytest.mark.virtual_time
async def test_e2_it_yields_the_wire_without_keep_alives_and_is_the_same_each_time() -> None:
    events = [ServerSentEvent(event="a", data=1), {"b": 2}, "c"]
    response = EventSourceResponse(Content(*events, pause=60).stream(), ping_interval=1)
    assert response.body_iterator is response.body_iterator
    assert [chunk async for chunk in response.body_iterator] == [
        b"event: a\ndata: 1\n\n",
        b'data: {"b":2}\n\n',
        b'data: "c"\n\n',
    ]


@asyncio_only
async def test_e2_it_yields_what_is_framed_as_it_is_and_of_sync_generators_too() -> None:
    closed: list[bool] = []

    def content() -> Iterator[str]:
        try:
            yield "data: a"
            yield ""
            yield "\n\n"
        finally:
            closed.append(True)

    response = EventSourceResponse(content(), framed=True)
    assert [chunk async for chunk in response.body_iterator] == [b"data: a", b"\n\n"]
    response = EventSourceResponse(content(), framed=True)
    body = response.body_iterator
    assert await body.__anext__() == b"data: a"
    await body.aclose()
    assert closed == [True, True]


@pytest.mark.virtual_time
async def test_e2_an_error_of_the_generator_comes_through_and_names_its_source() -> None:
    connection = Connection()
    caught: list[Any] = []
    response = EventSourceResponse(Content("a", {1, object()}, pause=1).stream())
    wrap(response)
    try:
        await connection.run(response)
    except Exception as error:
        caught.append(error)
    assert connection.body == b'DATA: "A"\n\n'
    assert not connection.complete
    notes = getattr(caught[0], "__notes__", ["of type builtins.set"])
    assert "of type builtins.set" in notes[0]


@pytest.mark.virtual_time
async def test_e2_what_is_not_read_any_more_is_closed() -> None:
    content = Content("a")

    async def other() -> AsyncIterator[str]:
        yield "data: other\n\n"
        yield {"more": 1}  # type: ignore[misc]

    connection, response = Connection(), EventSourceResponse(content.stream())
    body: Any = response.body_iterator
    assert await body.__anext__() == b'data: "a"\n\n'
    response.body_iterator = other()
    await connection.run(response)
    assert connection.body == b'data: other\n\ndata: {"more":1}\n\n'
    assert content.log == ["began", "closed"]


@pytest.mark.parametrize("value", ["text", b"text", {"a": 1}, None, 5])
def test_e2_what_cannot_be_streamed_is_refused(value: Any) -> None:
    response = EventSourceResponse(Content().stream())
    with pytest.raises(TypeError, match="body_iterator of EventSourceResponse streams"):
        response.body_iterator = value


@pytest.mark.virtual_time
@pytest.mark.parametrize("touch_first", [False, True])
async def test_e2_a_copy_is_delivered_as_the_response_is(touch_first: bool) -> None:
    connection = Connection()
    response = EventSourceResponse(Content("a", last=5).stream(), ping_interval=2)
    if touch_first:
        look(response)
    copied = copy.copy(response)
    look(copied)
    await connection.run(copied)
    assert connection.body == b'data: "a"\n\n' + 2 * PING


@pytest.mark.virtual_time
@TOUCHES
async def test_e2_a_subscription_is_delivered(touch: Wrap) -> None:
    connection = Connection()
    async with Channels(max_subscribers=1) as channels:
        news = channels.channel("news")
        response = news.subscribe(ping_interval=2)
        touch(response)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run, response)
            await anyio.sleep(1)
            await news.publish("a")
            await anyio.sleep(5)
            refused = Connection()
            await refused.run(news.subscribe())
            assert refused.status == 503
            connection.disconnect()
        again = Connection()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(again.run, news.subscribe())
            await again.until(lambda: again.started)
            again.disconnect()
        assert again.status == 200
    assert connection.body.lower().startswith(b"id: ")
    assert b'\ndata: "a"\n\n' in connection.body.lower()
    assert connection.body.endswith(2 * PING)


@pytest.mark.virtual_time
@TOUCHES
async def test_e2_a_follower_of_a_run_has_it_up_to_and_with_its_end(touch: Wrap) -> None:
    connection = Connection()
    async with Channels() as channels:
        answers = channels.runs("answers")
        run = await answers.start(Content("a", "b").stream())
        response = run.follow()
        touch(response)
        with anyio.fail_after(30):
            await connection.run(response)
    body = connection.body.lower()
    assert body.index(b'data: "a"') < body.index(b'data: "b"') < body.index(b"event: run-end")
    assert connection.complete


@asyncio_only
async def test_e2_nothing_of_a_wrapped_stream_waits_for_the_garbage_collector() -> None:
    import gc
    import weakref

    async def stream() -> None:
        response = EventSourceResponse(Content("a", last=60).stream())
        wrap(response)
        connection = Connection()
        task = asyncio.create_task(connection.run(response))
        await connection.until(lambda: connection.body)
        connection.disconnect()
        await task
        references.append(weakref.ref(response))

    references: list[Any] = []
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(TypeError):
            await stream()
        assert all(reference() is None for reference in references)
    finally:
        gc.enable()
