"""P12, P14, P15 and P19: followers of runs whose class has the protocol of a client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, NamedTuple
from uuid import uuid4

import anyio
import pytest
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

import run_places
from channel_clients import Client, MakeChannels, connected
from redis_checks import until
from run_answers import Answer, answering
from sserpent import EventSourceResponse, ServerSentEvent
from sserpent.channels import Channels, Runs, Subscription
from sserpent.channels.history import memory
from sserpent.channels.history.broker import BrokerUnavailable, Lease
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

setting, anyio_backend, make_channels = (
    run_places.setting,
    run_places.anyio_backend,
    run_places.make_channels,
)


class Protocol(NamedTuple):
    """What a class sends: for two items, and at each end."""

    response_class: type[ProtocolResponse]
    items: list[Any]
    events: str
    done: str
    error: str
    too_many: str
    stopped: str
    lost: str


INTERNAL, SLOW, LOST = "Internal server error", "Slow down", "The answer was interrupted"


def data(value: Any, name: str | None = None) -> str:
    line = "" if name is None else f"event: {name}\n"
    return f"{line}data: {json.dumps(value, separators=(',', ':'))}\n\n"


def openai(message: str, kind: str) -> str:
    return data({"error": {"message": message, "type": kind, "param": None, "code": None}})


def responses(name: str, **fields: Any) -> str:
    value = {"type": name, "sequence_number": 2, "response": {"id": "r", **fields}}
    return data(value, name)


def failed(code: str, message: str) -> str:
    return responses("response.failed", status="failed", error={"code": code, "message": message})


def anthropic(kind: str, message: str) -> str:
    value = {"type": "error", "error": {"type": kind, "message": message}}
    return data(value, "error")


def google(code: int, message: str, status: str) -> str:
    return data({"error": {"code": code, "message": message, "status": status}})


def vercel(message: str) -> str:
    return data({"type": "error", "errorText": message}) + "data: [DONE]\n\n"


def agui(message: str, code: str) -> str:
    return data({"type": "RUN_ERROR", "message": message, "code": code})


def langgraph(message: str) -> str:
    return data({"error": "error", "message": message}, "error")


CHUNKS = [{"n": 1}, {"n": 2}]
FRAMED = data({"n": 1}) + data({"n": 2})
DONE = "data: [DONE]\n\n"
CREATED = {"type": "response.created", "response": {"id": "r"}}
PROTOCOLS = [
    Protocol(
        OpenAIChat,
        CHUNKS,
        FRAMED,
        DONE,
        openai(INTERNAL, "server_error"),
        openai(SLOW, "rate_limit_error"),
        DONE,
        openai(LOST, "server_error"),
    ),
    Protocol(
        OpenAIResponses,
        [CREATED, {"type": "delta", "sequence_number": 9}],
        data({**CREATED, "sequence_number": 0}, "response.created")
        + data({"type": "delta", "sequence_number": 1}, "delta"),
        "",
        failed("server_error", INTERNAL),
        failed("rate_limit_exceeded", SLOW),
        responses("response.incomplete", status="cancelled"),
        failed("server_error", LOST),
    ),
    Protocol(
        AnthropicMessages,
        [{"type": "message_start"}, {"type": "ping"}],
        data({"type": "message_start"}, "message_start") + data({"type": "ping"}, "ping"),
        "",
        anthropic("api_error", INTERNAL),
        anthropic("rate_limit_error", SLOW),
        data({"type": "message_stop"}, "message_stop"),
        anthropic("api_error", LOST),
    ),
    Protocol(
        GoogleGenAI,
        CHUNKS,
        FRAMED,
        "",
        google(500, INTERNAL, "INTERNAL"),
        google(429, SLOW, "RESOURCE_EXHAUSTED"),
        google(499, "The answer was stopped", "CANCELLED"),
        google(500, LOST, "INTERNAL"),
    ),
    Protocol(
        VercelUI,
        CHUNKS,
        FRAMED,
        DONE,
        vercel(INTERNAL),
        vercel(SLOW),
        data({"type": "abort"}) + DONE,
        vercel(LOST),
    ),
    Protocol(
        AGUI,
        CHUNKS,
        FRAMED,
        "",
        agui(INTERNAL, "error"),
        agui(SLOW, "429"),
        agui("The answer was stopped", "cancelled"),
        agui(LOST, "interrupted"),
    ),
    Protocol(
        LangGraph,
        [ServerSentEvent(data=each, event="values") for each in CHUNKS],
        data({"n": 1}, "values") + data({"n": 2}, "values"),
        data(None, "end"),
        langgraph(INTERNAL),
        langgraph(SLOW),
        data(None, "end"),
        langgraph(LOST),
    ),
]
by_class = pytest.mark.parametrize(
    "protocol", PROTOCOLS, ids=[each.response_class.__name__ for each in PROTOCOLS]
)


def without_ids(body: bytes) -> str:
    lines = body.decode().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("id: "))


def ids_of(client: Client) -> list[str]:
    return [line[4:] for line in client.lines if line.startswith("id: ")]


class Follower(Client):
    """A client that notes that its stream is over."""

    finished = False

    async def run(self, app: Any) -> None:
        try:
            await super().run(app)
        finally:
            self.finished = True


async def read(subscription: Any) -> Client:
    client = Client()
    with anyio.fail_after(60):
        await client.run(subscription)
    return client


def events_of(protocol: Protocol) -> int:
    return protocol.events.count("\n\n")


async def until_stored(runs: Runs[Any], run_id: str, events: int) -> None:
    with anyio.fail_after(60):
        while (await runs.status(run_id)).events < events:
            await anyio.sleep(0.005)


@pytest.mark.parametrize("end", ["done", "error", "too_many", "stopped", "lost"])
@by_class
async def test_p12_a_run_ends_in_the_way_of_its_protocol(
    make_channels: MakeChannels,
    protocol: Protocol,
    end: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    response_class = protocol.response_class

    if end == "lost":
        monkeypatch.setattr(Lease, "DURATION", 0.0)
        monkeypatch.setattr(memory, "is_running", lambda token: False)
    async with answering(make_channels, response_class=response_class) as (
        runs,
        answer,
        started,
    ):
        answer.say(*protocol.items)
        await until_stored(runs, started.id, 0 if end == "lost" else events_of(protocol))
        if end == "lost":
            monkeypatch.setattr(Lease, "DURATION", 15.0)
        elif end == "stopped":
            await started.stop()
        elif end == "done":
            answer.end()
        else:
            answer.say(HTTPException(429, SLOW) if end == "too_many" else RuntimeError("secret"))
        first = await read(started.follow())
        await started.wait()
        for follow in (started.follow, partial(runs.follow, started.id)):
            following: Any = follow()
            following = following if isinstance(following, Subscription) else await following
            assert isinstance(following, response_class)
            client = await read(following)
            if end != "lost":  # where it may have been lost before its first event
                assert without_ids(client.body) == protocol.events + getattr(protocol, end)
                assert without_ids(first.body) == without_ids(client.body)
            assert client.complete
            assert client.headers["run-id"] == started.id
            assert bool(ids_of(client)) == response_class.event_ids
        if end == "lost":
            await lost_after_events(make_channels, protocol, monkeypatch)


async def lost_after_events(
    make_channels: MakeChannels, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with answering(make_channels, response_class=protocol.response_class) as lost:
        runs, answer, started = lost
        answer.say(*protocol.items)
        await until_stored(runs, started.id, events_of(protocol))
        [producer] = runs._local.producers
        with monkeypatch.context() as patch:
            patch.setattr(Lease, "DURATION", 0.0)
            patch.setattr(memory, "is_running", lambda token: False)
            await runs._broker.renew(runs._key(started.id, None), producer._fence)
        client = await read(started.follow())
        assert without_ids(client.body) == protocol.events + protocol.lost


@pytest.mark.parametrize("response_class", [OpenAIChat, VercelUI])
@pytest.mark.parametrize("done", [ServerSentEvent(raw_data="[DONE]"), "data: [DONE]\n\n"])
@pytest.mark.parametrize("end", ["done", "error", "stopped"])
async def test_p5_after_the_done_of_a_gateway_a_run_is_over_for_its_followers(
    make_channels: MakeChannels, response_class: Any, done: Any, end: str
) -> None:
    class Gateway(response_class):  # type: ignore[misc]
        framed = True

    async with answering(make_channels, response_class=Gateway) as (runs, answer, started):
        answer.say(*CHUNKS, "", done)
        await until_stored(runs, started.id, 2)
        if end == "stopped":
            await until(lambda: not answer._items)
            await started.stop()
        elif end == "done":
            answer.end()
        else:
            answer.say(RuntimeError("secret"))
        assert (await started.wait()).state == end
        assert (await read(started.follow())).body.decode() == FRAMED + DONE
        assert (await read(started.follow(after=1))).body.decode() == DONE


async def test_p5_after_a_done_in_the_middle_of_a_run_an_error_is_told(
    make_channels: MakeChannels,
) -> None:
    async with answering(make_channels, response_class=OpenAIChat) as (_, answer, started):
        answer.say(CHUNKS[0], ServerSentEvent(raw_data="[DONE]"), CHUNKS[1], RuntimeError())
        await started.wait()
        error = openai(INTERNAL, "server_error")
        assert (await read(started.follow())).body.decode() == FRAMED + error


@by_class
async def test_p15_a_follower_that_comes_back_in_the_middle_sees_the_rest(
    make_channels: MakeChannels, protocol: Protocol
) -> None:
    response_class = protocol.response_class
    async with answering(make_channels, response_class=response_class) as (
        runs,
        answer,
        started,
    ):
        answer.say(*protocol.items)
        await until_stored(runs, started.id, events_of(protocol))
        answer.say(RuntimeError("secret"))
        await started.wait()
        first, second = protocol.events.split("\n\n")[:2]
        assert first
        for after, rest in ((0, f"{second}\n\n"), (1, "")):
            client = await read(await runs.follow(started.id, after=after))
            # `first` is known also to those who have had it.
            assert without_ids(client.body) == rest + protocol.error
        for behind in (2, 3):
            assert (await read(started.follow(after=behind))).status == 204
        for no_place in (-1, "garbage", "0123456789abcdef-1-1"):
            with pytest.raises(HTTPException) as error:
                await read(await runs.follow(started.id, after=no_place))
            assert error.value.status_code == 400
            assert error.value.detail == "The last event ID is not one of this run"
            with pytest.raises(HTTPException) as error:
                await read(started.follow(after=no_place))
            assert error.value.status_code == 400


async def test_p15_a_number_beyond_the_newest_event_of_a_run_that_goes_on_is_a_400(
    make_channels: MakeChannels,
) -> None:
    async with answering(make_channels, response_class=OpenAIChat) as (runs, answer, started):
        huge = 10**4300 - 1  # Python does not write what comes after it
        for beyond in (0, 5, 10**20, huge):
            with pytest.raises(HTTPException) as error:
                await read(started.follow(after=beyond))
            assert error.value.status_code == 400
        answer.say({"n": 1})
        await until_stored(runs, started.id, 1)
        for beyond in (1, huge, -1):
            with pytest.raises(HTTPException) as error:
                await read(started.follow(after=beyond))
            assert error.value.status_code == 400
        answer.end()
        assert (await read(started.follow(after=0))).body == b"data: [DONE]\n\n"


async def test_p15_the_id_of_the_last_event_of_langgraph_is_a_204(
    make_channels: MakeChannels,
) -> None:
    async with answering(make_channels, response_class=LangGraph) as (runs, answer, started):
        answer.say(ServerSentEvent(data=1, event="values"))
        answer.end()
        client = await read(started.follow())
        ids = ids_of(client)
        assert len(ids) == 2
        again = await read(await runs.follow(started.id, after=ids[0]))
        assert without_ids(again.body) == "event: end\ndata: null\n\n"
        assert (await read(await runs.follow(started.id, after=ids[1]))).status == 204


@pytest.mark.parametrize("way", ["disconnect", "reset"])
async def test_p19_a_follower_that_ends_before_its_run_is_cut(
    make_channels: MakeChannels, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No connection can be closed here, so the frame of "lost" comes before the cut."""

    async with make_channels() as channels:
        runs = channels.runs("answers", response_class=OpenAIChat, shutdown_grace=0)
        answer = Answer()
        started = await runs.start(answer(), owner=1)
        async with Follower().open(started.follow()) as client:
            answer.say({"n": 1})
            await client.until(lambda: client.body == b'data: {"n":1}\n\n')
            if way == "disconnect":
                assert await channels.disconnect(owner=1) == 1
            else:
                [tail] = runs._hubs.hub()._tails.values()
                for each in list(tail.subscribers):
                    each.reset(tail, "epoch")
            await client.until(lambda: client.finished)
            assert not client.complete
            assert client.body.decode() == 'data: {"n":1}\n\n' + openai(LOST, "server_error")
        assert (await runs.status(started.id, owner=1)).state == "running"


