"""The classes of `sserpent.protocols`: what each sends at its end, byte by byte, on both event
loops; and what a class of one's own may do."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import anyio
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Response
from fastapi.testclient import TestClient
from pydantic import BaseModel

from asgi import Connection
from sserpent import EventSourceResponse, ServerSentEvent
from sserpent._shutdown import streams as shutdown
from sserpent.protocols import (
    AGUI,
    AnthropicMessages,
    GoogleGenAI,
    LangGraph,
    OpenAIChat,
    OpenAIResponses,
    ProtocolResponse,
    StreamEnd,
    VercelUI,
)

pytestmark = pytest.mark.anyio

CLASSES = [
    OpenAIChat,
    OpenAIResponses,
    AnthropicMessages,
    GoogleGenAI,
    VercelUI,
    AGUI,
    LangGraph,
]

FIRST = {"type": "response.created", "response": {"id": "r", "status": "in_progress"}}
DONE = "data: [DONE]\n\n"
INTERNAL = "Internal server error"
STOPPED = "The answer was stopped"
LOST = "The answer was interrupted"


def chat(message: str, kind: str) -> str:
    error = f'{{"message":"{message}","type":"{kind}","param":null,"code":null}}'
    return f'data: {{"error":{error}}}\n\n'


def responses(message: str, code: str) -> str:
    error = f'{{"code":"{code}","message":"{message}"}}'
    response = f'{{"id":"r","status":"failed","error":{error}}}'
    return (
        'event: response.failed\ndata: {"type":"response.failed","sequence_number":1,'
        f'"response":{response}}}\n\n'
    )


def anthropic(message: str, kind: str) -> str:
    error = f'{{"type":"{kind}","message":"{message}"}}'
    return f'event: error\ndata: {{"type":"error","error":{error}}}\n\n'


def google(message: str, code: int, status: str) -> str:
    return f'data: {{"error":{{"code":{code},"message":"{message}","status":"{status}"}}}}\n\n'


def vercel(message: str) -> str:
    return f'data: {{"type":"error","errorText":"{message}"}}\n\n{DONE}'


def ag_ui(message: str, code: str) -> str:
    return f'data: {{"type":"RUN_ERROR","message":"{message}","code":"{code}"}}\n\n'


def lang_graph(message: str) -> str:
    return f'event: error\ndata: {{"error":"error","message":"{message}"}}\n\n'


END = "event: end\ndata: null\n\n"
CANCELLED = (
    'event: response.incomplete\ndata: {"type":"response.incomplete","sequence_number":1,'
    '"response":{"id":"r","status":"cancelled"}}\n\n'
)

# Of each class: done, error, HTTPException(429, "slow"), stopped by request, lost.
TABLE: dict[Any, tuple[str, str, str, str, str]] = {
    OpenAIChat: (
        DONE,
        chat(INTERNAL, "server_error"),
        chat("slow", "rate_limit_error"),
        DONE,
        chat(LOST, "server_error"),
    ),
    OpenAIResponses: (
        "",
        responses(INTERNAL, "server_error"),
        responses("slow", "rate_limit_exceeded"),
        CANCELLED,
        responses(LOST, "server_error"),
    ),
    AnthropicMessages: (
        "",
        anthropic(INTERNAL, "api_error"),
        anthropic("slow", "rate_limit_error"),
        'event: message_stop\ndata: {"type":"message_stop"}\n\n',
        anthropic(LOST, "api_error"),
    ),
    GoogleGenAI: (
        "",
        google(INTERNAL, 500, "INTERNAL"),
        google("slow", 429, "RESOURCE_EXHAUSTED"),
        google(STOPPED, 499, "CANCELLED"),
        google(LOST, 500, "INTERNAL"),
    ),
    VercelUI: (
        DONE,
        vercel(INTERNAL),
        vercel("slow"),
        f'data: {{"type":"abort"}}\n\n{DONE}',
        vercel(LOST),
    ),
    AGUI: (
        "",
        ag_ui(INTERNAL, "error"),
        ag_ui("slow", "429"),
        ag_ui(STOPPED, "cancelled"),
        ag_ui(LOST, "interrupted"),
    ),
    LangGraph: (END, lang_graph(INTERNAL), lang_graph("slow"), END, lang_graph(LOST)),
}
COLUMNS: list[Callable[..., StreamEnd]] = [
    functools.partial(StreamEnd, "done"),
    functools.partial(StreamEnd, "error", "exception"),
    functools.partial(StreamEnd, "error", "slow", 429),
    functools.partial(StreamEnd, "stopped", "request"),
    functools.partial(StreamEnd, "lost"),
]
NAMES = ["done", "error", "refused", "stopped", "lost"]


def framed(response_class: Any, end: StreamEnd, core: Any = None) -> str:
    frames = response_class(iter([]))._closing_frames(end)
    return "".join(frame.decode() for frame in frames)


@pytest.mark.parametrize("column", range(5), ids=NAMES)
@pytest.mark.parametrize("response_class", CLASSES)
def test_every_end_of_a_run_has_its_bytes(
    response_class: Any, column: int, core: Any, monkeypatch: Any
) -> None:
    for name in ("Buffer", "ItemRules", "ServerSentEvent"):
        monkeypatch.setattr(f"sserpent._fastapi.response.{name}", getattr(core, name))
    monkeypatch.setattr("sserpent._fastapi.protocol_response.ItemRules", core.ItemRules)
    done = core.ServerSentEvent(raw_data="[DONE]")
    monkeypatch.setattr("sserpent.protocols._DONE", done)
    monkeypatch.setattr("sserpent.protocols.ServerSentEvent", core.ServerSentEvent)
    of_core = type(response_class.__name__, (response_class,), {})
    end = COLUMNS[column](first=FIRST, last=FIRST, count=1)
    assert framed(of_core, end) == TABLE[response_class][column]


def test_a_run_that_its_server_has_stopped_is_told_as_lost() -> None:
    for response_class in CLASSES:
        end = StreamEnd("stopped", "shutdown", first=FIRST, last=FIRST, count=1)
        assert framed(response_class, end) == TABLE[response_class][4]


# In streams


class Refused(HTTPException):
    def __init__(self) -> None:
        super().__init__(429, "slow")


ERRORS: dict[str, Callable[[], Exception] | None] = {
    "done": None,
    "error": lambda: KeyError("secret"),
    "refused": Refused,
}


async def raising(name: str) -> AsyncIterator[Any]:
    yield FIRST
    error = ERRORS[name]
    if error is not None:
        raise error()


def raising_sync(name: str) -> Iterator[Any]:
    yield FIRST
    error = ERRORS[name]
    if error is not None:
        raise error()


async def sent(response: Any, error: type[Exception] | None = None, **scope: Any) -> Connection:
    connection = Connection(**scope)
    with anyio.fail_after(30):
        if error is None:
            await response(connection.scope, connection.receive, connection.send)
        else:
            with pytest.raises(error):
                await response(connection.scope, connection.receive, connection.send)
    return connection


def body_of(connection: Connection) -> str:
    parts = [m for m in connection.messages if m["type"] == "http.response.body"]
    return b"".join(part["body"] for part in parts).decode()


def is_whole(connection: Connection) -> bool:
    return connection.messages[-1].get("more_body") is False


@pytest.mark.parametrize("make", [raising, raising_sync], ids=["async", "sync"])
@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("response_class", CLASSES)
async def test_every_end_of_a_stream_has_its_bytes(
    response_class: Any, name: str, make: Any
) -> None:
    response = response_class(make(name))
    connection = await sent(response, KeyError if name == "error" else None)
    assert is_whole(connection)
    last = TABLE[response_class][NAMES.index(name)]
    item = 'data: {"type":"response.created","response":{"id":"r","status":"in_progress"}}\n\n'
    if response_class is OpenAIResponses:
        item = item.replace("}}\n", '},"sequence_number":0}\n')
    if response_class.name_from:
        item = f"event: response.created\n{item}"
    assert body_of(connection) == item + last


@pytest.mark.parametrize("response_class", [EventSourceResponse, *CLASSES])
async def test_before_the_first_event_an_error_is_a_status(response_class: Any) -> None:
    async def refuses() -> AsyncIterator[Any]:
        raise Refused
        yield

    connection = await sent(response_class(refuses()), Refused)
    assert connection.messages == []


TERMINAL = [
    (OpenAIResponses, "response.completed", ""),
    (OpenAIResponses, "response.failed", ""),
    (AnthropicMessages, "message_stop", ""),
    (VercelUI, "finish", DONE),
    (VercelUI, "abort", DONE),
    (AGUI, "RUN_FINISHED", ""),
    (AGUI, "RUN_ERROR", ""),
]


@pytest.mark.parametrize(("response_class", "name", "last"), TERMINAL)
@pytest.mark.parametrize("how", ["item", "event", "framed"])
@pytest.mark.parametrize(("error", "logged"), [(KeyError, KeyError), (Refused, RuntimeError)])
async def test_p5_after_the_protocols_own_last_event_an_error_is_only_logged(
    response_class: Any,
    name: str,
    last: str,
    how: str,
    error: type[Exception],
    logged: type[Exception],
) -> None:
    async def fails_late() -> AsyncIterator[Any]:
        yield FIRST
        if how == "item":
            yield {"type": name}
        elif how == "event":
            yield ServerSentEvent(data={"type": name}, event=name)
            yield ServerSentEvent(comment="nothing")
        else:
            yield f'event: {name}\ndata: {{"type":"{name}"}}\n\n'
        raise error

    connection = await sent(response_class(fails_late(), framed=how == "framed"), logged)
    assert is_whole(connection)
    _, found, after = body_of(connection).rpartition(f'"type":"{name}"')
    assert found
    assert after.partition("\n\n")[2].removeprefix(": nothing\n\n") == last


@pytest.mark.parametrize("response_class", [OpenAIChat, VercelUI])
@pytest.mark.parametrize("done", [ServerSentEvent(raw_data="[DONE]"), "data: [DONE]\n\n"])
async def test_p5_done_is_sent_once(response_class: Any, done: Any) -> None:
    async def gateway() -> AsyncIterator[Any]:
        yield {"a": 1}
        yield done

    connection = await sent(response_class(gateway(), framed=True))
    assert body_of(connection) == f'data: {{"a":1}}\n\n{DONE}'


@pytest.mark.parametrize("response_class", [OpenAIChat, VercelUI])
@pytest.mark.parametrize(
    "done",
    [
        [ServerSentEvent(raw_data="[DONE]")],
        [ServerSentEvent(raw_data="[DONE]"), ServerSentEvent(comment="nothing")],
        ["data: [DONE]\n\n"],
        ["data: {}\n\ndata: [DONE]\n\n"],
    ],
)
@pytest.mark.parametrize(("error", "logged"), [(KeyError, KeyError), (Refused, RuntimeError)])
async def test_p5_after_the_done_of_a_gateway_an_error_is_only_logged(
    response_class: Any, done: list[Any], error: type[Exception], logged: type[Exception]
) -> None:
    async def gateway() -> AsyncIterator[Any]:
        yield {}
        for item in done:
            yield item
        raise error

    connection = await sent(response_class(gateway(), framed=True), logged)
    assert is_whole(connection)
    kept = body_of(connection).replace("data: {}\n\n", "").replace(": nothing\n\n", "")
    assert kept == DONE


@pytest.mark.parametrize("response_class", [OpenAIChat, VercelUI])
async def test_p5_after_a_done_in_the_middle_an_error_is_told(response_class: Any) -> None:
    async def gateway() -> AsyncIterator[Any]:
        yield {"a": 1}
        yield ServerSentEvent(raw_data="[DONE]")
        yield {"a": 2}
        raise KeyError

    connection = await sent(response_class(gateway()), KeyError)
    assert INTERNAL in body_of(connection)


async def test_p6_what_is_no_object_ends_the_stream_with_an_error(caplog: Any) -> None:
    async def text() -> AsyncIterator[Any]:
        yield {"a": 1}
        yield "text"

    connection = await sent(OpenAIChat(text()), TypeError)
    assert body_of(connection).endswith(chat(INTERNAL, "server_error"))
    assert is_whole(connection)


async def test_p6_an_item_that_is_framed_must_end_an_event(caplog: Any) -> None:
    async def half() -> AsyncIterator[Any]:
        yield "data: {}\n\n"
        yield "data: {}\n"

    connection = await sent(OpenAIChat(half(), framed=True))
    assert not is_whole(connection)
    assert "[DONE]" not in body_of(connection)
    assert "did not end an event" in caplog.text


# A class of one's own


class Own(EventSourceResponse):
    ends: list[StreamEnd]

    def closing_event(self, end: StreamEnd) -> Any:
        self.ends = [*getattr(self, "ends", []), end]
        return ServerSentEvent(event=end.kind, raw_data=end.message)


@pytest.mark.parametrize("make", [raising, raising_sync], ids=["async", "sync"])
async def test_p1_any_class_may_have_a_last_event(make: Any) -> None:
    response = Own(make("done"))
    connection = await sent(response)
    assert body_of(connection).endswith("event: done\ndata: \n\n")
    assert is_whole(connection)
    assert response.ends == [StreamEnd("done", last=FIRST, count=1)]
    response = Own(make("refused"))
    connection = await sent(response)
    assert body_of(connection).endswith("event: error\ndata: slow\n\n")
    assert response.ends == [StreamEnd("error", "slow", 429, last=FIRST, count=1)]


async def test_p1_none_is_as_without() -> None:
    class Silent(EventSourceResponse):
        def closing_event(self, end: StreamEnd) -> Any:
            return None

    connection = await sent(Silent(raising("done")))
    assert is_whole(connection)
    connection = await sent(Silent(raising("error")), KeyError)
    assert not is_whole(connection)


async def test_p1_a_head_and_a_client_that_leaves_have_no_last_event() -> None:
    async def endless() -> AsyncIterator[Any]:
        while True:
            yield {"a": 1}
            await anyio.sleep(0.01)

    response = Own(raising("done"))
    connection = await sent(response, method="HEAD")
    assert body_of(connection) == ""
    assert not hasattr(response, "ends")
    response, connection = Own(endless()), Connection()
    async with anyio.create_task_group() as group:
        group.start_soon(response, connection.scope, connection.receive, connection.send)
        await connection.until(lambda: body_of(connection) != "")
        connection.disconnect()
    assert not hasattr(response, "ends")


FAILURES: dict[str, type[BaseException]] = {
    "raises": AttributeError,
    "is cancelled": asyncio.CancelledError,
    "exits": SystemExit,
}


@pytest.mark.parametrize("bad", [*FAILURES, "cannot be sent"])
@pytest.mark.parametrize("base", [EventSourceResponse, ProtocolResponse])
async def test_p9_a_last_event_that_fails_cuts_its_stream(base: Any, bad: str, caplog: Any) -> None:
    class Bad(base):  # type: ignore[misc]
        def closing_event(self, end: StreamEnd) -> Any:
            if bad in FAILURES:
                raise FAILURES[bad]("mine")
            return [{"fine": 1}, {"not": object()}]

    with anyio.fail_after(10):
        connection = await sent(Bad(raising("done")))
    assert not is_whole(connection)
    assert "fine" not in body_of(connection)
    assert any(record.levelno == logging.ERROR for record in caplog.records)
    assert "is cut" in caplog.text


@pytest.mark.parametrize("last", ["[" * 50_000, "1" * 5_000, "x" * (17 * 2**20)], ids=len)
async def test_p1_a_last_event_that_json_cannot_read_is_known_as_text(last: str) -> None:
    class Ends(ProtocolResponse):
        def closing_event(self, end: StreamEnd) -> Any:
            assert end.last == last
            return ServerSentEvent(raw_data="[DONE]")

    async def items() -> AsyncIterator[Any]:
        yield ServerSentEvent(raw_data=last)

    with anyio.fail_after(20):
        connection = await sent(Ends(items()))
    assert is_whole(connection)
    assert body_of(connection).endswith(DONE)


def test_p1_a_last_event_is_neither_validated_nor_converted() -> None:
    class Item(BaseModel):
        type: str
        note: int | None = None

    class Converting(ProtocolResponse):
        name_from = "type"

        @classmethod
        def as_event(cls, item: Any, number: int) -> Any:
            return Item(type=f"{item.type}-{number}")

        def closing_event(self, end: StreamEnd) -> Any:
            return [{"type": "end", "is": None}, Item(type="last")]

    app = FastAPI()

    @app.get("/", response_class=Converting)
    async def items() -> AsyncIterator[Item]:
        yield Item(type="a")
        yield Item(type="b")

    with TestClient(app) as client:
        assert client.get("/").text == (
            'event: a-0\ndata: {"type":"a-0"}\n\nevent: b-1\ndata: {"type":"b-1"}\n\n'
            'event: end\ndata: {"type":"end","is":null}\n\nevent: last\ndata: {"type":"last"}\n\n'
        )


def test_p4_a_refusal_ends_in_the_response_and_nothing_else_does() -> None:
    app = FastAPI()
    seen: list[str] = []

    async def dependency() -> AsyncIterator[None]:
        try:
            yield
        except BaseException as error:
            seen.append(type(error).__name__)
            raise
        else:
            seen.append("normal")

    @app.get("/{name}", response_class=OpenAIChat, dependencies=[Depends(dependency)])
    async def stream(name: str, tasks: BackgroundTasks) -> AsyncIterator[Any]:
        tasks.add_task(seen.append, "background")
        async for item in raising(name):
            yield item

    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/refused").text.endswith(chat("slow", "rate_limit_error"))
        assert seen == ["normal"]
        seen.clear()
        client.get("/done")
        assert sorted(seen) == ["background", "normal"]
        seen.clear()
        assert client.get("/error").text.endswith(chat(INTERNAL, "server_error"))
        assert seen == ["KeyError"]


def test_p4_no_internals_are_told() -> None:
    assert StreamEnd("error", "exception").message == INTERNAL
    assert StreamEnd("error", "max_bytes").message == INTERNAL
    assert StreamEnd("error", None, 404).message == "Not Found"
    assert StreamEnd("error", None, 599).message == INTERNAL
    assert StreamEnd("stopped", "request").message == STOPPED
    assert StreamEnd("stopped", "shutdown").message == StreamEnd("lost").message == LOST
    assert StreamEnd("done").message == ""


async def test_a_detail_that_is_no_text_is_not_told() -> None:
    async def refuses() -> AsyncIterator[Any]:
        yield {"a": 1}
        raise HTTPException(403, {"secret": 1})

    connection = await sent(VercelUI(refuses()))
    assert body_of(connection).endswith(vercel("Forbidden"))


# Cuts


@pytest.mark.parametrize("response_class", CLASSES)
@pytest.mark.virtual_time
async def test_p3_max_duration_cuts(response_class: Any) -> None:
    class Short(response_class):  # type: ignore[misc]
        max_duration = 0.05

    async def endless() -> AsyncIterator[Any]:
        yield FIRST
        await anyio.sleep(60)

    connection = await sent(Short(endless()))
    assert not is_whole(connection)
    # There is no server here whose connection could be closed.
    assert body_of(connection).endswith("}\n\n" + TABLE[response_class][4])
    assert "goodbye" not in body_of(connection)


@pytest.mark.virtual_time
async def test_p3_what_has_not_begun_is_refused() -> None:
    class Short(OpenAIChat):
        max_duration = 0.05
        open_delay = None

    async def slow() -> AsyncIterator[Any]:
        await anyio.sleep(60)
        yield FIRST

    connection = Connection()
    with pytest.raises(HTTPException) as raised, anyio.fail_after(30):
        await Short(slow())(connection.scope, connection.receive, connection.send)
    assert raised.value.status_code == 503
    assert raised.value.headers is not None
    assert "Retry-After" in raised.value.headers
    assert connection.messages == []


@pytest.mark.parametrize("why", ["expired", "shutdown"])
@pytest.mark.parametrize("make", [raising, raising_sync], ids=["async", "sync"])
async def test_p3_what_ends_before_its_generator_has_begun_is_refused(why: str, make: Any) -> None:
    connection = Connection()
    receive = connection.receive

    async def shut_down_and_receive() -> Any:
        shutdown._of_this_loop().of_server(connection.scope).look(signalled=True)
        return await receive()

    options: dict[str, Any] = {}
    if why == "expired":
        options["expires_at"] = datetime.now(timezone.utc) - timedelta(seconds=1)
    else:
        connection.receive = shut_down_and_receive  # type: ignore[method-assign]
    source = make("done")
    with pytest.raises(HTTPException) as raised, anyio.fail_after(30):
        await connection.run(OpenAIChat(source, **options))
    assert raised.value.status_code == 503
    assert raised.value.headers is not None
    assert "Retry-After" in raised.value.headers
    assert connection.messages == []
    assert (source.ag_frame if make is raising else source.gi_frame) is None


async def test_p3_a_full_house_is_a_503_for_those_who_come_back_too() -> None:
    class One(OpenAIChat):
        max_streams = 1

    async def endless() -> AsyncIterator[Any]:
        yield FIRST
        await anyio.sleep(60)

    first = Connection()
    async with anyio.create_task_group() as group:
        group.start_soon(One(endless()), first.scope, first.receive, first.send)
        await first.until(lambda: body_of(first) != "")
        headers = [(b"last-event-id", b"1")]
        second = await sent(One(endless()), headers=headers)
        assert second.messages[0]["status"] == 503
        assert b"retry-after" in dict(second.messages[0]["headers"])
        first.disconnect()


async def test_p3_a_server_that_shuts_down_refuses(monkeypatch: Any) -> None:
    monkeypatch.setattr("sserpent._shutdown.is_ending", lambda scope: True)
    source = raising("done")
    connection = await sent(VercelUI(source))
    assert connection.status == 503
    assert 5 <= int(connection.headers["retry-after"]) <= 15
    with pytest.raises(StopAsyncIteration):
        await source.__anext__()


# Headers, options, bad input


def test_default_headers_are_sent_unless_the_response_has_them() -> None:
    name = "x-vercel-ai-ui-message-stream"
    assert VercelUI(iter([])).headers[name] == "v1"
    assert VercelUI(iter([]), headers={name.upper(): "v2"}).headers.getlist(name) == ["v2"]

    class Mine(EventSourceResponse):
        default_headers = {"Cache-Control": "no-store", "X-Mine": "é"}  # noqa: RUF012

    app = FastAPI()

    @app.get("/", response_class=Mine)
    async def items(response: Response) -> AsyncIterator[Any]:
        response.headers["X-Mine"] = "mine"
        yield 1

    with TestClient(app) as client:
        headers = client.get("/").headers
    assert headers.get_list("x-mine") == ["mine"]
    assert headers.get_list("cache-control") == ["no-store"]


def test_p10_keep_alives() -> None:
    assert AnthropicMessages.ping_event.encode() == b'event: ping\ndata: {"type":"ping"}\n\n'
    assert GoogleGenAI.ping_interval is None
    rule = "option 'ping_interval' must be None, not 5"
    with pytest.raises(ValueError, match=rule):
        GoogleGenAI(iter([]), ping_interval=5)
    with pytest.raises(ValueError, match=rule):
        type("Mine", (GoogleGenAI,), {"ping_interval": 5})
    GoogleGenAI(iter([]), ping_interval=None)


async def _asynchronous(self: Any, end: StreamEnd) -> Any:
    return None


@pytest.mark.parametrize(
    ("base", "attributes", "message"),
    [
        (EventSourceResponse, {"closing_event": _asynchronous}, "closing_event of Mine must be a"),
        (EventSourceResponse, {"closing_event": {"a": 1}}, "closing_event of Mine must be a meth"),
        (EventSourceResponse, {"default_headers": {"a": 1}}, "default_headers of Mine must be"),
        (EventSourceResponse, {"default_headers": "a: b"}, "default_headers of Mine must be"),
        (ProtocolResponse, {"name_from": 1}, "name_from of Mine must be a str or None, not int"),
        (ProtocolResponse, {"exclude_none": None}, "exclude_none of Mine must be True or False"),
        (ProtocolResponse, {"event_ids": 1}, "event_ids of Mine must be True or False, not int"),
        (ProtocolResponse, {"keeps_first": 1}, "keeps_first of Mine must be True or False, not"),
        (ProtocolResponse, {"as_event": lambda item: item}, "as_event of Mine must be a class m"),
    ],
)
def test_a_bad_attribute_is_refused_when_the_class_is_made(
    base: Any, attributes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        type("Mine", (base,), attributes)


# Models


class Chunk(BaseModel):
    id: str = "c"
    usage: int | None = None


@pytest.mark.parametrize(
    ("options", "chunk"),
    [
        ({}, '{"id":"c"}'),
        ({"response_model_exclude_unset": True}, '{"usage":null}'),
        ({"response_model_exclude_defaults": True}, "{}"),
        ({"response_model_exclude": {"id"}}, "{}"),
    ],
)
def test_p6_what_a_route_says_of_its_model_holds(options: dict[str, Any], chunk: str) -> None:
    app = FastAPI()

    @app.get("/", response_class=OpenAIChat, **options)
    async def chunks() -> AsyncIterator[Chunk]:
        yield Chunk(usage=None)

    with TestClient(app) as client:
        assert client.get("/").text == f"data: {chunk}\n\n{DONE}"


def test_a_compressed_stream_has_its_last_events() -> None:
    app = FastAPI()

    @app.get("/{name}", response_class=OpenAIChat)
    async def chunks(name: str) -> Any:
        return OpenAIChat(raising(name), compress=True)

    with TestClient(app) as client:
        done = client.get("/done")
        assert done.headers["content-encoding"] == "gzip"
        assert done.text.endswith(DONE)
        assert client.get("/refused").text.endswith(chat("slow", "rate_limit_error"))


async def test_a_body_iterator_has_the_last_events_once() -> None:
    response = OpenAIChat(raising("error"))
    inner = response.body_iterator

    async def wrapped() -> AsyncIterator[Any]:
        async for part in inner:
            yield part

    response.body_iterator = wrapped()
    connection = await sent(response, KeyError)
    assert body_of(connection).count(chat(INTERNAL, "server_error")) == 1
    assert is_whole(connection)
    response = OpenAIChat(raising("done"))
    inner = response.body_iterator
    response.body_iterator = wrapped()
    connection = await sent(response)
    assert body_of(connection).endswith("}\n\n" + DONE)
    assert body_of(connection).count(DONE) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (402, "billing_error"),
        (409, "invalid_request_error"),
        (413, "request_too_large"),
        (422, "invalid_request_error"),
        (451, "invalid_request_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "api_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
        (None, "api_error"),
    ],
)
def test_each_status_is_a_kind_of_error_of_anthropics(status: int | None, kind: str) -> None:
    end = StreamEnd("error", "slow" if status else "exception", status)
    expected = anthropic("slow" if status else INTERNAL, kind)
    assert framed(AnthropicMessages, end) == expected
