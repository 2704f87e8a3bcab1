"""`FakeUpstream`: a provider's stream by script, through `connect`."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import httpx2
import pytest

from sserpent.client import EventSource, MessageEvent, aiter_events
from sserpent.testing import FakeUpstream, connect

pytestmark = pytest.mark.anyio


async def test_the_script_is_played_to_each_request_and_they_are_recorded() -> None:
    upstream = FakeUpstream([b"data: a\n", 0.001, b"\n", b"data: b\n\n"], headers={"X-Model": "m"})
    async with connect(upstream) as client:
        for _ in range(2):
            response = await client.post("/chat?q=1", json={"n": 1}, headers={"X-Key": "secret"})
            assert response.content == b"data: a\n\ndata: b\n\n"
            assert response.headers["x-model"] == "m"
    first, second = upstream.requests
    assert (first.method, first.path, first.query, first.body) == (
        "POST",
        "/chat",
        "q=1",
        b'{"n":1}',
    )
    assert first.headers["x-key"] == "secret"
    assert (first.sent, first.client_left) == (second.sent, second.client_left) == (4, False)


async def test_chunks_have_the_borders_of_the_script() -> None:
    upstream = FakeUpstream([b"data: ", 0.01, b"a\n\n"])
    async with connect(upstream) as client, client.stream("GET", "/") as response:
        assert response.headers["content-type"] == "text/event-stream"
        assert [chunk async for chunk in response.aiter_raw()] == [b"data: ", b"a\n\n"]


async def test_an_exception_cuts_the_stream_off() -> None:
    upstream = FakeUpstream([b"data: a\n\n", OSError("power failure")])
    async with connect(upstream) as client:
        async with client.events("/") as events:
            assert await events.next() == MessageEvent("a")
            with pytest.raises(httpx2.RemoteProtocolError, match="power failure"):
                await events.next()
        async with client.stream("GET", "/") as response:
            read = aiter_events(response.aiter_bytes())
            assert (await anext(read)).data == "a"
            with pytest.raises(httpx2.RemoteProtocolError):
                await anext(read)
    assert [request.sent for request in upstream.requests] == [1, 1]


async def test_it_notices_a_client_that_leaves() -> None:
    upstream = FakeUpstream([b"data: a\n\n", inf, b"data: never\n\n"])
    async with connect(upstream) as client, client.events("/") as events:
        await events.next()
        (request,) = upstream.requests
        with pytest.raises(TimeoutError, match=r"still there after 0\.01 s, and 1 steps"):
            await request.ended(timeout=0.01)
        await events.leave()
        await request.ended()
        assert (request.sent, request.client_left) == (1, True)


async def test_it_waits_for_a_client_that_does_not_read() -> None:
    upstream = FakeUpstream([b"data: a\n\n", 0.001, *[b"data: b\n\n"] * 10])
    async with connect(upstream) as client, client.events("/") as events:
        await events.next()
        await events.stall()
        await events.until_send_waits()
        assert upstream.requests[0].sent == 2
        await events.resume()
        assert [event.data async for event in events] == ["b"] * 10
        assert upstream.requests[0].sent == 12


async def test_an_upstream_that_refuses() -> None:
    upstream = FakeUpstream([b'{"error": "quota"}'], status=429, headers={})
    async with connect(upstream) as client:
        with pytest.raises(AssertionError, match=r"status 429 with no content type .*quota"):
            async with client.events("/"):
                pass


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (
            "data: a\n\n",
            r"'script\[1\]' must be bytes, a number of seconds or an exception, not str",
        ),
        (True, r"'script\[1\]' must be bytes, a number of seconds or an exception, not bool"),
        (-1, r"'script\[1\]' must be a number of seconds from 0 on, not -1"),
        (nan, r"'script\[1\]' must be a number of seconds from 0 on, not nan"),
    ],
)
async def test_a_bad_script_is_refused(step: Any, error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        FakeUpstream([b"", step])


async def test_each_chunk_of_the_script_is_read_as_a_chunk_of_its_own() -> None:
    upstream = FakeUpstream([b"data: ", b"a\n", b"\n", b"data: b\n\n"])
    async with connect(upstream) as client, client.stream("GET", "/") as response:
        chunks = [chunk async for chunk in response.aiter_raw()]
        assert chunks == [b"data: ", b"a\n", b"\n", b"data: b\n\n"]


async def test_a_sequence_answers_each_request_by_its_own_script_and_then_with_204() -> None:
    busy = FakeUpstream([b"busy"], status=503, headers={"Retry-After": "0"})
    upstream = FakeUpstream.sequence(
        [b"id: 1\ndata: a\n\n", OSError("cut")], busy, [b"data: b\n\n"]
    )
    async with connect(upstream) as client:
        async with EventSource(client, "/chat", retry=0.0) as source:
            assert [event.data async for event in source] == ["a", "b"]
        assert (await client.get("/chat")).status_code == 204
    ids = [request.headers.get("last-event-id") for request in upstream.requests]
    assert ids == [None, "1", "1", "1", None]
    assert busy.requests == [upstream.requests[1]]


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        ([b"a", "b"], TypeError, r"'scripts\[1\]\[1\]' must be bytes, .* not str"),
        ([-1], ValueError, r"'scripts\[1\]\[0\]' must be a number of seconds from 0 on"),
    ],
)
async def test_a_bad_script_of_a_sequence_is_named(script: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        FakeUpstream.sequence([b"a"], script)


async def test_a_sequence_in_a_sequence_answers_by_its_next_script() -> None:
    inner = FakeUpstream.sequence([b"a"], [b"b"])
    upstream = FakeUpstream.sequence(inner, [b"-"], inner, inner)
    async with connect(upstream) as client:
        assert [(await client.get("/")).text for _ in range(3)] == ["a", "-", "b"]
        assert (await client.get("/")).status_code == 204
    assert inner.requests == [upstream.requests[number] for number in (0, 2, 3)]


@pytest.mark.virtual_time
async def test_a_whole_response_of_an_endless_stream_is_bounded() -> None:
    upstream = FakeUpstream([b": ping\n", 0.01] * 10_000)
    async with connect(upstream, timeout=0.2) as client:
        with pytest.raises(httpx2.ReadTimeout, match=r"GET /chat: the response did not end within"):
            await client.get("/chat")
        await upstream.requests[0].ended()
        assert upstream.requests[0].client_left


@pytest.mark.parametrize("script", [b"data: a\n\n", "data: a\n\n", bytearray(b"a"), 1.0, None])
async def test_a_script_is_a_list(script: Any) -> None:
    shown = type(script).__name__
    with pytest.raises(TypeError, match=f"'script' must be a list of steps, not {shown}"):
        FakeUpstream(script)
    with pytest.raises(TypeError, match=rf"'scripts\[1\]' must be a list of steps, not {shown}"):
        FakeUpstream.sequence([], script)