async def test_p19_a_follower_that_has_expired_when_it_opens_is_refused(
    make_channels: MakeChannels,
) -> None:
    expired = datetime.now(timezone.utc) - timedelta(seconds=1)
    async with answering(make_channels, response_class=OpenAIChat) as (_, answer, started):
        answer.say({"n": 1})
        with pytest.raises(HTTPException) as error:
            await read(started.follow(expires_at=expired))
        assert error.value.status_code == 503
        assert error.value.headers is not None
        assert "Retry-After" in error.value.headers


class Whole(ProtocolResponse):
    """A protocol of one's own, which notes how its streams end."""

    ends: list[StreamEnd] = []  # noqa: RUF012
    keeps_first = True

    def closing_event(self, end: StreamEnd) -> Any:
        self.ends.append(end)
        return {"end": end.kind}


async def test_p12_the_end_is_told_with_what_is_known_of_the_run(
    make_channels: MakeChannels,
) -> None:
    async with answering(make_channels, response_class=Whole) as (runs, answer, started):
        answer.say({"n": 1}, {"n": 2}, ServerSentEvent(comment="no data"))
        await until_stored(runs, started.id, 3)
        answer.say(HTTPException(404, "No such model"))
        await started.wait()
        for after in (None, 0, 1):
            Whole.ends.clear()
            await read(started.follow(after=after))
            assert Whole.ends == [StreamEnd("error", "No such model", 404, {"n": 1}, {"n": 2}, 3)]


