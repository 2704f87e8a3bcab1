"""`connect`: a client in process that streams, on asyncio and Trio, over httpx2 and httpx."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import httpx
import httpx2
import pytest
from fastapi import FastAPI, HTTPException, Request
from starlette.types import Receive, Scope, Send

import sserpent
from feed import Feed
from sserpent import EventSourceResponse
from sserpent.channels import Channels
from sserpent.client import MessageEvent, NotAnEventStream, aiter_events
from sserpent.testing import FakeUpstream, connect

pytestmark = pytest.mark.anyio


EVENT_STREAM = [(b"content-type", b"text/event-stream")]


@pytest.fixture(params=[httpx2, httpx], ids=lambda module: module.__name__)
def library(request: pytest.FixtureRequest) -> Any:
    return request.param


# httpx does not close the generators in which it reads a body.
@pytest.mark.filterwarnings("ignore:Async generator 'httpx")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_an_endless_stream_is_read_while_it_is_sent(library: Any) -> None:
    feed = Feed()
    async with connect(feed.app, http_library=library) as client:
        assert isinstance(client.http, library.AsyncClient)
        async with client.stream("GET", "/events") as response:
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            received = b""
            async with aclosing(response.aiter_bytes()) as chunks:
                async for chunk in chunks:
                    received += chunk
                    if received.count(b"\n\n") >= 3:
                        break
        assert feed.cleaned_up == 1


async def test_events_come_one_by_one_and_none_is_lost() -> None:
    feed = Feed()
    async with connect(feed.app) as client, client.events("/events") as events:
        assert await events.next(timeout=5) == MessageEvent('{"number":1}', last_event_id="1")
        numbers = [(await events.next()).json()["number"] for _ in range(5)]
        assert numbers == [2, 3, 4, 5, 6]
        assert events.last_event_id == "6"
        assert events.response.status_code == 200


async def test_ordinary_requests_and_the_whole_of_a_stream() -> None:
    app = FastAPI()

    @app.post("/echo")
    async def echo(request: Request) -> Any:
        return {"body": (await request.body()).decode(), "query": request.url.query}

    @app.get("/three", response_class=EventSourceResponse)
    async def three() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    async with connect(app) as client:
        response = await client.post("/echo?a=1", content="text")
        assert response.json() == {"body": "text", "query": "a=1"}
        async with client.events("/three") as events:
            assert [event.json() async for event in events] == [0, 1, 2]
            with pytest.raises(AssertionError, match="GET /three: the stream has ended; 3 events"):
                await events.next()
            await events.none_within(0.01)
        assert (await client.get("/three")).text.count("data: ") == 3
        assert (await client.request("HEAD", "/nothing")).status_code == 404


async def test_none_within_keeps_the_event_that_came() -> None:
    feed = Feed(ping_interval=0.005)
    async with connect(feed.app) as client, client.events("/idle") as events:
        with pytest.raises(AssertionError, match=r"an event came within 5 s: .*first"):
            await events.none_within(5)
        assert (await events.next()).json() == "first"
        await events.none_within(0.03)  # while keep-alives come


async def test_a_wait_in_vain_says_what_came() -> None:
    feed = Feed()
    async with connect(feed.app) as client, client.events("/idle") as events:
        await events.next()
        with pytest.raises(TimeoutError) as caught:
            await events.next(timeout=0.01)
    assert str(caught.value) == (
        "GET /idle: no event came within 0.01 s; 1 events were read, and so far came status 200"
        " and 28 bytes, the last of them b'event: hello\\ndata: \"first\"\\n\\n'"
    )


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({}, "text/event-stream"),
        ({"accept": "*/*"}, "text/event-stream"),
        ({"accept": "application/json, text/event-stream"}, "application/json, text/event-stream"),
        ({"Accept": ""}, ""),
    ],
)
async def test_an_accept_that_a_test_gives_is_sent(
    library: Any, given: dict[str, str], sent: str
) -> None:
    upstream = FakeUpstream([b"id: 1\ndata: a\n\n"])
    async with (
        connect(upstream, http_library=library) as client,
        client.events("/mcp", headers=given) as events,
    ):
        await events.next()
        await events.reconnect()
    assert [request.headers["accept"] for request in upstream.requests] == [sent, sent]
    assert upstream.requests[1].headers["last-event-id"] == "1"


async def test_an_accept_of_the_client_itself_is_sent() -> None:
    upstream = FakeUpstream([b"data: a\n\n"])
    async with connect(upstream) as client:
        client.http.headers["Accept"] = "text/event-stream, text/plain"
        async with client.events("/events"):
            pass
    assert upstream.requests[0].headers["accept"] == "text/event-stream, text/plain"


@pytest.mark.parametrize(
    ("content_type", "is_taken"),
    [
        ("Text/Event-Stream", True),
        ("text/event-stream ;charset=utf-8", True),
        ("text/event-streamer", False),
        ("text/event-stream-json; charset=utf-8", False),
        ("", False),
    ],
)
async def test_a_content_type_is_taken_where_a_client_takes_it(
    content_type: str, is_taken: bool
) -> None:
    upstream = FakeUpstream([b"data: a\n\n"], headers={"Content-Type": content_type})
    async with connect(upstream) as client:
        async with client.stream("GET", "/events") as response:
            try:
                read = [event.data async for event in aiter_events(response)]
            except NotAnEventStream:
                read = []
        assert bool(read) is is_taken
        if not is_taken:
            with pytest.raises(AssertionError, match="is no event stream: b'data: a"):
                async with client.events("/events"):
                    pass
            return
        async with client.events("/events") as events:
            assert (await events.next()).data == "a"


async def test_leaving_returns_when_the_cleanup_is_done() -> None:
    feed = Feed()
    async with connect(feed.app) as client, client.events("/events") as events:
        await events.next()
        await events.leave()
        assert feed.cleaned_up == 1
        await events.leave()
        # What has come before is still there.
        with pytest.raises(httpx2.RemoteProtocolError, match="client has left"):  # noqa: PT012
            while True:
                await events.next()


async def test_the_end_of_the_context_leaves_too() -> None:
    feed = Feed()
    async with connect(feed.app) as client:
        async with client.events("/events") as events:
            await events.next()
        assert feed.cleaned_up == 1
        response = await client.http.send(client.build_request("GET", "/events"), stream=True)
        assert feed.cleaned_up == 1
    assert feed.cleaned_up == 2
    assert response.status_code == 200


@pytest.mark.virtual_time
async def test_a_client_that_does_not_read_holds_the_generator() -> None:
    feed = Feed(max_pending=1)
    async with connect(feed.app) as client, client.events("/events") as events:
        await events.next()
        await events.stall()
        await events.until_send_waits()
        reached = feed.yielded
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(TimeoutError, match=r"no event came within 0\.03 s"):  # noqa: PT012
            while True:
                await events.next(timeout=0.03)
        # One event waits in its `send`, another for it, and the generator at a third.
        assert feed.yielded <= reached + 2
        await events.resume()
        assert (await events.next()).json()["number"] <= reached + 1


async def test_a_client_that_reads_nothing_holds_the_generator_after_64_kib() -> None:
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM})
            for _ in range(1000):
                sent += 1024
                body = b":" * 1023 + b"\n"
                await send({"type": "http.response.body", "body": body, "more_body": True})

    async with connect(app) as client, client.events("/") as events:
        await events.until_send_waits()
        assert sent == 65_536 + 1024
        await events.leave()
        assert sent == 1000 * 1024  # which nobody gets


@pytest.mark.virtual_time
async def test_a_send_timeout_drops_a_client_that_stalls() -> None:
    feed = Feed(send_timeout=0.02)
    async with connect(feed.app) as client, client.events("/events") as events:
        await events.next()
        await events.stall()
        with pytest.raises(httpx2.RemoteProtocolError, match="server has aborted"):  # noqa: PT012
            while True:
                await events.next()
        await events.leave()
        assert feed.cleaned_up == 1


async def test_a_cut_after_some_bytes(library: Any) -> None:
    feed = Feed()
    async with (
        connect(feed.app, http_library=library) as client,
        client.events("/events") as events,
    ):
        length = len(b'data: {"number":1}\nid: 1\n\n')
        events.cut(after_bytes=2 * length + 3)
        assert [(await events.next()).last_event_id for _ in range(2)] == ["1", "2"]
        with pytest.raises(library.RemoteProtocolError, match=f"cut off after {2 * length + 3} b"):
            await events.next()
        await events.leave()
        assert feed.cleaned_up == 1
        assert events.last_event_id == "2"


async def test_a_cut_now_leaves_what_was_read_before() -> None:
    feed = Feed()
    async with connect(feed.app) as client, client.events("/events") as events:
        await events.next()
        events.cut()
        with pytest.raises(httpx2.RemoteProtocolError, match="test has cut"):  # noqa: PT012
            while True:
                await events.next()


async def test_reconnecting_sends_the_last_event_id() -> None:
    feed = Feed()
    async with connect(feed.app) as client:
        async with client.events("/events", last_event_id="4") as events:
            assert (await events.next()).json() == {"number": 5}
            again = await events.reconnect()
            assert feed.cleaned_up == 1
            assert (await again.next()).json() == {"number": 6}
            third = await again.reconnect()
            assert (await third.next()).json() == {"number": 7}
        assert feed.cleaned_up == 3
        async with client.events("/events") as events:
            again = await events.reconnect()
            assert (await again.next()).json() == {"number": 1}
    assert feed.asked_for == ["4", "5", "6", None, None]


@pytest.mark.parametrize("library", [httpx2, httpx])
@pytest.mark.parametrize(("last_event_id", "sent"), [("ä 漢", "ä 漢"), ("a ", None)])
async def test_the_last_event_id_is_sent_as_clients_send_it(
    library: Any, last_event_id: str, sent: str | None
) -> None:
    upstream = FakeUpstream([f"id: {last_event_id}\ndata: a\n\n".encode()])
    async with (
        connect(upstream, http_library=library) as client,
        client.events("/chat", last_event_id="ö") as events,
    ):
        await events.next()
        await events.reconnect()
    ids = [
        request.headers.get("last-event-id", "").encode("latin-1") for request in upstream.requests
    ]
    assert ids == ["ö".encode(), (sent or "").encode()]


async def test_a_post_is_sent_again_with_its_body() -> None:
    app = FastAPI()

    @app.post("/chat", response_class=EventSourceResponse)
    async def chat(prompt: dict[str, str]) -> AsyncIterator[str]:
        yield prompt["text"]

    async with (
        connect(app) as client,
        client.events("/chat", method="POST", json={"text": "hi"}) as events,
    ):
        assert (await events.next()).json() == "hi"
        again = await events.reconnect()
        assert (await again.next()).json() == "hi"


async def test_a_shutdown_ends_the_streams_as_sigterm_does() -> None:
    app = FastAPI()
    ended: list[str] = []

    class Polite(EventSourceResponse):
        shutdown_grace = 5

    @app.get("/polite", response_class=Polite)
    async def polite() -> AsyncIterator[str]:
        yield "hello"
        await sserpent.shutdown_event().wait()
        yield "goodbye"

    @app.get("/endless", response_class=EventSourceResponse)
    async def endless() -> AsyncIterator[str]:
        try:
            yield "hello"
            await anyio.sleep_forever()
        finally:
            ended.append("endless")

    async with connect(app) as other, other.events("/endless") as elsewhere:
        assert (await elsewhere.next()).json() == "hello"
        async with (
            connect(app) as client,
            client.events("/polite") as polite_events,
            client.events("/endless") as endless_events,
        ):
            for events in (polite_events, endless_events):
                assert (await events.next()).json() == "hello"
            await client.shut_down()
            assert ended == ["endless"]
            assert [event.json() async for event in polite_events] == ["goodbye"]
            # It was cut off, and does not look complete.
            with pytest.raises(httpx2.RemoteProtocolError):
                await endless_events.next()
            # What comes now is a whole 200.
            assert (await client.get("/endless")).text == ""
        await elsewhere.none_within(0.01)
    assert ended == ["endless", "endless"]


async def test_a_shutdown_says_what_is_still_open() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM})
        await receive()
        await receive()

    async with connect(app) as client, client.events("/deaf"):
        with pytest.raises(TimeoutError, match=r"after 0\.01 s of shutdown are still open: GET /d"):
            await client.shut_down(timeout=0.01)


async def test_errors_before_the_start_are_raised_in_the_test(library: Any) -> None:
    app = FastAPI()

    @app.get("/raises", response_class=EventSourceResponse)
    async def raises() -> AsyncIterator[str]:
        raise LookupError("no such thing")
        yield ""

    @app.get("/forbidden", response_class=EventSourceResponse)
    async def forbidden() -> AsyncIterator[str]:
        raise HTTPException(403)
        yield ""

    async with connect(app, http_library=library) as client:
        for _ in range(2):
            with pytest.raises(LookupError, match="no such thing"):
                await client.get("/raises")
            with pytest.raises(LookupError, match="no such thing"):
                async with client.events("/raises"):
                    pass
        assert (await client.get("/forbidden")).status_code == 403
        with pytest.raises(AssertionError, match=r"GET /forbidden: status 403 .*Forbidden"):
            async with client.events("/forbidden"):
                pass


async def test_later_errors_appear_on_the_stream(library: Any) -> None:
    app = FastAPI()

    @app.get("/breaks", response_class=EventSourceResponse)
    async def breaks() -> AsyncIterator[str]:
        yield "a"
        raise LookupError("broken")

    async with connect(app, http_library=library) as client:
        async with client.events("/breaks") as events:
            assert (await events.next()).json() == "a"
            for _ in range(2):
                with pytest.raises(library.RemoteProtocolError, match="raised LookupError") as cut:
                    await events.next()
                assert isinstance(cut.value.__cause__, LookupError)
        async with client.stream("GET", "/breaks") as response:
            with pytest.raises(library.RemoteProtocolError) as cut:
                await response.aread()
            assert isinstance(cut.value.__cause__, LookupError)


def failing_in_its_cleanup() -> FastAPI:
    app = FastAPI()

    @app.get("/", response_class=EventSourceResponse)
    async def route() -> AsyncIterator[str]:
        try:
            yield "a"
            await anyio.sleep_forever()
        finally:
            raise LookupError("in the cleanup")

    return app


async def test_what_a_cleanup_raises_is_raised_by_leave() -> None:
    app = failing_in_its_cleanup()
    async with connect(app) as client, client.events("/") as events:
        await events.next()
        with pytest.raises(LookupError, match="in the cleanup"):
            await events.leave()
    with pytest.raises(LookupError, match="in the cleanup"):
        async with connect(app) as client, client.stream("GET", "/"):
            pass


async def test_what_the_test_raises_counts() -> None:
    app = failing_in_its_cleanup()
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with connect(app) as client, client.events("/") as events:
            await events.next()
            raise ZeroDivisionError


async def test_the_lifespan_runs() -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        seen.append("up")
        yield {"name": "state"}
        seen.append("down")

    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    async def route(request: Request) -> str:
        return str(request.state.name)

    async with connect(app) as client:
        assert seen == ["up"]
        assert (await client.get("/")).json() == "state"
    assert seen == ["up", "down"]


@pytest.mark.parametrize("phase", ["up", "down"])
async def test_a_lifespan_that_fails_raises(phase: str) -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if phase == "up":
            raise LookupError("up")
        yield
        raise LookupError("down")

    with pytest.raises(LookupError, match=phase):
        async with connect(FastAPI(lifespan=lifespan)):
            pass


@pytest.mark.virtual_time
@pytest.mark.parametrize("phase", ["start up", "shut down"])
async def test_a_lifespan_that_hangs_is_bounded(phase: str) -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if phase == "start up":
            await anyio.sleep_forever()
        yield
        await anyio.sleep_forever()

    with pytest.raises(TimeoutError, match=rf"did not {phase} within 0\.25 s"):
        async with connect(FastAPI(lifespan=lifespan), timeout=0.25):
            pass


@pytest.mark.virtual_time
async def test_a_run_that_goes_on_is_named_when_the_lifespan_waits_for_it() -> None:
    async def endless() -> AsyncIterator[str]:
        yield "a"
        await anyio.sleep_forever()

    channels = Channels()
    runs = channels.runs("answers", str)
    app = FastAPI(lifespan=channels.lifespan)
    with pytest.raises(TimeoutError, match=r"These runs go on: 'mine'\. Stop them.*=0"):
        async with connect(app, timeout=0.25):
            run = await runs.start(endless(), id="mine")
    await run.stop()
    await run.wait()


async def test_a_lifespan_that_says_that_it_failed() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert await receive() == {"type": "lifespan.startup"}
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(RuntimeError, match="did not start up: no database"):
        async with connect(app):
            pass


async def test_two_clients_at_once() -> None:
    feed = Feed()
    async with (
        connect(feed.app) as client,
        client.events("/events") as one,
        client.events("/events") as two,
    ):
        await one.stall()
        numbers = [(await two.next()).json()["number"] for _ in range(3)]
        assert numbers == [1, 2, 3]
        await one.leave()
        assert feed.cleaned_up == 1
        assert (await two.next()).json()["number"] == 4


async def test_two_tasks_at_once() -> None:
    feed = Feed()
    async with connect(feed.app) as client, anyio.create_task_group() as tasks:

        async def read() -> None:
            async with client.events("/events") as events:
                assert [(await events.next()).json()["number"] for _ in range(3)] == [1, 2, 3]

        for _ in range(10):
            tasks.start_soon(read)
    assert feed.cleaned_up == 10


async def test_a_test_that_is_cancelled_leaves_nothing_behind() -> None:
    feed = Feed()
    with anyio.CancelScope() as scope:
        async with (
            connect(feed.app) as client,
            client.events("/idle") as idle,
            client.events("/events") as events,
        ):
            await events.next()
            await idle.next()
            scope.cancel()
            await idle.next()
    assert scope.cancelled_caught
    assert feed.cleaned_up == 1


async def test_a_missing_library_is_named(monkeypatch: Any) -> None:
    app = FastAPI()
    monkeypatch.setitem(sys.modules, "httpx2", None)
    async with connect(app) as client:
        assert isinstance(client.http, httpx.AsyncClient)
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ImportError, match=r"pip install 'sserpent\[testing\]'.* httpx2, or httpx"):
        connect(app)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
async def test_bad_arguments_are_refused_at_once(timeout: float) -> None:
    with pytest.raises(ValueError, match="'timeout' must be finite and more than 0, not"):
        connect(FastAPI(), timeout=timeout)
    with pytest.raises(TypeError, match="'http_library' must be the module httpx2 or httpx, not"):
        connect(FastAPI(), http_library="httpx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"app": httpx2}, "'app' must be an ASGI application, not module"),
        ({"timeout": "x"}, "'timeout' must be a number of seconds, not str"),
        ({"timeout": True}, "'timeout' must be a number of seconds, not bool"),
    ],
)
async def test_an_argument_of_the_wrong_type_is_named(arguments: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        connect(**{"app": FastAPI(), **arguments})
