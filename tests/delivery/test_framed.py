"""`framed`: items that are framed already go to the wire as they are, with all of the delivery."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import nullcontext
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from fastapi import FastAPI, HTTPException
from fastapi.exceptions import ResponseValidationError
from fastapi.testclient import TestClient
from pydantic import BaseModel
from starlette.background import BackgroundTask

import sserpent._delivery.observer as observing
from asgi import Connection
from event_loops import asyncio_only
from servers import Server, on, until
from sserpent import EventSourceResponse, ServerSentEvent
from sserpent._shutdown import streams as shutdown
from sserpent.channels import Channels
from sserpent.protocols import OpenAIChat

pytestmark = pytest.mark.anyio


PING = b": ping\n"


class Framed(EventSourceResponse):
    framed = True


class Item(BaseModel):
    name: str


async def parts(*items: Any, pause: float = 0, last: float = 0) -> AsyncIterator[Any]:
    for number, item in enumerate(items):
        if number and pause:
            await anyio.sleep(pause)
        yield item
    if last:
        await anyio.sleep(last)


async def streamed(make: Callable[[], EventSourceResponse]) -> Connection:
    connection = Connection()
    with anyio.fail_after(1_000):
        await connection.run(make())
    return connection


MIXED: list[Any] = [
    "data: a\n\n", b"data: b\n\n", bytearray(b"data: c\n\n"), memoryview(b"data: d\n\n"),
    {"e": 1}, ServerSentEvent(event="f", data=1), Item(name="g"), "da", "ta: h\n", b"\n",
]  # fmt: skip
WIRE = (
    b'data: a\n\ndata: b\n\ndata: c\n\ndata: d\n\ndata: {"e":1}\n\nevent: f\ndata: 1\n\n'
    b'data: {"name":"g"}\n\ndata: h\n\n'
)


def kinds() -> list[Callable[[], EventSourceResponse]]:
    return [
        lambda: EventSourceResponse(parts(*MIXED), framed=True),
        lambda: EventSourceResponse(parts(*MIXED, pause=1), framed=True),
        lambda: Framed(parts(*MIXED)),
    ]


@pytest.mark.virtual_time
@pytest.mark.parametrize("make", kinds())
async def test_e1_what_is_ready_is_on_the_wire_as_it_is(
    make: Callable[[], EventSourceResponse],
) -> None:
    connection = await streamed(make)
    assert connection.body == WIRE
    assert connection.complete
    assert connection.headers["content-type"] == "text/event-stream; charset=utf-8"


def test_e1_a_sync_generator_is_framed_too() -> None:
    def content() -> Iterator[Any]:
        yield from MIXED

    app = FastAPI()
    app.get("/", response_class=Framed)(content)
    assert TestClient(app).get("/").content == WIRE


@pytest.mark.virtual_time
async def test_e1_without_framed_text_is_data() -> None:
    connection = await streamed(lambda: EventSourceResponse(parts("data: a\n\n", b"b")))
    assert connection.body == b'data: "data: a\\n\\n"\n\ndata: "b"\n\n'


@pytest.mark.parametrize("value", [1, 0, None, "yes", []])
def test_e1_framed_is_a_bool(value: Any) -> None:
    message = f"'framed' must be True or False, not {type(value).__name__}"
    with pytest.raises(TypeError, match=message):
        EventSourceResponse(parts(), framed=value)
    with pytest.raises(TypeError, match=message):
        type("Bad", (EventSourceResponse,), {"framed": value})


@asyncio_only
async def test_e1_subscriptions_and_runs_refuse_framed() -> None:
    async with Channels() as channels:
        news, runs = channels.channel("news"), channels.runs("answers")
        run = await runs.start(parts("a"))
        makes: list[Callable[[], Any]] = [
            lambda: news.subscribe(framed=True),
            lambda: channels.subscribe(news.on(), framed=True),
            lambda: run.follow(framed=True),
            lambda: setattr(news.subscribe(), "framed", True),
        ]
        for make in makes:
            with pytest.raises(TypeError, match="has no option 'framed': its events are"):
                make()


NOTHING: list[tuple[Any, type[EventSourceResponse]]] = [
    ("", Framed),
    (ServerSentEvent(raw_data="[DONE]"), OpenAIChat),
]


@pytest.mark.virtual_time
@pytest.mark.parametrize(("nothing", "response_class"), NOTHING)
async def test_e1_items_that_become_nothing_hold_nothing_up(
    nothing: Any, response_class: type[EventSourceResponse]
) -> None:
    """What a slow generator yields is handed over at once. Here there is nothing to hand over."""

    async def content() -> AsyncIterator[Any]:
        for _ in range(3):
            time.sleep(0.004)  # noqa: ASYNC251 - longer than the buffer's `max_age`
            yield nothing
        yield {"a": 1}

    connection = await streamed(lambda: response_class(content()))
    assert connection.body.startswith(b'data: {"a":1}\n\n')
    assert connection.complete


@pytest.mark.virtual_time
@pytest.mark.parametrize(("nothing", "response_class"), NOTHING)
async def test_e1_a_generator_whose_items_become_nothing_gives_others_a_turn(
    nothing: Any, response_class: type[EventSourceResponse]
) -> None:
    turns = 0

    async def content() -> AsyncIterator[Any]:
        before, until = turns, time.monotonic() + 5
        while turns == before and time.monotonic() < until:
            yield nothing
        assert turns > before

    connection = Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run, response_class(content()))
        while not connection.complete:
            await anyio.lowlevel.checkpoint()
            turns += 1


# Where a line begins


async def with_pings(*items: Any, **options: Any) -> bytes:
    """Returns the body of a stream with 5 quiet seconds after each item, and pings after 2."""
    options = {"ping_interval": 2, "open_delay": 0, **options}
    return (await streamed(lambda: Framed(parts(*items, pause=5, last=5), **options))).body


@pytest.mark.virtual_time
async def test_e1_a_keep_alive_that_is_an_event_is_sent_only_between_events() -> None:
    ping = ServerSentEvent(event="ping")
    for begins, ends in (
        ("event: a\n", "data: b\n\n"),
        ("event: a\r\n", "data: b\r\n\r\n"),
        ("event: a\n", "data: b\n\r\n"),
    ):
        body = await with_pings(begins, ends, ping_event=ping)
        assert body == (begins + ends).encode() + 2 * ping.encode()


@pytest.mark.virtual_time
@pytest.mark.parametrize("fails", [True, False])
async def test_e1_a_closing_event_is_not_part_of_an_event_that_has_not_ended(
    fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def content() -> AsyncIterator[str]:
        yield "data: a\n\n"
        yield "data: half"
        if fails:
            raise HTTPException(429)

    class Closing(Framed):
        def closing_event(self, end: Any) -> Any:
            return ServerSentEvent(event="end", data=1)

    connection = Connection()
    with pytest.raises(RuntimeError, match="429") if fails else nullcontext():
        await connection.run(Closing(content()))
    assert connection.body == b"data: a\n\ndata: half"
    assert not connection.complete
    assert "did not end an event" in caplog.text


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("items", "body"),
    [
        (["data: a\n\n"], b"data: a\n\n" + 2 * PING),
        (["data: a\n"], b"data: a\n" + 2 * PING),
        (["data: a"], b"data: a"),
        (["data: a", "\n\n"], b"data: a\n\n" + 2 * PING),
        (["data: a\r", "\n\r\n"], b"data: a\r\n\r\n" + 2 * PING),
        (["data: a\r", "data: b\n"], b"data: a\rdata: b\n" + 2 * PING),
        (["data: a", {"b": 1}], b'data: adata: {"b":1}\n\n' + 2 * PING),
        (["", "data: a\n\n"], 2 * PING + b"data: a\n\n" + 2 * PING),
        ([{"b": 1}, "data: a"], b'data: {"b":1}\n\n' + 2 * PING + b"data: a"),
    ],
)
async def test_e1_a_keep_alive_is_sent_only_where_a_line_begins(
    items: list[Any], body: bytes
) -> None:
    assert await with_pings(*items) == body


@pytest.mark.virtual_time
async def test_e1_a_keep_alive_is_due_as_soon_as_it_would_be_when_a_line_has_ended_late() -> None:
    times: list[float] = []

    async def content() -> AsyncIterator[str]:
        yield "data: a"
        await anyio.sleep(7)
        yield "\n\n"
        times.append(anyio.current_time())
        await anyio.sleep(10)

    class Clocked(Connection):
        async def send(self, message: Any) -> None:
            if message.get("body") == PING:
                times.append(anyio.current_time())
            await super().send(message)

    await Clocked().run(Framed(content(), ping_interval=4))
    assert [round(at - times[0], 1) for at in times] == [0, 4, 8]


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("item", "says"),
    [("data: a\n\n", True), ("data: a\n", True), ("", True), ("data: a", False), (b"a\r", False)],
)
async def test_e1_the_farewell_is_left_out_in_the_middle_of_a_line(item: Any, says: bool) -> None:
    body = (await streamed(lambda: Framed(parts(item, last=60), max_duration=10))).body
    ready = item.encode() if isinstance(item, str) else item
    assert re.fullmatch(re.escape(ready) + (rb": goodbye\nretry: \d+\n" if says else b""), body)


# The rest of the delivery


@pytest.mark.virtual_time
async def test_e1_text_that_is_no_unicode_fails_the_stream_and_names_its_source() -> None:
    connection = Connection()
    caught: list[BaseException] = []
    try:
        await connection.run(Framed(parts("data: a\n\n", "data: \ud800\n\n", pause=1)))
    except ValueError as error:
        caught.append(error)
    assert connection.body == b"data: a\n\n"
    assert not connection.complete
    assert str(caught[0]) == "text must be valid Unicode, without lone surrogates"
    notes = getattr(caught[0], "__notes__", None)
    assert notes is None or "an item of type builtins.str from" in notes[0]
    assert notes is None or "parts (" in notes[0]


def test_e1_an_annotation_does_not_validate_what_is_ready() -> None:
    app = FastAPI()

    @app.get("/text", response_class=Framed)
    async def text() -> AsyncIterable[str]:
        yield "data: a\n\n"

    @app.get("/items", response_class=Framed)
    async def items() -> AsyncIterable[Item]:
        yield "data: a\n\n"  # type: ignore[misc]
        yield Item(name="b")

    @app.get("/bad", response_class=Framed)
    async def bad() -> AsyncIterable[Item]:
        yield {"title": "b"}  # type: ignore[misc]

    client = TestClient(app)
    assert client.get("/text").text == "data: a\n\n"
    assert client.get("/items").text == 'data: a\n\ndata: {"name":"b"}\n\n'
    with pytest.raises(ResponseValidationError):
        client.get("/bad")


@pytest.mark.parametrize("item_type", [str, bytes, str | bytes])
def test_e1_the_document_says_nothing_of_the_data_of_what_is_ready(item_type: Any) -> None:
    async def endpoint() -> Any:
        yield "data: a\n\n"

    endpoint.__annotations__["return"] = AsyncIterable[item_type]
    app = FastAPI()
    app.get("/", response_class=Framed)(endpoint)
    content = app.openapi()["paths"]["/"]["get"]["responses"]["200"]["content"]
    assert "contentSchema" not in content["text/event-stream"]["itemSchema"]["properties"]["data"]
    assert TestClient(app).get("/").text == "data: a\n\n"


@pytest.mark.virtual_time
async def test_e1_head_starts_nothing() -> None:
    began: list[bool] = []

    async def content() -> AsyncIterator[str]:
        began.append(True)
        yield "data: a\n\n"

    connection = Connection(method="HEAD")
    await connection.run(Framed(content()))
    assert (connection.body, connection.complete, began) == (b"", True, [])


@pytest.mark.virtual_time
async def test_e1_a_client_that_leaves_is_told_and_the_generator_cleans_up() -> None:
    log: list[str] = []
    connection = Connection()

    async def content() -> AsyncIterator[str]:
        try:
            yield "data: a"
            await anyio.sleep(1_000)
        finally:
            log.append("closed")

    response = Framed(content(), on_disconnect=lambda: log.append("told"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run, response)
        await connection.until(lambda: connection.body)
        connection.disconnect()
    assert sorted(log) == ["closed", "told"]


@pytest.mark.virtual_time
async def test_e1_metrics_count_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observing, "current", observing.Observer())
    observer = observing.observe()
    items = ["data: a\n", "\n", "data: b\n\ndata: c\r\n\r\n", {"d": 1}, "data: e"]
    await Connection(endpoint=parts).run(Framed(parts(*items, pause=1)))
    (totals,) = observer.by_route().values()
    assert totals["events"] == 4


@pytest.mark.virtual_time
async def test_e1_a_shutdown_ends_it_and_background_tasks_follow_a_whole_stream() -> None:
    log: list[str] = []
    cut, whole = Connection(), Connection()
    task = BackgroundTask(log.append, "background")
    await whole.run(Framed(parts("data: a\n\n", last=1), background=task))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cut.run, Framed(parts("data: a\n\n", last=1_000)))
        await cut.until(lambda: cut.body)
        shutdown._of_this_loop()._look(signalled=True)
    assert log == ["background"]
    assert (whole.complete, cut.complete) == (True, False)
    assert whole.body == cut.body == b"data: a\n\n"


@pytest.mark.virtual_time
async def test_e1_a_client_that_does_not_read_is_dropped() -> None:
    connection = Connection()
    connection.stall()
    await connection.run(Framed(parts("data: a", last=1_000), send_timeout=5))
    assert connection.messages == []


# On real servers

APP = "delivery_app:app"


@on("uvicorn", "hypercorn", "hypercorn-trio", "granian")
@pytest.mark.parametrize(("path", "first"), [("/framed", "first"), ("/wrapped", "FIRST")])
def test_e1_servers_send_it_with_keep_alives_and_tell_of_a_client_that_leaves(
    shared: Server, path: str, first: str
) -> None:
    with httpx.stream("GET", shared.url + path, timeout=20) as response:
        received = ""
        for text in response.iter_text():
            received += text
            if received.count(": ping\n") >= 2:
                break
    assert received.lower().startswith("data: first\n\n: ping\n: ping\n")
    assert first in received
    until(lambda: "framed: told" in shared.log)
