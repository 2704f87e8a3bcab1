"""Subscriptions in applications: FastAPI's routes with and without `response_class`, routers and
mounted apps, Starlette's own routes, HEAD, WebSockets, the TestClient, and all options."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Annotated, Any

import anyio
import anyio.to_thread
import fastapi.dependencies.utils
import fastapi.sse
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.routing import Route
from starlette.testclient import WebSocketDenialResponse

from channel_clients import Client, MakeChannels, connected
from event_loops import asyncio_only
from sserpent import EventSourceResponse, ServerSentEvent
from sserpent._fastapi.last_event_id import last_event_id
from sserpent._shutdown import streams as shutdown
from sserpent.channels import BrokerUnavailable, Channel, Channels, LastEventID, Subscription
from timelines import PING

pytestmark = pytest.mark.anyio


class Message(BaseModel):
    text: str


class Application:
    """Every way to declare the route, and one to publish."""

    def __init__(self) -> None:
        self.channels = Channels()
        self.rooms: Channel[Message] = self.channels.channel("rooms", Message, keyed=True)
        self.app = app = FastAPI(lifespan=self.channels.lifespan)

        async def read(room: str, last_event_id: LastEventID = None) -> Subscription[Message]:
            return self.rooms.subscribe(key=room, after=last_event_id)

        def read_sync(room: str, last_event_id: LastEventID = None) -> Subscription[Message]:
            return self.rooms.subscribe(key=room, after=last_event_id)

        async def read_any(room: str, last_event_id: LastEventID = None) -> Any:
            return self.rooms.subscribe(key=room, after=last_event_id)

        @app.post("/publish/{room}")
        async def publish(room: str, message: Message) -> str:
            return await self.rooms.publish(message, key=room, event="message")

        @app.post("/publish-sync/{room}")
        def publish_sync(room: str, message: Message) -> str:
            return self.rooms.publish_soon(message, key=room, event="message").result()

        app.get("/class/{room}", response_class=EventSourceResponse)(read)
        app.get("/no-class/{room}")(read)
        app.get("/sync/{room}", response_class=EventSourceResponse)(read_sync)
        app.get("/sync-no-class/{room}")(read_sync)
        app.get("/any/{room}", response_model=None)(read_any)
        app.post("/post/{room}", response_class=EventSourceResponse)(read)
        router = APIRouter(prefix="/router")
        router.get("/{room}", response_class=EventSourceResponse)(read)
        outer = APIRouter(prefix="/outer")
        outer.include_router(router)
        app.include_router(outer)
        self.mounted = FastAPI()
        self.mounted.get("/{room}", response_class=EventSourceResponse)(read)
        app.mount("/mounted", self.mounted)

        async def plain(request: Request) -> Any:
            after = request.headers.get("last-event-id")
            return self.rooms.subscribe(key=request.path_params["room"], after=after)

        app.mount("/starlette", Starlette(routes=[Route("/{room}", plain)]))


PATHS = ["class", "no-class", "sync", "sync-no-class", "any", "outer/router", "mounted"]
PATHS += ["starlette"]


@pytest.mark.parametrize("path", PATHS)
async def test_every_way_to_declare_the_route(path: str) -> None:
    application = Application()
    client = Client(f"/{path}/lobby")
    async with client.open(application.app):
        assert client.status == 200
        assert client.headers["content-type"].startswith("text/event-stream")
        assert client.headers["cache-control"] == "no-cache"
        assert "connection" not in client.headers
        for n in range(3):
            await application.rooms.publish(Message(text=str(n)), key="lobby")
        await client.has(*({"text": str(n)} for n in range(3)))
        first = client.seen[0].id
    headers = [(b"last-event-id", first.encode())]
    query = f"last_event_id={first}".encode()
    ways: list[dict[str, Any]] = [{"headers": headers}]
    if path != "starlette":
        ways.append({"query_string": query})
        ways.append({"headers": headers, "query_string": b"last_event_id=garbage"})
    for way in ways:
        back = Client(f"/{path}/lobby", **way)
        async with back.open(application.app):
            await back.has({"text": "1"}, {"text": "2"})
            assert back.said == []


async def place(last_event_id: LastEventID = None) -> str | None:
    return last_event_id


@pytest.mark.parametrize("path", ["own", "nested", "no-class"])
@pytest.mark.parametrize("is_overridden", [False, True])
async def test_the_last_event_id_is_a_dependency_like_any_other(
    path: str, is_overridden: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = FastAPI()
    seen: list[str | None] = []

    async def read(last_event_id: LastEventID = None) -> Any:
        seen.append(last_event_id)
        return EventSourceResponse([])

    async def read_nested(last_event_id: Annotated[str | None, Depends(place)] = None) -> Any:
        return await read(last_event_id)

    app.get("/own", response_class=EventSourceResponse)(read)
    app.get("/nested", response_class=EventSourceResponse)(read_nested)
    app.get("/no-class", response_model=None)(read)
    if is_overridden:
        app.dependency_overrides[last_event_id] = lambda: "overridden"

    read_by_fastapi: list[str] = []
    read_parameters = fastapi.dependencies.utils.request_params_to_args

    def note(fields: Any, values: Any) -> Any:
        read_by_fastapi.extend(field.alias for field in fields)
        return read_parameters(fields, values)

    monkeypatch.setattr(fastapi.dependencies.utils, "request_params_to_args", note)
    headers = [(b"last-event-id", b"by header")]
    for way in (
        {"headers": headers, "query_string": b"last_event_id=by%20query"},
        {"headers": [(b"last-event-id", b"")], "query_string": b"last_event_id=by%20query"},
        {"query_string": b"last_event_id="},
        {},
    ):
        client = Client(f"/{path}", **way)
        async with client.open(app):
            pass
    expected = ["by header", "by query", None, None]
    assert seen == (["overridden"] * 4 if is_overridden else expected)
    if path != "no-class":  # there FastAPI validates two texts, which takes a fifth of a connect
        assert read_by_fastapi == []


@pytest.mark.parametrize(
    "garbage", ["\u00ff", "x" * 10_000, "%00", "0", "' OR 1", "-", "0-0-0", "0-0-0-0"]
)
async def test_garbage_from_a_client_is_a_reset_and_no_error(garbage: str) -> None:
    application = Application()
    header = [(b"last-event-id", garbage.encode("latin-1"))]
    client = Client("/class/lobby", headers=header)
    async with client.open(application.app):
        assert client.status == 200
        await application.rooms.publish(Message(text="a"), key="lobby")
        await client.has({"text": "a"})
        assert [each.data for each in client.said] == [{"reason": "unknown"}]


@pytest.mark.parametrize("path", ["publish", "publish-sync"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_test_client_reads_while_it_publishes(backend: Any, path: str) -> None:
    application = Application()
    with TestClient(application.app, backend=backend) as http:
        posted = [http.post(f"/{path}/lobby", json={"text": str(n)}) for n in range(4)]
        assert [each.status_code for each in posted] == [200] * 4
        assert http.post(f"/{path}/lobby", json={"no": "text"}).status_code == 422
        headers = {"Last-Event-ID": posted[0].json()}
        with http.stream("GET", "/class/lobby", headers=headers) as response:
            lines = response.iter_lines()
            data = []
            while len(data) < 3:
                line = next(lines)
                if line.startswith("data: "):
                    data.append(json.loads(line[6:])["text"])
        assert data == ["1", "2", "3"]


@pytest.mark.parametrize("path", PATHS)
async def test_head_is_answered_with_the_headers_and_follows_nothing(path: str) -> None:
    application = Application()
    app = FastAPI()

    @app.head("/")
    async def head() -> Any:
        return application.rooms.subscribe(key="lobby")

    client = Client("/", "HEAD")
    await client.run(app)
    assert client.status == 200
    assert client.headers["content-type"].startswith("text/event-stream")
    assert client.body == b""
    assert client.complete
    assert application.channels._hubs._by_loop == {}


def test_a_websocket_is_denied_and_the_denial_ends() -> None:
    news = Channels().channel("news")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await news.subscribe(status_code=403)(scope, receive, send)

    with (
        pytest.raises(WebSocketDenialResponse) as denied,
        TestClient(app).websocket_connect("/"),
    ):
        pass
    assert denied.value.status_code == 403


@pytest.mark.parametrize("path", ["class", "no-class", "sync", "sync-no-class", "outer/router"])
def test_the_document_shows_the_item_type(path: str) -> None:
    document = Application().app.openapi()
    response = document["paths"][f"/{path}/{{room}}"]["get"]["responses"]["200"]
    assert list(response["content"]) == ["text/event-stream"]
    item = json.dumps(response["content"]["text/event-stream"])
    assert "#/components/schemas/Message" in item
    assert document["components"]["schemas"]["Message"]["properties"]["text"]["type"] == "string"
    names = {each["name"] for each in document["paths"][f"/{path}/{{room}}"]["get"]["parameters"]}
    assert names == {"room", "Last-Event-ID", "last_event_id"}


def test_a_route_that_states_a_response_model_or_cannot_be_evaluated_is_left_alone() -> None:
    app = FastAPI()

    @app.get("/model", response_model=Message)
    async def model() -> Any:
        return {"text": "a"}

    async def unknown() -> Any:
        return "fine"

    unknown.__annotations__["return"] = "NoSuchName"
    app.get("/unknown", response_model=None)(unknown)
    with TestClient(app) as http:
        assert http.get("/model").json() == {"text": "a"}
        assert http.get("/unknown").json() == "fine"


def test_a_subscripted_subscription_is_a_class_of_its_own() -> None:
    subscripted: Any = Subscription[Message]
    assert issubclass(subscripted, Subscription)
    assert subscripted.item_type is Message
    assert Subscription.item_type is None


async def test_a_subscriber_waits_for_no_thread_of_sync_routes() -> None:
    application = Application()
    limiter = anyio.to_thread.current_default_thread_limiter()
    for number in range(int(limiter.total_tokens)):
        limiter.acquire_on_behalf_of_nowait(number)
    with anyio.fail_after(20):
        async with Client("/class/lobby").open(application.app) as client:
            assert client.status == 200
    for number in range(int(limiter.total_tokens)):
        limiter.release_on_behalf_of(number)


# Options


@pytest.mark.virtual_time
async def test_keep_alives_come_on_an_idle_subscription_only() -> None:
    news = Channels().channel("news")
    async with connected(news.subscribe(ping_interval=10)) as client:
        await anyio.sleep(35)
        assert client.body.decode().count(PING) == 3
        for n in range(10):
            await news.publish(n)
            await anyio.sleep(9)
        assert client.body.decode().count(PING) == 3
        await anyio.sleep(10)
        assert client.body.decode().count(PING) == 4
        assert client.data == list(range(10))


@pytest.mark.parametrize("off", [None, 0])
@pytest.mark.virtual_time
async def test_keep_alives_can_be_turned_off(off: Any) -> None:
    news = Channels().channel("news")
    async with connected(news.subscribe(ping_interval=off)) as client:
        await anyio.sleep(1_000)
        assert PING not in client.body.decode()


@pytest.mark.virtual_time
async def test_a_client_that_does_not_read_is_dropped_after_send_timeout_and_told() -> None:
    channels = Channels()
    news = channels.channel("news")
    told: list[float] = []
    subscription = news.subscribe(
        send_timeout=5, on_disconnect=lambda: told.append(anyio.current_time())
    )
    client = Client()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.run, subscription)
        await client.until(lambda: client.started)
        client.stall()
        await news.publish(1)
        begin = anyio.current_time()
    assert [round(each - begin, 1) for each in told] == [5]
    assert not client.complete
    assert channels._hubs._by_loop == {}


async def test_a_client_that_leaves_is_noticed_and_told_once() -> None:
    channels = Channels()
    news = channels.channel("news")
    told: list[str] = []

    async def on_disconnect() -> None:
        told.append("told")

    async with connected(news.subscribe(on_disconnect=on_disconnect)):
        pass
    assert told == ["told"]
    assert channels._hubs._by_loop == {}


@pytest.mark.parametrize("grace", [0, 3])
@pytest.mark.virtual_time
async def test_c17_shutdown_is_a_farewell_after_its_grace(grace: float) -> None:
    news = Channels().channel("news")
    client = Client()
    told: list[str] = []
    async with anyio.create_task_group() as tasks:
        subscription = news.subscribe(
            shutdown_grace=grace, on_disconnect=lambda: told.append("told")
        )
        tasks.start_soon(client.run, subscription)
        await client.until(lambda: client.started)
        begin = anyio.current_time()
        shutdown._of_this_loop()._look(signalled=True)
        if grace:
            await news.publish("in the grace")
            await client.has("in the grace")
    assert round(anyio.current_time() - begin) == grace
    assert client.complete
    *_, comment, retry, rest = client.lines
    assert comment.startswith(":")
    assert 1_000 <= int(retry.removeprefix("retry: ")) <= 5_000
    assert rest == ""
    assert told == []


async def test_c17_a_subscription_that_opens_during_the_shutdown_is_whole() -> None:
    news = Channels().channel("news")
    async with connected(news.subscribe()) as client:
        shutdown._of_this_loop()._look(signalled=True)
        late = Client()
        with anyio.fail_after(20):
            await late.run(news.subscribe())
        assert late.status == 200
        assert late.complete
        assert late.stream.retry is not None
        await client.until(lambda: client.complete)


async def test_headers_status_and_media_type_are_the_responses() -> None:
    news = Channels().channel("news")
    subscription = news.subscribe(
        status_code=202, headers={"X-Mine": "1", "Cache-Control": "no-store"}
    )
    async with connected(subscription) as client:
        assert client.status == 202
        assert client.headers["x-mine"] == "1"
        assert client.headers["cache-control"] == "no-store"
        assert client.headers["x-accel-buffering"] == "no"


@pytest.mark.parametrize("ending", ["leaves", "closes", "refused"])
async def test_background_tasks_run_after_the_stream_and_hold_no_place(ending: str) -> None:
    channels = Channels(max_subscribers=1)
    news = channels.channel("news")
    seen: list[Any] = []

    async def task() -> None:
        seen.append(dict(channels._hubs.slots._taken))
        seen.append(dict(channels._hubs._by_loop))

    client = Client()
    subscription = news.subscribe(background=BackgroundTask(task), owner=1)
    if ending == "refused":
        async with connected(news.subscribe()) as other:
            await client.run(subscription)
            other.disconnect()
        assert len(seen) == 2
        return
    async with client.open(subscription):
        if ending == "closes":
            await channels.disconnect(owner=1)
            await client.until(lambda: seen)
    assert seen == [{}, {}]


async def test_fastapis_background_tasks_run() -> None:
    news = Channels().channel("news")
    seen: list[str] = []
    app = FastAPI()

    @app.get("/", response_class=EventSourceResponse)
    async def read(tasks: BackgroundTasks) -> Subscription[Any]:
        tasks.add_task(seen.append, "ran")
        return news.subscribe()

    async with Client().open(app):
        pass
    assert seen == ["ran"]


@asyncio_only
async def test_body_iterator_has_the_events() -> None:
    news = Channels().channel("news")
    await news.publish(1)
    subscription = news.subscribe(start="earliest")
    async for chunk in subscription.body_iterator:
        assert b"data: 1" in chunk
        break
    await subscription.body_iterator.aclose()


# Publishing from elsewhere


async def test_publishing_from_threads_and_other_event_loops() -> None:
    news = Channels().channel("news")

    def from_a_thread() -> None:
        for n in range(200):
            news.publish_soon(["thread", n]).result()

    async def in_another_loop() -> None:
        for n in range(200):
            await news.publish(["loop", n])

    async def read_in_another_loop(ready: threading.Event) -> None:
        async with connected(news.subscribe()) as client:
            ready.set()
            await client.until(lambda: len(client.data) == 400)
            elsewhere.extend(client.seen)

    elsewhere: list[Any] = []
    ready = threading.Event()
    threads = [threading.Thread(target=anyio.run, args=[read_in_another_loop, ready])]
    threads[0].start()
    assert await anyio.to_thread.run_sync(ready.wait, 20)
    async with connected(news.subscribe()) as client:
        threads += [
            threading.Thread(target=from_a_thread),
            threading.Thread(target=anyio.run, args=[in_another_loop]),
        ]
        for thread in threads[1:]:
            thread.start()
        await client.until(lambda: len(client.data) == 400)
        for thread in threads:
            await anyio.to_thread.run_sync(thread.join, 20)
        for name in ("thread", "loop"):
            assert [n for each, n in client.data if each == name] == list(range(200))
        assert elsewhere == client.seen


# Listening


async def test_listening_is_an_async_iterator_of_events(make_channels: MakeChannels) -> None:
    async with make_channels() as channels:
        rooms = channels.channel("rooms", Message, keyed=True)
        first = await rooms.publish(Message(text="0"), key="a", event="said")
        async with rooms.listen(key="a", after=first) as events:
            await rooms.publish(ServerSentEvent(data={"text": "1"}, retry=5), key="a")
            event = await events.__anext__()
            assert isinstance(event, ServerSentEvent)
            assert (event.data, event.event, event.retry) == (Message(text="1"), None, 5)
        async with rooms.listen(key="a", start="earliest") as events:
            async for event in events:
                assert (event.data, event.event, event.id) == (Message(text="0"), "said", first)
                break


@pytest.mark.parametrize("history", [0, 5])
async def test_a_listener_that_waits_misses_nothing_and_a_slow_one_is_told(history: int) -> None:
    channels = Channels()
    news = channels.channel("news", history=history)
    heard: list[Any] = []

    async def listen() -> None:
        async with news.listen() as events:
            ready.set()
            while len(heard) < 20:
                event = await events.__anext__()
                heard.append(event.event or event.data)

    ready = anyio.Event()
    async with anyio.create_task_group() as tasks, news.listen() as slow:
        tasks.start_soon(listen)
        await ready.wait()
        for n in range(20):
            await news.publish(n)
            with anyio.fail_after(20):
                while len(heard) <= n:
                    await anyio.sleep(0.001)
        assert heard == list(range(20))
        first = await slow.__anext__()
        missed = first.data["missed"]
        # The newest may still be there for a turn, though the history keeps none.
        assert (first.event, missed) in [("gap", 20 - history), ("gap", 20 - max(history, 1))]
        rest = [(await slow.__anext__()).data for _ in range(20 - missed)]
        assert rest == list(range(missed, 20))


async def test_a_listener_is_entered_once_and_before_it_is_iterated() -> None:
    news = Channels().channel("news")
    listener = news.listen(start="earliest")
    for use in (aiter, anext):
        with pytest.raises(RuntimeError, match=r"async with channel\.listen\(\) as events"):
            await use(listener)  # type: ignore[arg-type]
    await news.publish(1)
    async with listener as events:
        with pytest.raises(RuntimeError, match="can be entered once"):
            await listener.__aenter__()
        await news.publish(2)
        assert [(await anext(events)).data for _ in range(2)] == [1, 2]
    with pytest.raises(StopAsyncIteration):
        await anext(listener)


async def test_a_listener_can_be_entered_again_after_a_broker_was_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def away(*_: Any) -> Any:
        raise BrokerUnavailable("it is away")

    channels = Channels()
    news = channels.channel("news")
    listener = news.listen()
    with monkeypatch.context() as patch:
        patch.setattr(channels._broker, "follow", away)
        with pytest.raises(BrokerUnavailable):
            await listener.__aenter__()
    async with listener as events:
        await news.publish(1)
        assert (await anext(events)).data == 1


async def test_a_listener_ends_when_channels_are_closed(make_channels: MakeChannels) -> None:
    async with make_channels() as channels:
        news = channels.channel("news")
        heard: list[Any] = []
        with anyio.fail_after(20):
            async with news.listen() as events:
                await news.publish(1)
                await channels.aclose()
                heard.extend([event.data async for event in events])
        assert heard == [1]


async def test_a_filter_that_raises_raises_where_one_listens() -> None:
    news = Channels().channel("news")

    def fail(event: Any) -> bool:
        raise LookupError("on purpose")

    async with news.listen(filter=fail) as events:
        await news.publish(1)
        with anyio.fail_after(20), pytest.raises(LookupError, match="on purpose"):
            await events.__anext__()


KINDS: list[tuple[Callable[[], Any], dict[str, Any]]] = [
    (lambda: 1, {"data": 1, "event": None}),
    (lambda: "text", {"data": "text"}),
    (lambda: ServerSentEvent(data=1, event="a", retry=3), {"data": 1, "event": "a", "retry": 3}),
    (lambda: ServerSentEvent(raw_data="two\nlines"), {"raw_data": "two\nlines"}),
    (lambda: ServerSentEvent(raw_data="event: x\n\nid: 1"), {"raw_data": "event: x\n\nid: 1"}),
    (lambda: ServerSentEvent(data=1, comment="c"), {"data": 1}),
    (lambda: ServerSentEvent(retry=7), {"retry": 7, "data": None}),
    (lambda: ServerSentEvent(data=1, event="message"), {"data": 1, "event": "message"}),
    (lambda: fastapi.sse.ServerSentEvent(data={"a": 1}, event="b"), {"data": {"a": 1}}),
]


@pytest.mark.parametrize(("item", "fields"), KINDS)
async def test_an_event_is_heard_as_it_was_published(
    make_channels: MakeChannels, item: Callable[[], Any], fields: dict[str, Any]
) -> None:
    async with make_channels() as channels:
        news = channels.channel("news")
        published = await news.publish(item())
        async with news.listen(start="earliest") as events:
            event = await events.__anext__()
        assert event.id == published
        assert {name: getattr(event, name) for name in fields} == fields
