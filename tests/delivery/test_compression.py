"""Compressed streams of generators and runs: who gets one, what is in it, and how it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI, HTTPException, Response
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from asgi import Connection
from event_loops import asyncio_only
from gunzip import GZIP, Gunzip, gunzipped
from sserpent import EventSourceResponse, ServerSentEvent
from sserpent._delivery import compression, on_asyncio, options
from sserpent._delivery.compression import EMPTY_BLOCK
from sserpent._delivery.sender import Sender, TaskSender
from sserpent.channels import Channels
from sserpent.channels.subscription import broker_is_away
from sserpent.protocols import ProtocolResponse
from sserpent.testing import connect

pytestmark = pytest.mark.anyio

Scenario = Callable[[], Awaitable[None]]


class Compressed(EventSourceResponse):
    compress = True


async def numbers(count: int = 3) -> AsyncIterator[dict[str, int]]:
    for number in range(count):
        await anyio.sleep(0.01)
        yield {"number": number}


def sync_numbers(count: int = 3) -> Iterator[dict[str, int]]:
    for number in range(count):
        yield {"number": number}


PLAIN = b'data: {"number":0}\n\ndata: {"number":1}\n\ndata: {"number":2}\n\n'


async def silent() -> AsyncIterator[dict[str, int]]:
    await anyio.sleep(1_000)
    yield {"number": 0}


async def streamed(response: Callable[[], Any], **scope: Any) -> Connection:
    """What a client gets that takes gzip, unless its scope says something else."""
    connection = Connection(**{"headers": GZIP, **scope})
    await connection.run(response())
    return connection


# Z1: who gets gzip

TAKES_GZIP = [
    [b"gzip"],
    [b"GZip"],
    [b"x-gzip"],
    [b"gzip, deflate, br, zstd"],
    [b"br;q=1.0, gzip;q=0.5"],
    [b"gzip ; q=0.001"],
    [b"gzip;Q=1"],
    [b"*"],
    [b"*;q=0.1"],
    [b"deflate", b"gzip"],
    [b"identity;q=0.5, gzip;q=0.5"],
    [b"identity;q=0, gzip"],
]
TAKES_NONE: list[list[bytes]] = [
    [],
    [b""],
    [b"identity"],
    [b"br, zstd, deflate"],
    [b"gzip;q=0"],
    [b"gzip;q=0.000, *"],
    [b"*;q=0"],
    [b"identity, *;q=0"],
    [b"gzip;q=0.5, identity"],
    [b"gzip;q=2"],
    [b"gzip;level=9"],
    [b"gzipped"],
    [b"\xff\xfe"],
]


@pytest.mark.once
@pytest.mark.parametrize("values", TAKES_GZIP)
@pytest.mark.virtual_time
async def test_z1_a_client_that_takes_gzip_gets_it(values: list[bytes]) -> None:
    headers = [(b"accept-encoding", value) for value in values]
    connection = await streamed(lambda: Compressed(numbers()), headers=headers)
    assert connection.headers["content-encoding"] == "gzip"
    assert connection.headers["vary"] == "Accept-Encoding"
    assert gunzipped(connection.bodies).plain == PLAIN


@pytest.mark.once
@pytest.mark.parametrize("values", TAKES_NONE)
@pytest.mark.virtual_time
async def test_z1_another_client_gets_the_bytes_as_they_are(values: list[bytes]) -> None:
    headers = [(b"accept-encoding", value) for value in values]
    connection = await streamed(lambda: Compressed(numbers()), headers=headers)
    assert "content-encoding" not in connection.headers
    assert connection.headers["vary"] == "Accept-Encoding"
    assert connection.body == PLAIN


@pytest.mark.virtual_time
async def test_z1_without_the_option_nothing_changes() -> None:
    connection = await streamed(lambda: EventSourceResponse(numbers()))
    assert not {"content-encoding", "vary"} & set(connection.headers)
    assert connection.body == PLAIN


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.virtual_time
async def test_z1_one_response_has_its_own_mind(compress: bool) -> None:
    class Other(EventSourceResponse):
        pass

    Other.compress = not compress
    connection = await streamed(lambda: Other(numbers(), compress=compress))
    assert ("content-encoding" in connection.headers) is compress


@pytest.mark.parametrize("accepted", [b"gzip", b"identity"])
@pytest.mark.virtual_time
async def test_z1_head_has_the_headers_of_get(accepted: bytes) -> None:
    headers = [(b"accept-encoding", accepted)]
    get, head = [
        await streamed(lambda: Compressed(numbers()), headers=headers, method=method)
        for method in ("GET", "HEAD")
    ]
    assert head.headers == get.headers
    assert head.body == b""
    assert head.complete


@pytest.mark.virtual_time
async def test_z1_a_response_that_is_used_again_asks_each_client() -> None:
    class Numbers:
        def __aiter__(self) -> AsyncIterator[dict[str, int]]:
            return numbers()

    response = Compressed(Numbers())
    for accepted in (b"gzip", b"gzip", b"identity", b"gzip"):
        connection = await streamed(lambda: response, headers=[(b"accept-encoding", accepted)])
        is_gzip = connection.headers.get("content-encoding") == "gzip"
        assert is_gzip is (accepted == b"gzip")
        plain = gunzipped(connection.bodies).plain if is_gzip else connection.body
        assert plain == PLAIN
        assert connection.headers["vary"] == "Accept-Encoding"


@pytest.mark.virtual_time
async def test_z1_vary_joins_what_the_application_says() -> None:
    def response() -> Any:
        made = Compressed(numbers(), headers={"Vary": "Cookie"})
        made.raw_headers.append((b"vary", b"Origin"))
        return made

    connection = await streamed(response)
    assert [value for name, value in connection.messages[0]["headers"] if name == b"vary"] == [
        b"Cookie, Origin, Accept-Encoding"
    ]


@pytest.mark.parametrize("vary", ["*", "accept-encoding", "Cookie, Accept-Encoding"])
@pytest.mark.virtual_time
async def test_z1_vary_is_not_said_twice(vary: str) -> None:
    connection = await streamed(lambda: Compressed(numbers(), headers={"Vary": vary}))
    assert connection.headers["vary"] == vary


@pytest.mark.parametrize("value", [1, "gzip", None])
def test_z1_the_option_is_true_or_false(value: Any) -> None:
    with pytest.raises(TypeError, match="'compress' must be True or False"):
        EventSourceResponse(numbers(), compress=value)


# Z2: each event is readable when it has arrived


@pytest.mark.parametrize("sender", [Sender, TaskSender])
@pytest.mark.parametrize("content", [numbers, sync_numbers])
@pytest.mark.virtual_time
async def test_z2_each_piece_is_readable_when_it_has_arrived(
    content: Any, sender: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_asyncio, "make_sender", sender)
    connection = await streamed(lambda: Compressed(content(), ping_interval=None))
    decoder = Gunzip()
    for piece in connection.bodies[:-1]:
        assert decoder.feed(piece).endswith(b"\n\n")
    assert not decoder.whole
    decoder.feed(connection.bodies[-1])
    assert decoder.whole
    assert decoder.plain == PLAIN


@pytest.mark.virtual_time
async def test_z5_the_second_event_costs_a_fraction_of_the_first() -> None:
    async def content() -> AsyncIterator[dict[str, object]]:
        for number in range(4):
            await anyio.sleep(0.01)
            yield {"symbol": "ACME", "price": number, "currency": "EUR", "market": "Frankfurt"}

    first, second, third, *_ = (await streamed(lambda: Compressed(content()))).bodies
    assert len(second) < len(first) / 3
    assert len(third) < len(first) / 3


# Z6: keep-alives


@pytest.mark.parametrize(("size", "is_thorough"), [(10, False), (250, False), (4_000, True)])
@pytest.mark.virtual_time
async def test_z5_large_events_are_searched_thoroughly_and_small_ones_quickly(
    size: int, is_thorough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels: list[int] = []
    make = compression.zlib.compressobj

    def noting(level: int, *arguments: Any) -> Any:
        levels.append(level)
        return make(level, *arguments)

    monkeypatch.setattr(compression.zlib, "compressobj", noting)

    async def events() -> AsyncIterator[str]:
        for number in range(3):
            await anyio.sleep(0.01)
            yield f"{number}" * size

    connection = await streamed(lambda: Compressed(events()))
    assert gunzipped(connection.bodies).whole
    assert levels == [-1 if is_thorough else 3]


@pytest.mark.virtual_time
async def test_z6_a_keep_alive_is_bytes_for_proxies_and_nothing_for_decoders() -> None:
    async def content() -> AsyncIterator[str]:
        await anyio.sleep(3)
        yield "one"
        await anyio.sleep(3)
        yield "two"

    connection = await streamed(lambda: Compressed(content(), ping_interval=2, open_delay=0))
    decoder = gunzipped(connection.bodies)
    assert decoder.pieces[:4] == [b"", b'data: "one"\n\n', b"", b'data: "two"\n\n']
    assert connection.bodies[2] == EMPTY_BLOCK
    assert decoder.whole


@pytest.mark.virtual_time
async def test_z6_a_ping_event_is_read_as_any_event() -> None:
    async def content() -> AsyncIterator[str]:
        await anyio.sleep(3)
        yield "one"

    ping = ServerSentEvent(event="ping", data=1)
    connection = await streamed(lambda: Compressed(content(), ping_interval=2, ping_event=ping))
    decoder = gunzipped(connection.bodies)
    assert decoder.plain == b'event: ping\ndata: 1\n\ndata: "one"\n\n'
    assert decoder.whole


# Z7: the end


async def endless() -> AsyncIterator[str]:
    yield "one"
    await anyio.sleep_forever()


@pytest.mark.virtual_time
async def test_z7_a_stream_that_the_server_ends_has_its_farewell_before_the_checksum() -> None:
    connection = await streamed(lambda: Compressed(endless(), max_duration=5, ping_interval=None))
    decoder = gunzipped(connection.bodies)
    assert decoder.whole
    assert b": goodbye\nretry: " in decoder.plain
    assert connection.complete


@pytest.mark.virtual_time
async def test_z7_an_empty_stream_is_a_whole_one() -> None:
    decoder = gunzipped((await streamed(lambda: Compressed([]))).bodies)
    assert decoder.whole
    assert decoder.plain == b""


@pytest.mark.virtual_time
async def test_z7_a_stream_whose_generator_fails_has_no_checksum() -> None:
    async def content() -> AsyncIterator[str]:
        yield "one"
        await anyio.sleep(1)
        raise ValueError("broken")

    connection = Connection(headers=GZIP)
    with pytest.raises((ValueError, BaseException)) as caught:
        await connection.run(Compressed(content()))
    assert "broken" in repr(getattr(caught.value, "exceptions", caught.value))
    decoder = gunzipped(connection.bodies)
    assert decoder.plain == b'data: "one"\n\n'
    assert not decoder.whole
    assert not connection.complete


@pytest.mark.virtual_time
async def test_z7_a_client_that_leaves_gets_nothing_more() -> None:
    connection = Connection(headers=GZIP)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run, Compressed(endless()))
        await connection.until(lambda: connection.bodies)
        connection.disconnect()
    assert not gunzipped(connection.bodies).whole


@pytest.mark.parametrize("status", [204, 205, 304, 404, 503])
@pytest.mark.virtual_time
async def test_z7_an_error_or_a_status_without_a_body_is_not_compressed(status: int) -> None:
    connection = await streamed(lambda: Compressed(numbers(), status_code=status))
    assert "content-encoding" not in connection.headers
    assert connection.headers["vary"] == "Accept-Encoding"
    assert connection.body == PLAIN


@pytest.mark.virtual_time
async def test_z7_a_503_of_a_protocol_that_comes_before_the_stream_says_that_it_varies() -> None:
    class Short(ProtocolResponse):
        compress = True
        max_duration = 1
        open_delay = None

    with pytest.raises(HTTPException) as raised:
        await Connection(headers=GZIP).run(Short(silent()))
    assert raised.value.status_code == 503
    headers = raised.value.headers or {}
    assert headers.keys() == {"Retry-After", "Vary"}
    assert headers["Vary"] == "Accept-Encoding"
    assert "Vary" in (broker_is_away(compress=True).headers or {})
    assert "Vary" not in (broker_is_away(compress=False).headers or {})


@pytest.mark.parametrize("last_event_id", [None, b"7"])
@pytest.mark.virtual_time
async def test_z7_a_stream_for_which_there_is_no_place_is_not_compressed(
    last_event_id: bytes | None,
) -> None:
    class Full(Compressed):
        max_streams = 1

    again = [] if last_event_id is None else [(b"last-event-id", last_event_id)]
    first, second = Connection(headers=GZIP), Connection(headers=[*GZIP, *again])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.run, Full(endless()))
        await first.until(lambda: first.bodies)
        await second.run(Full(endless()))
        first.disconnect()
    assert second.status == (503 if last_event_id is None else 200)
    assert "content-encoding" not in second.headers
    assert second.headers["vary"] == "Accept-Encoding"
    assert second.body.startswith(b"Too many" if last_event_id is None else b": not now\nretry: ")


# What there is besides


@pytest.mark.virtual_time
async def test_a_body_that_is_encoded_already_is_left_as_it_is() -> None:
    async def content() -> AsyncIterator[bytes]:
        await anyio.sleep(1)
        yield b"\x1f\x8b"

    headers = {"Content-Encoding": "br"}
    connection = await streamed(
        lambda: Compressed(content(), headers=headers, framed=True, ping_interval=None)
    )
    assert connection.headers["content-encoding"] == "br"
    assert connection.body == b"\x1f\x8b"


@pytest.mark.virtual_time
async def test_ready_frames_and_a_replaced_iterator_are_compressed_once() -> None:
    async def frames() -> AsyncIterator[bytes]:
        yield b"data: ha"
        await anyio.sleep(0.1)
        yield b"lf\n\n"

    async def shouted(chunks: Any) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk.upper()

    def response() -> Any:
        made = Compressed(frames(), framed=True)
        made.body_iterator = shouted(made.body_iterator)
        return made

    decoder = gunzipped((await streamed(response)).bodies)
    assert decoder.plain == b"DATA: HALF\n\n"
    assert decoder.whole


@asyncio_only
async def test_body_iterator_is_not_compressed() -> None:
    response = Compressed(numbers())
    response._gzip = True
    assert b"".join([chunk async for chunk in response.body_iterator]) == PLAIN


async def from_plain_starlette(request: Request) -> Any:
    return Compressed(numbers(int((await request.body()) or 3)))


def application() -> FastAPI:
    app = FastAPI()

    @app.get("/yields", response_class=Compressed)
    async def yields(response: Response) -> AsyncIterator[dict[str, int]]:
        response.headers["Vary"] = "Cookie"
        async for item in numbers():
            yield item

    @app.get("/encoded", response_class=Compressed)
    async def encoded(response: Response) -> AsyncIterator[dict[str, int]]:
        await anyio.sleep(0.01)
        response.headers["Content-Encoding"] = "identity"
        async for item in numbers():
            yield item

    @app.get("/returned")
    async def returned() -> EventSourceResponse:
        return EventSourceResponse(numbers(), compress=True)

    @app.post("/posted", response_class=Compressed)
    async def posted(count: int) -> AsyncIterator[dict[str, int]]:
        async for item in numbers(count):
            yield item

    app.mount("/starlette", Starlette(routes=[Route("/", from_plain_starlette)]))
    return app


@pytest.mark.parametrize(
    ("method", "path", "vary"),
    [
        ("GET", "/yields", "Cookie, Accept-Encoding"),
        ("GET", "/returned", "Accept-Encoding"),
        ("POST", "/posted?count=3", "Accept-Encoding"),
        ("GET", "/starlette/", "Accept-Encoding"),
    ],
)
@asyncio_only
async def test_each_way_to_a_response(method: str, path: str, vary: str) -> None:
    transport = httpx.ASGITransport(application())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.request(method, path)
    assert response.headers["content-encoding"] == "gzip"
    assert response.headers["vary"] == vary
    assert response.content == PLAIN


@asyncio_only
async def test_what_a_generator_says_of_the_encoding_counts() -> None:
    connection = Connection("/encoded", headers=GZIP)
    await connection.run(application())
    assert connection.headers["content-encoding"] == "identity"
    assert connection.body == PLAIN


@asyncio_only
async def test_z8_the_client_for_tests_asks_for_the_bytes_as_they_are() -> None:
    async with connect(application()) as client, client.events("/yields") as events:
        assert "content-encoding" not in events.response.headers
        assert (await events.next()).json() == {"number": 0}


def test_z9_a_python_without_zlib_refuses_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="'compress' must be False: this Python was built without"):
        EventSourceResponse(numbers(), compress=True)
    with pytest.raises(ValueError, match="'compress' must be False"):
        type("Bounded", (EventSourceResponse,), {"compress": True})
    assert not EventSourceResponse(numbers(), compress=False).compress


# Runs


@pytest.mark.virtual_time
async def test_z5_a_run_is_compressed_for_each_follower_with_a_window_of_its_own() -> None:
    connections = [Connection(headers=GZIP) for _ in range(2)]
    async with Channels() as channels, anyio.create_task_group() as tasks:
        runs = channels.runs("answers")
        started = await runs.start(numbers())
        for connection in connections:
            tasks.start_soon(connection.run, started.follow(compress=True))
    for connection in connections:
        decoder = gunzipped(connection.bodies)
        assert decoder.whole
        assert decoder.plain.count(b'data: {"number":') == 3
        assert b"event: run-end" in decoder.plain


@pytest.mark.virtual_time
async def test_z7_a_run_that_has_ended_is_a_204_that_is_not_compressed() -> None:
    answer = Connection(headers=GZIP)
    async with Channels() as channels:
        runs = channels.runs("answers")
        started = await runs.start(numbers())
        whole = Connection(headers=GZIP)
        await whole.run(started.follow(compress=True))
        last = gunzipped(whole.bodies).plain.rpartition(b"id: ")[2].split(b"\n")[0].decode()
        await answer.run(await runs.follow(started.id, after=last, compress=True))
    assert answer.status == 204
    assert answer.headers["vary"] == "Accept-Encoding"
    assert "content-encoding" not in answer.headers
