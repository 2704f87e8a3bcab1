"""Other people's clients, each with its own decoder, on a real server.

Each gets the same events; keep-alives between them cause none; and a stream that is cut does not
look like one that ended.

The largest are imported where they are used: every process that runs some tests imports this file.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpx
import httpx2
import httpx_sse
import pytest

import sserpent
from event_loops import asyncio_only
from interop_app import EVENTS, PAUSE, TOKENS, Pinging
from servers import Server, uvicorn
from sse_parser import Event, parse

pytestmark = pytest.mark.anyio

PING = b": ping\n"
MANY = 10_000


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(uvicorn("interop_app:app"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def expected() -> list[Event]:
    """The events without their keep-alives, as the standard reads them."""
    encoded = b"".join(sserpent.ServerSentEvent(**fields).encode() for fields in EVENTS)
    events = parse(encoded).events
    assert len(events) == len(EVENTS) - 1, "all but the comment are events"
    return events


def check_pings(stream: bytes) -> None:
    """Checks that keep-alives came between events, or the test shows nothing."""
    assert stream.index(PING) < stream.rindex(b"data:")
    assert stream.count(PING) >= 3


def read_until(error: Any, source: Iterable[Any], match: str | None = None) -> list[Any]:
    """Reads events until the error that the client must raise; returns what came before it."""
    events: list[Any] = []
    with pytest.raises(error, match=match):
        append_all(events, source)
    return events


def append_all(events: list[Any], source: Iterable[Any]) -> None:
    # Not `extend`, which keeps nothing of an iterator that fails.
    for event in source:
        events.append(event)  # noqa: PERF402


# Byte by byte


def test_the_wire_has_keep_alives_between_whole_events(server: Server) -> None:
    stream = httpx.get(f"{server.url}/events").content
    check_pings(stream)
    encoded = [sserpent.ServerSentEvent(**fields).encode() for fields in EVENTS]
    assert stream.replace(PING, b"") == b"".join(encoded)
    assert Pinging.ping_interval is not None
    assert Pinging.ping_interval < PAUSE


# curl


@pytest.fixture(scope="module")
def curl() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    program = shutil.which("curl")
    assert program is not None, "these tests need curl"

    def run(url: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([program, "-sN", url], capture_output=True, timeout=60)

    return run


def test_curl(server: Server, curl: Any, expected: list[Event]) -> None:
    result = curl(f"{server.url}/events")
    assert result.returncode == 0
    check_pings(result.stdout)
    assert parse(result.stdout).events == expected


def test_curl_notices_a_cut(server: Server, curl: Any, expected: list[Event]) -> None:
    result = curl(f"{server.url}/cut")
    # "CURLE_PARTIAL_FILE": the transfer was shorter than announced.
    assert result.returncode == 18
    assert parse(result.stdout).events == expected


# httpx-sse


def of_httpx_sse(event: httpx_sse.ServerSentEvent) -> Event:
    return Event(event.data, event.event, event.id)


def test_httpx_sse(server: Server, expected: list[Event]) -> None:
    with (
        httpx.Client() as client,
        httpx_sse.connect_sse(client, "GET", f"{server.url}/events") as source,
    ):
        events = list(source.iter_sse())
    assert list(map(of_httpx_sse, events)) == expected
    assert [event.retry for event in events if event.retry] == [250]


def test_httpx_sse_reads_many(server: Server) -> None:
    with (
        httpx.Client() as client,
        httpx_sse.connect_sse(client, "GET", f"{server.url}/many?count={MANY}") as source,
    ):
        assert [event.json() for event in source.iter_sse()] == list(range(MANY))


def test_httpx_sse_notices_a_cut(server: Server, expected: list[Event]) -> None:
    with (
        httpx.Client() as client,
        httpx_sse.connect_sse(client, "GET", f"{server.url}/cut") as source,
    ):
        events = read_until(httpx.RemoteProtocolError, source.iter_sse())
    assert list(map(of_httpx_sse, events)) == expected


# httpx2


def of_httpx2(event: httpx2.ServerSentEvent) -> Event:
    return Event(event.data, event.event, event.id)


def test_httpx2(server: Server, expected: list[Event]) -> None:
    with httpx2.Client() as client, client.sse(f"{server.url}/events") as source:
        events = list(source)
    assert list(map(of_httpx2, events)) == expected
    assert [event.retry for event in events if event.retry] == [250]


@asyncio_only
async def test_httpx2_async(server: Server, expected: list[Event]) -> None:
    async with httpx2.AsyncClient() as client, client.sse(f"{server.url}/events") as source:
        assert [of_httpx2(event) async for event in source] == expected


def test_httpx2_reads_many(server: Server) -> None:
    with httpx2.Client() as client, client.sse(f"{server.url}/many?count={MANY}") as source:
        assert [event.json() for event in source] == list(range(MANY))


def test_httpx2_notices_a_cut(server: Server, expected: list[Event]) -> None:
    with httpx2.Client() as client, client.sse(f"{server.url}/cut") as source:
        events = read_until(httpx2.RemoteProtocolError, source)
    assert list(map(of_httpx2, events)) == expected


# aiohttp, which has no decoder: its users read lines


async def read_lines(url: str, lines: list[bytes]) -> None:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.content_type == "text/event-stream"
        async for line in response.content:
            lines.append(line)  # noqa: PERF401 - what came before an error counts


@asyncio_only
async def test_aiohttp(server: Server, expected: list[Event]) -> None:
    lines: list[bytes] = []
    await read_lines(f"{server.url}/events", lines)
    check_pings(b"".join(lines))
    assert all(line.endswith(b"\n") for line in lines)
    assert parse(b"".join(lines)).events == expected


@asyncio_only
async def test_aiohttp_notices_a_cut(server: Server, expected: list[Event]) -> None:
    lines: list[bytes] = []
    from aiohttp import ClientPayloadError

    with pytest.raises(ClientPayloadError):
        await read_lines(f"{server.url}/cut", lines)
    assert parse(b"".join(lines)).events == expected


# The OpenAI SDK


@pytest.fixture
def chat(server: Server) -> Iterator[Callable[[str], Any]]:
    import openai

    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield lambda scenario: client.chat.completions.create(
            model=scenario, messages=[{"role": "user", "content": "Hello"}], stream=True
        )


def tokens_of(chunks: list[Any]) -> list[str]:
    contents = [chunk.choices[0].delta.content for chunk in chunks]
    return [content for content in contents if content is not None]


def test_the_chat_has_keep_alives_after_ids(server: Server) -> None:
    stream = httpx.post(f"{server.url}/v1/chat/completions", json={"model": "tokens"}).content
    check_pings(stream[stream.index(b"\nid: ") :])
    assert stream.endswith(b"data: [DONE]\n\n")


def test_openai(chat: Callable[[str], Any]) -> None:
    with chat("tokens") as stream:
        chunks = list(stream)
    assert tokens_of(chunks) == TOKENS
    assert chunks[-1].choices[0].finish_reason == "stop"


@asyncio_only
async def test_openai_async(server: Server) -> None:
    import openai

    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0
    ) as client:
        stream = await client.chat.completions.create(
            model="tokens", messages=[{"role": "user", "content": "Hello"}], stream=True
        )
        assert tokens_of([chunk async for chunk in stream]) == TOKENS


def test_openai_raises_an_error_event(chat: Callable[[str], Any]) -> None:
    from openai import APIError

    with chat("error") as stream:
        chunks = read_until(APIError, stream, match="^The model is overloaded$")
    assert tokens_of(chunks) == TOKENS


def test_openai_notices_a_cut(chat: Callable[[str], Any]) -> None:
    from openai import APIConnectionError

    with chat("cut") as stream:
        # Older releases let the error of their HTTP client through.
        chunks = read_until((APIConnectionError, httpx.RemoteProtocolError), stream)
    assert tokens_of(chunks) == TOKENS


# The SDK of the Model Context Protocol


def call_tool(server: Server, arguments: dict[str, Any]) -> tuple[list[str], str, list[float]]:
    """Asks for the tools, calls one; returns their names, its result and the progress it told."""
    import mcp
    from mcp.client.streamable_http import streamable_http_client

    progress: list[float] = []

    async def on_progress(done: float, total: float | None, message: str | None) -> None:
        assert total == 3
        progress.append(done)

    async def call() -> tuple[list[str], str, list[float]]:
        async with (
            streamable_http_client(f"{server.url}/mcp") as streams,
            mcp.ClientSession(streams[0], streams[1]) as session,
        ):
            await session.initialize()
            tools = [tool.name for tool in (await session.list_tools()).tools]
            result = await session.call_tool("count", arguments, progress_callback=on_progress)
            return tools, result.content[0].text, progress  # type: ignore[union-attr]

    return asyncio.run(call())


def test_the_answer_to_mcp_has_keep_alives(server: Server) -> None:
    parameters = {"_meta": {"progressToken": 7}, "arguments": {}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": parameters}
    stream = httpx.post(f"{server.url}/mcp", json=message).content
    check_pings(stream[stream.index(b"\nid: ") :])
    methods = [json.loads(event.data).get("method") for event in parse(stream).events]
    assert methods == ["notifications/progress"] * 3 + [None]


def test_mcp(server: Server) -> None:
    assert call_tool(server, {}) == (["count"], "counted from 0", [0, 1, 2])


def test_mcp_notices_a_cut_and_resumes_after_the_last_id(server: Server) -> None:
    tools, text, progress = call_tool(server, {"cut": True})
    assert (tools, text) == (["count"], "counted from 2")
    assert progress == [0, 1]
