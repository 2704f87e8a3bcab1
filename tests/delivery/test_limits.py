"""How many streams there may be, and for how long: `max_streams` and `max_duration`."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import anyio
import pytest
from fastapi import FastAPI

import sserpent._delivery.observer as observing
from asgi import Connection
from sse_parser import parse
from sserpent import EventSourceResponse, ServerSentEvent
from sserpent._shutdown import streams as shutdown
from sserpent.channels import Channels
from sserpent.metrics import instrument_prometheus

pytestmark = pytest.mark.anyio


def goodbye(body: bytes) -> int:
    """Returns the reconnection time, in ms, of a stream that ends with a farewell."""
    found = re.search(rb"(?:^|\n)(?:: goodbye|: not now)\nretry: (\d+)\n$", body)
    assert found, body
    return int(found[1])


# max_duration


async def ticking() -> AsyncIterator[int]:
    number = 0
    while True:
        yield number
        number += 1
        await anyio.sleep(10)


async def streamed(response: Callable[[], EventSourceResponse], **more: Any) -> tuple[Any, float]:
    """Returns the connection of a whole stream, and for how long it lasted."""
    connection = Connection()
    begin = anyio.current_time()
    with anyio.fail_after(1_000):
        if "act" in more:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(connection.run, response())
                await more["act"](connection)
        else:
            await connection.run(response())
    return connection, anyio.current_time() - begin


@pytest.mark.virtual_time
async def test_a_stream_ends_whole_within_the_last_tenth_of_max_duration() -> None:
    lasted = []
    for _ in range(10):
        connection, seconds = await streamed(
            lambda: EventSourceResponse(ticking(), max_duration=100)
        )
        assert connection.complete
        assert 1_000 <= goodbye(connection.body) <= 5_000
        assert [each.data for each in parse(connection.body).events] == [str(n) for n in range(10)]
        assert 90 <= seconds <= 100.1
        lasted.append(round(seconds, 3))
    assert len(set(lasted)) > 1


@pytest.mark.virtual_time
@pytest.mark.parametrize("more", [{}, {"max_duration": 100}], ids=["alone", "before max_duration"])
async def test_a_stream_ends_whole_when_it_expires(more: dict[str, Any]) -> None:
    def response() -> EventSourceResponse:
        expires_at = datetime.now(timezone.utc) + timedelta(seconds=20)
        return EventSourceResponse(ticking(), expires_at=expires_at, **more)

    connection, seconds = await streamed(response)
    assert connection.complete
    assert 1_000 <= goodbye(connection.body) <= 5_000
    assert 19 <= seconds <= 20.1


@pytest.mark.virtual_time
async def test_a_subscription_and_a_run_that_is_followed_expire_too() -> None:
    channels = Channels()
    news, runs = channels.channel("news"), channels.runs("answers")

    async def answer() -> AsyncIterator[str]:
        yield "a"
        await anyio.sleep(1_000)

    soon = timedelta(seconds=20)
    async with channels:
        answering = await runs.start(answer())
        for subscribe in (news.subscribe, answering.follow):
            connection, begin = Connection(), anyio.current_time()
            await connection.run(subscribe(expires_at=datetime.now(timezone.utc) + soon))
            assert goodbye(connection.body)
            assert 19 <= anyio.current_time() - begin <= 20.1
        await runs.stop(answering.id)


@pytest.mark.virtual_time
async def test_what_has_expired_when_it_opens_gives_nothing_away() -> None:
    channels = Channels()
    news, runs = channels.channel("news"), channels.runs("answers")
    entered = False

    async def content() -> AsyncIterator[str]:
        nonlocal entered
        entered = True
        yield "a"

    expired = datetime.now(timezone.utc) - timedelta(seconds=20)
    async with channels:
        answering = await runs.start(ticking())
        await news.publish("secret")
        for make in (
            lambda: EventSourceResponse(content(), expires_at=expired),
            lambda: news.subscribe(start="earliest", expires_at=expired),
            lambda: answering.follow(expires_at=expired),
        ):
            connection, begin = Connection(), anyio.current_time()
            await connection.run(make())
            assert connection.status == 200
            assert connection.complete
            assert parse(connection.body).events == []
            assert goodbye(connection.body)
            assert anyio.current_time() - begin < 1
        await runs.stop(answering.id)
    assert not entered


@pytest.mark.virtual_time
async def test_max_duration_lets_a_generator_clean_up_and_sends_what_it_yields_before() -> None:
    log: list[str] = []

    async def content() -> AsyncIterator[str]:
        try:
            yield "a"
            await anyio.sleep(1_000)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(2)
            log.append("cleaned up")

    connection, seconds = await streamed(lambda: EventSourceResponse(content(), max_duration=10))
    assert log == ["cleaned up"]
    assert connection.complete
    assert parse(connection.body).events[0].data == '"a"'
    assert 11 <= seconds <= 12.1


@pytest.mark.virtual_time
async def test_a_cleanup_that_fails_at_max_duration_cuts_the_stream_off() -> None:
    async def content() -> AsyncIterator[str]:
        try:
            yield "a"
            await anyio.sleep(1_000)
        finally:
            raise RuntimeError("on purpose")

    connection = Connection()
    with pytest.raises(RuntimeError, match="on purpose"):
        await connection.run(EventSourceResponse(content(), max_duration=10))
    assert not connection.complete


@pytest.mark.virtual_time
async def test_a_stream_without_an_event_ends_at_max_duration_too() -> None:
    async def silent() -> AsyncIterator[str]:
        await anyio.sleep(10_000)
        yield "never"

    response = lambda: EventSourceResponse(silent(), max_duration=10, open_delay=None)  # noqa: E731
    connection, seconds = await streamed(response)
    assert connection.complete
    assert connection.messages[0]["status"] == 200
    goodbye(connection.body)
    assert seconds <= 10.1


@pytest.mark.virtual_time
async def test_a_client_that_does_not_read_at_max_duration_is_dropped_after_cleanup_timeout() -> (
    None
):
    async def act(connection: Connection) -> None:
        await connection.until(lambda: connection.body)
        connection.stall()

    response = lambda: EventSourceResponse(ticking(), max_duration=100, cleanup_timeout=5)  # noqa: E731
    connection, seconds = await streamed(response, act=act)
    assert not connection.complete
    assert 95 <= seconds <= 106


@pytest.mark.virtual_time
async def test_a_stream_that_ends_before_max_duration_says_nothing_of_it() -> None:
    async def two() -> AsyncIterator[int]:
        yield 1
        yield 2

    connection, _ = await streamed(lambda: EventSourceResponse(two(), max_duration=10))
    assert connection.body == b"data: 1\n\ndata: 2\n\n"


@pytest.mark.virtual_time
async def test_a_shutdown_before_max_duration_goes_as_ever() -> None:
    async def act(connection: Connection) -> None:
        await anyio.sleep(15)
        shutdown._of_this_loop()._look(signalled=True)

    response = lambda: EventSourceResponse(ticking(), max_duration=100)  # noqa: E731
    connection, seconds = await streamed(response, act=act)
    assert not connection.complete
    assert seconds < 20


def sync_ticking() -> Iterator[int]:
    while True:
        yield 1


async def test_a_sync_generator_ends_at_max_duration() -> None:
    connection, _ = await streamed(lambda: EventSourceResponse(sync_ticking(), max_duration=0.2))
    assert connection.complete
    goodbye(connection.body)


@pytest.mark.virtual_time
async def test_a_subscription_ends_at_max_duration_with_one_goodbye() -> None:
    news = Channels().channel("news")

    async def act(connection: Connection) -> None:
        await connection.until(lambda: connection.started)
        await news.publish("a")

    connection, seconds = await streamed(lambda: news.subscribe(max_duration=100), act=act)
    assert connection.complete
    assert connection.body.count(b"goodbye") == 1
    goodbye(connection.body)
    assert 90 <= seconds <= 100.1


class Open:
    """One of many other streams of the process."""

    def shut_down(self) -> None:
        pass


@pytest.mark.virtual_time
async def test_c17_the_more_streams_there_are_the_longer_some_clients_wait() -> None:
    scope = {"type": "http"}
    others = [Open() for _ in range(8_000)]
    opened = [shutdown.opened(each, scope) for each in others]
    connections = [Connection() for _ in range(60)]
    async with Channels() as channels, anyio.create_task_group() as tasks:
        news = channels.channel("news")
        for connection in connections:
            tasks.start_soon(connection.run, news.subscribe())
        for connection in connections:
            await connection.until(lambda each=connection: each.started)  # type: ignore[misc]
        await channels.aclose()
    for each, streams in zip(others, opened, strict=True):
        shutdown.closed(each, streams)
    retries = [goodbye(each.body) for each in connections]
    assert min(retries) >= 1_000
    assert 6_000 < max(retries) <= 1_000 + 8_060


# max_streams


class Held:
    """A route whose streams stay open until they are let go of, at most three at a time."""

    def __init__(self, **attributes: Any) -> None:
        self.streams = 0
        self.most = 0
        self.release = anyio.Event()
        self.response_class = type("Few", (EventSourceResponse,), {"max_streams": 3, **attributes})
        self.app = app = FastAPI()

        @app.get("/", response_class=self.response_class)
        async def held() -> AsyncIterator[ServerSentEvent]:
            self.streams += 1
            self.most = max(self.most, self.streams)
            try:
                yield ServerSentEvent(data=1, id="1")
                await self.release.wait()
            finally:
                self.streams -= 1

    def connection(self, last_event_id: str | None = None) -> Connection:
        headers = [] if last_event_id is None else [(b"last-event-id", last_event_id.encode())]
        return Connection("/", headers=headers)


def status(connection: Connection) -> int:
    found: int = connection.messages[0]["status"]
    return found


def headers(connection: Connection) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in connection.messages[0]["headers"]}


@pytest.mark.virtual_time
async def test_a_thousand_at_once_are_never_more_than_there_may_be() -> None:
    held = Held()
    connections = [held.connection("1" if n % 2 else None) for n in range(1_000)]
    async with anyio.create_task_group() as tasks:
        for connection in connections:
            tasks.start_soon(connection.run, held.app)
        for connection in connections:
            await connection.until(lambda each=connection: each.messages)  # type: ignore[misc]
        await anyio.sleep(1)
        assert held.streams == held.most == 3
        held.release.set()
    open_ = [each for each in connections if b"data" in each.body]
    assert len(open_) == 3
    refused = [each for each in connections[::2] if each not in open_]
    for each in refused:
        assert status(each) == 503
        assert each.complete
        assert 5 <= int(headers(each)["retry-after"]) <= 15
    for each in connections[1::2]:
        if each not in open_:
            assert status(each) == 200
            assert headers(each)["content-type"].startswith("text/event-stream")
            assert 5_000 <= goodbye(each.body) <= 15_000
            assert each.complete
    # Their places are free again.
    again = held.connection()
    await again.run(held.app)
    assert b"data" in again.body


@pytest.mark.virtual_time
async def test_a_class_counts_its_own_streams_and_those_of_subclasses_that_set_none() -> None:
    class Two(EventSourceResponse):
        max_streams = 2

    class Sub(Two):
        ping_interval = 5

    class Own(Two):
        max_streams = 1

    async def content() -> AsyncIterator[int]:
        yield 1
        await anyio.sleep(100)

    async with anyio.create_task_group() as tasks:
        connections = [Connection() for _ in range(6)]
        classes = [Two, Sub, Two, Own, Own, EventSourceResponse]
        for connection, each in zip(connections, classes, strict=True):
            tasks.start_soon(connection.run, each(content()))
            await connection.until(lambda each=connection: each.messages)  # type: ignore[misc]
        assert [status(each) for each in connections] == [200, 200, 503, 200, 503, 200]
        tasks.cancel_scope.cancel()


@pytest.mark.virtual_time
async def test_the_place_of_a_stream_that_fails_or_is_left_is_free_again() -> None:
    class One(EventSourceResponse):
        max_streams = 1

    async def failing() -> AsyncIterator[int]:
        yield 1
        raise RuntimeError("on purpose")

    for _ in range(3):
        with pytest.raises(RuntimeError, match="on purpose"):
            await Connection().run(One(failing()))
        connection = Connection()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run, One(ticking()))
            await connection.until(lambda: connection.body)  # noqa: B023
            connection.disconnect()
        assert status(connection) == 200


@pytest.mark.virtual_time
@pytest.mark.parametrize("way", ["gone", "hangs"])
async def test_the_content_of_a_refused_stream_is_closed_within_its_time(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    class One(EventSourceResponse):
        max_streams = 1
        cleanup_timeout = 3

    closed: list[str] = []

    class Content:
        def __aiter__(self) -> Content:
            return self

        async def __anext__(self) -> str:
            raise StopAsyncIteration

        async def aclose(self) -> None:
            closed.append(way)
            if way == "hangs":
                await anyio.sleep(10_000)

    async def gone(_: Any) -> None:
        raise BrokenPipeError

    first, second = Connection(), Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.run, One(ticking()))
        await first.until(lambda: first.body)
        begin = anyio.current_time()
        if way == "gone":
            second.send = gone  # type: ignore[assignment]
            with pytest.raises(BrokenPipeError):
                await second.run(One(Content()))
        else:
            await second.run(One(Content()))
        assert closed == [way]
        assert anyio.current_time() - begin == pytest.approx(3 if way == "hangs" else 0, abs=0.1)
        tasks.cancel_scope.cancel()
    assert len(caplog.records) == (way == "hangs")


@pytest.mark.virtual_time
async def test_a_refused_stream_begins_nothing_and_is_not_counted_as_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from prometheus_client import CollectorRegistry

    monkeypatch.setattr(observing, "current", None)
    registry = CollectorRegistry()
    stop = instrument_prometheus(registry)
    begun: list[str] = []

    class One(EventSourceResponse):
        max_streams = 1

    async def content() -> AsyncIterator[int]:
        begun.append("begun")
        yield 1
        await anyio.sleep(100)

    try:
        async with anyio.create_task_group() as tasks:
            first = Connection()
            tasks.start_soon(first.run, One(content()))
            await first.until(lambda: first.body)
            refused = content()
            await Connection().run(One(refused))
            assert begun == ["begun"]
            with pytest.raises(StopAsyncIteration):
                await refused.__anext__()  # it was closed
            labels = {"route": ""}
            assert registry.get_sample_value("sserpent_streams_open", labels) == 1
            assert registry.get_sample_value("sserpent_streams_refused_total", labels) == 1
            tasks.cancel_scope.cancel()
    finally:
        stop()


@pytest.mark.virtual_time
async def test_head_takes_no_place() -> None:
    class One(EventSourceResponse):
        max_streams = 1

    async with anyio.create_task_group() as tasks:
        first = Connection()
        tasks.start_soon(first.run, One(ticking()))
        await first.until(lambda: first.body)
        head = Connection(method="HEAD")
        await head.run(One(ticking()))
        assert status(head) == 200
        tasks.cancel_scope.cancel()