@pytest.mark.parametrize("last", ["[" * 50_000, "1" * 5_000], ids=["deep", "long"])
async def test_p12_a_last_event_that_json_cannot_read_is_known_as_text(
    make_channels: MakeChannels, last: str
) -> None:
    async with answering(make_channels, response_class=Whole) as (_, answer, started):
        answer.say(ServerSentEvent(raw_data=last))
        answer.end()
        Whole.ends.clear()
        client = Follower()
        with anyio.fail_after(20):
            await client.run(started.follow())
        assert client.complete
        assert client.body.endswith(b'\n\ndata: {"end":"done"}\n\n')
        assert [each.last for each in Whole.ends] == [last]


class Wrong(ProtocolResponse):
    wrong: Any = None

    def closing_event(self, end: StreamEnd) -> Any:
        if self.wrong == "raises":
            raise AttributeError("it has a bug")
        if self.wrong == "is cancelled":
            raise asyncio.CancelledError
        return object() if self.wrong == "object" else None


@pytest.mark.parametrize("wrong", ["raises", "is cancelled", "object"])
async def test_p12_a_closing_event_that_fails_cuts_its_follower_and_nobody_else(
    make_channels: MakeChannels, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with answering(make_channels, response_class=Wrong) as (_, answer, started):
        bad, good = started.follow(), started.follow()
        bad.wrong = wrong  # type: ignore[attr-defined]
        async with Follower().open(bad) as one, Follower().open(good) as other:
            answer.say({"n": 1})
            await other.until(lambda: other.body != b"")
            answer.end()
            await one.until(lambda: one.finished)
            await other.until(lambda: other.complete)
        assert not one.complete
        assert one.body == other.body == b'data: {"n":1}\n\n'
        assert "is cut" in caplog.text


class Priced(BaseModel):
    type: str = "price"
    amount: int
    note: str | None = None


class Named(ProtocolResponse):
    name_from = "type"

    @classmethod
    def as_event(cls, item: Any, number: int) -> Any:
        if item == "skip":
            return None
        if item == "id":
            return ServerSentEvent(data={}, id="7")
        return {"type": "text", "text": item, "number": number} if isinstance(item, str) else item


async def test_p12_as_event_and_the_rules_of_the_class_hold_where_an_item_is_yielded(
    make_channels: MakeChannels,
) -> None:
    async with answering(make_channels, response_class=Named) as (_, answer, started):
        answer.say(Priced(amount=1), "skip", "a")
        answer.end()
        expected = data({"type": "price", "amount": 1}, "price")
        expected += data({"type": "text", "text": "a", "number": 1}, "text")
        for _ in range(2):
            assert (await read(started.follow())).body.decode() == expected


async def test_p12_sync_generators_too(make_channels: MakeChannels) -> None:
    def answer() -> Iterator[Any]:
        yield "a"
        yield "skip"
        yield "b"

    async with make_channels() as channels:
        runs = channels.runs("answers", response_class=Named)
        client = await read((await runs.start(answer())).follow())
        numbers = [each.data["number"] for each in client.seen]
        assert numbers == [0, 1]


@pytest.mark.parametrize(
    ("item", "names"),
    [
        (1, "Ends sends dicts, models and events"),
        ({"text": "a"}, "Ends names an event by the field 'type'"),
        ({"type": "run-end"}, "'event' must not be 'run-end'"),
        (ServerSentEvent(data={}, event="gap"), "'event' must not be 'gap'"),
        ("id", "'id' must not be set"),
    ],
    ids=str,
)
async def test_p12_a_bad_item_ends_the_run_with_an_error_that_the_log_explains(
    make_channels: MakeChannels,
    item: Any,
    names: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Ends(Named):
        def closing_event(self, end: StreamEnd) -> Any:
            return {"type": end.kind, "message": end.message}

    async with answering(make_channels, response_class=Ends) as (_, answer, started):
        answer.say({"type": "a"}, item, {"type": "never"})
        client = await read(started.follow())
        expected = data({"type": "a"}, "a")
        expected += data({"type": "error", "message": INTERNAL}, "error")
        assert client.body.decode() == expected
        assert names in caplog.text


@pytest.mark.parametrize(
    ("item", "names"),
    [
        (b'data: {"a":1}', "must be whole events"),
        ('data: {"a":1}\n', "must be whole events"),
        (b"event:run-end\r\ndata: x\r\n\r\n", "'event' must not be 'run-end'"),
        ("data: 1\n\ndata: x\revent: run-end\r\r", "'event' must not be 'run-end'"),
        ("event: run-end\n\n", "'event' must not be 'run-end'"),
    ],
)
async def test_p6_an_item_of_a_run_that_is_framed_must_be_whole_events_and_no_run_end(
    make_channels: MakeChannels,
    item: Any,
    names: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Framed(ProtocolResponse):
        framed = True

        def closing_event(self, end: StreamEnd) -> Any:
            return {"end": end.kind}

    async with answering(make_channels, response_class=Framed) as (_, answer, started):
        answer.say(b"data: 1\r\n\r\n", "event:run-end-not\rdata: 2\r\r", item, "data: never\n\n")
        client = Follower()
        with anyio.fail_after(10):
            await client.run(started.follow())
        assert client.body == (
            b'data: 1\r\n\r\nevent:run-end-not\rdata: 2\r\rdata: {"end":"error"}\n\n'
        )
        assert names in caplog.text


async def test_p12_a_follower_has_the_options_and_headers_of_its_class(
    make_channels: MakeChannels,
) -> None:
    class Tuned(VercelUI):
        default_headers = {**VercelUI.default_headers, "X-Mine": "yes"}  # noqa: RUF012
        ping_interval = 3

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise AssertionError("it is made without this")

    async with answering(make_channels, response_class=Tuned) as (_, answer, started):
        answer.end()
        following = started.follow(ping_interval=5, headers={"X-Other": "too"})
        assert (following.ping_interval, started.follow().ping_interval) == (5, 3)
        client = await read(following)
        assert client.headers["x-vercel-ai-ui-message-stream"] == "v1"
        assert (client.headers["x-mine"], client.headers["x-other"]) == ("yes", "too")
        with pytest.raises(TypeError, match="Subscription has no option 'open_delay'"):
            started.follow(open_delay=1)


@pytest.mark.parametrize(
    "value",
    [None, "VercelUI", dict, Runs, VercelUI([])],
    ids=["None", "str", "dict", "Runs", "response"],
)
def test_p12_a_response_class_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="'response_class' must be a class of EventSourceResponse"):
        Channels().runs("answers", response_class=value)


@pytest.mark.parametrize("made_with", [EventSourceResponse, OpenAIChat, VercelUI])
async def test_p12_a_route_whose_protocol_its_runs_do_not_have_is_named_once(
    made_with: type[EventSourceResponse], caplog: pytest.LogCaptureFixture
) -> None:
    name = f"answers-{uuid4()}"  # the process remembers of which it has warned
    async with Channels() as channels:
        runs, app = channels.runs(name, response_class=made_with), FastAPI()

        @app.get("/chat/{chat}", response_class=VercelUI)
        async def follow(chat: str) -> Any:
            return await runs.follow((await runs.start(iter([{}]))).id)

        @app.get("/plain", response_class=EventSourceResponse)
        async def plain() -> Any:
            return (await runs.start(iter([{}]))).follow()

        for path in ("/chat/1", "/chat/2", "/plain"):
            client = Client(path)
            await client.run(app)
            assert client.status == 200
    warning = (
        f"Route '/chat/{{chat}}' has response_class=VercelUI, and follows runs '{name}', which are"
        " made without it: their followers are not sent that protocol. Pass response_class=VercelUI"
        f" to channels.runs('{name}')"
    )
    assert caplog.messages == ([] if made_with is VercelUI else [warning])


async def test_p12_a_class_without_a_protocol_keeps_run_end_and_has_its_options(
    make_channels: MakeChannels,
) -> None:
    class Mine(EventSourceResponse):
        ping_interval = 3
        default_headers = {"X-Mine": "yes"}  # noqa: RUF012

        def closing_event(self, end: StreamEnd) -> Any:
            raise AssertionError("runs of this class end with run-end")

    async with answering(make_channels, response_class=Mine) as (_, answer, started):
        answer.say(1)
        answer.end()
        client = await read(started.follow())
        assert [each.type for each in client.seen] == ["message", "run-end"]
        assert client.headers["x-mine"] == "yes"
        assert isinstance(started.follow(), Mine)


async def test_p24_broker_away_is_a_503_in_a_protocol_class(
    make_channels: MakeChannels, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with answering(make_channels, response_class=OpenAIChat) as (runs, _, started):

        async def away(*_: Any) -> Any:
            raise BrokerUnavailable("it is away")

        monkeypatch.setattr(runs._broker, "status", away)
        monkeypatch.setattr(runs._broker, "holder", away)
        for follow in (
            lambda: runs.follow(started.id),
            lambda: runs.follow(key="chat"),
            lambda: read(started.follow()),
        ):
            with pytest.raises(HTTPException) as error:
                await follow()
            assert error.value.status_code == 503
            assert 5 <= int((error.value.headers or {})["Retry-After"]) <= 15
        for ask in (runs.status, runs.wait):
            with pytest.raises(BrokerUnavailable):
                await ask(started.id)
        with pytest.raises(BrokerUnavailable):
            await runs.active("chat")
        monkeypatch.undo()


@by_class
async def test_p12_a_follower_is_read_by_its_body_iterator_too(
    make_channels: MakeChannels, protocol: Protocol
) -> None:
    response_class = protocol.response_class
    async with answering(make_channels, response_class=response_class) as (
        runs,
        answer,
        started,
    ):
        answer.say(*protocol.items)
        answer.end()
        await started.wait()
        following = await runs.follow(started.id)
        body = b"".join([chunk async for chunk in following.body_iterator])
        assert without_ids(body) == protocol.events + protocol.done


async def test_p12_nothing_of_a_follower_is_left(make_channels: MakeChannels) -> None:
    async with answering(make_channels, response_class=OpenAIResponses) as (
        runs,
        answer,
        started,
    ):
        async with connected(started.follow()) as client:
            answer.say(CREATED)
            await client.until(lambda: client.body != b"")
        answer.end()
        await read(started.follow())
        await until(lambda: not runs._hubs.hub()._tails and not runs._watches)


async def forever() -> AsyncIterator[Any]:
    while True:
        yield {"n": 1}
        await anyio.sleep(0.01)
