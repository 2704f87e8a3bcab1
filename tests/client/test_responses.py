"""`aiter_events` and `iter_events` of responses, rule R18: of httpx2, httpx, aiohttp and requests,
over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import pickle
import threading
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp
import httpx
import httpx2
import pytest
import requests

from event_loops import asyncio_only
from scripted_server import CHUNKED, HEAD, STREAM, answer, chunk, scripted
from sserpent.client import (
    EventSource,
    EventTooLarge,
    NotAnEventStream,
    SyncEventSource,
    aiter_events,
    iter_events,
)

pytestmark = pytest.mark.anyio

TYPED = "Content-Type: text/event-stream"


@contextmanager
def sync_response(library: Any, url: str) -> Iterator[Any]:
    if library is requests:
        with requests.get(url, stream=True, timeout=20) as response:
            yield response
    else:
        with library.Client() as client, client.stream("GET", url) as response:
            yield response


@asynccontextmanager
async def async_response(library: Any, url: str) -> AsyncIterator[Any]:
    if library is aiohttp:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            yield response
    else:
        async with library.AsyncClient() as client, client.stream("GET", url) as response:
            yield response


KINDS = [
    pytest.param(kind, library, id=f"{library.__name__}-{kind}")
    for kind, library in (
        ("sync", httpx2),
        ("sync", httpx),
        ("sync", requests),
        ("async", httpx2),
        ("async", httpx),
        ("async", aiohttp),
    )
]
kinds = pytest.mark.parametrize(("kind", "library"), KINDS)


def read(kind: str, library: Any, url: str, on_event: Any = None, **options: Any) -> list[str]:
    """The data of all events; `on_event` is called after each."""
    found: list[str] = []

    def take(event: Any) -> None:
        found.append(event.data)
        if on_event is not None:
            on_event()

    async def read_async() -> None:
        async with async_response(library, url) as response:
            async for event in aiter_events(response, **options):
                take(event)

    if kind == "async":
        asyncio.run(read_async())
    else:
        with sync_response(library, url) as response:
            for event in iter_events(response, **options):
                take(event)
    return found


@kinds
@pytest.mark.parametrize("ending", ["connection", "chunks", "length"])
def test_r18_each_event_comes_when_its_bytes_do(kind: str, library: Any, ending: str) -> None:
    more = threading.Event()
    first, second = b"data: a\n\n", b"data: b\n\n"
    script = {
        "connection": [STREAM + first, more, second],
        "chunks": [CHUNKED + chunk(first), more, chunk(second) + b"0\r\n\r\n"],
        "length": [answer(200, TYPED, body=first + second)[0].removesuffix(second), more, second],
    }[ending]
    with scripted(script) as server:
        assert read(kind, library, server.url, on_event=more.set) == ["a", "b"]


@kinds
@pytest.mark.parametrize("chunked", [False, True])
def test_r18_a_compressed_body_is_read(kind: str, library: Any, chunked: bool) -> None:
    body = gzip.compress(b"data: a\n\n" * 100)
    script = answer(200, TYPED, "Content-Encoding: gzip", body=body)
    if chunked:
        head = CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
        script = [head, chunk(body) + b"0\r\n\r\n"]
    with scripted(script) as server:
        assert read(kind, library, server.url) == ["a"] * 100


@kinds
@pytest.mark.parametrize("content_type", ["text/event-stream", "Text/EVENT-Stream; charset=utf-8"])
def test_r18_case_and_parameters_of_the_type_do_not_matter(
    kind: str, library: Any, content_type: str
) -> None:
    with scripted(answer(200, f"Content-Type: {content_type}", body=b"data: a\n\n")) as server:
        assert read(kind, library, server.url) == ["a"]


@kinds
@pytest.mark.parametrize(
    ("status", "content_type"),
    [
        (200, "application/json"),
        (200, "text/event-stream2"),
        (200, ""),
        (201, "text/event-stream"),
        (404, "text/html; charset=utf-8"),
        (503, "text/event-stream"),
    ],
)
def test_r18_what_is_no_event_stream_is_refused(
    kind: str, library: Any, status: int, content_type: str
) -> None:
    headers = [f"Content-Type: {content_type}"] if content_type else []
    with scripted(answer(status, *headers, body=b"no" * 400)) as server:
        with pytest.raises(NotAnEventStream) as caught:
            read(kind, library, server.url)
    error = caught.value
    assert (error.status, error.content_type, error.body) == (status, content_type, b"no" * 250)
    assert f"status {status} with {content_type or 'no content type'}" in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert isinstance(error, ValueError)


@kinds
def test_r18_a_cut_is_raised(kind: str, library: Any) -> None:
    with scripted([CHUNKED, chunk(b"data: a\n\n")]) as server:
        with pytest.raises(
            Exception, match=r"(?i)incomplete|peer closed|not comp|payload|prematurely"
        ):
            read(kind, library, server.url)


@kinds
def test_r18_an_event_does_not_wait_for_the_end_of_its_chunk(kind: str, library: Any) -> None:
    more = threading.Event()
    first, second = b"data: a\n\n", b"data: b\n\n"
    whole = chunk(first + second)
    head, _, tail = whole.partition(first)
    with scripted([CHUNKED, head + first, more, tail + b"0\r\n\r\n"]) as server:
        assert read(kind, library, server.url, on_event=more.set) == ["a", "b"]


@kinds
@pytest.mark.parametrize("compressed", [False, True])
def test_r18_an_event_that_is_too_large_is_noticed_within_its_chunk(
    kind: str, library: Any, compressed: bool
) -> None:
    head, body = CHUNKED, b"data: " + b"x" * 500_000
    if compressed:
        head = CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
        compressor = zlib.compressobj(0, wbits=31)
        body = compressor.compress(body) + compressor.flush(zlib.Z_SYNC_FLUSH)
    # The chunk does not end: it says that far more is to come.
    with scripted([head, b"%x\r\n" % 2**30, body, ...]) as server:
        with pytest.raises(EventTooLarge):
            read(kind, library, server.url, max_event_size=100_000)


@pytest.mark.parametrize(
    ("head", "body", "error"),
    [
        (CHUNKED, chunk(b"data: a\n\n"), "ChunkedEncodingError"),
        (CHUNKED, b"20\r\ndata: a\n\n", "ChunkedEncodingError"),
        (CHUNKED, chunk(b"data: a\n\n") + b"no number\r\n", "ChunkedEncodingError"),
        (HEAD + b"Content-Length: 50\r\n\r\n", b"data: a\n\n", "ChunkedEncodingError"),
        (HEAD + b"Content-Encoding: gzip\r\n\r\n", b"data: a\n\n", "ContentDecodingError"),
    ],
    ids=["border", "chunk", "no-size", "length", "gzip"],
)
def test_r18_a_cut_is_raised_by_the_errors_of_requests(
    head: bytes, body: bytes, error: str
) -> None:
    with scripted([head, body]) as server:
        with pytest.raises(getattr(requests.exceptions, error)):
            read("sync", requests, server.url)


def test_r18_a_read_timeout_is_raised_by_the_error_of_requests() -> None:
    with scripted([CHUNKED, chunk(b"data: a\n\n"), ...]) as server:
        with requests.get(server.url, stream=True, timeout=20) as response:
            events = iter_events(response)
            assert next(events).data == "a"
            response.raw.connection.sock.settimeout(0.2)
            with pytest.raises(requests.exceptions.ConnectionError, match="timed out"):
                next(events)


@pytest.mark.parametrize("chunked", [False, True])
def test_r18_a_response_of_requests_that_was_read_already_is_read(chunked: bool) -> None:
    body = b"data: a\n\n" * 3
    script = [CHUNKED, chunk(body) + b"0\r\n\r\n"] if chunked else answer(200, TYPED, body=body)
    with scripted(script) as server:
        response = requests.get(server.url, timeout=20)
        assert [event.data for event in iter_events(response)] == ["a"] * 3


def test_r18_a_connection_of_requests_is_used_again_after_a_whole_stream() -> None:
    stream = CHUNKED + chunk(b"data: a\n\n") + b"0\r\n\r\n"
    read_all = threading.Event()
    with scripted([stream, ..., stream, read_all]) as server, requests.Session() as session:
        for _ in range(2):
            with session.get(server.url, stream=True, timeout=20) as response:
                assert [event.data for event in iter_events(response)] == ["a"]
        read_all.set()
        assert len(server.requests) == 1


@asyncio_only
async def test_r18_the_wrong_kind_of_response_names_the_other_function() -> None:
    for library in (httpx2, httpx, aiohttp):
        with scripted([STREAM, b"data: a\n\n"]) as server:
            async with async_response(library, server.url) as response:
                with pytest.raises(TypeError, match=r"iter_events\(\) needs a sync source"):
                    iter_events(response)
    for library in (httpx2, httpx, requests):
        with scripted([STREAM, b"data: a\n\n"]) as server:
            with sync_response(library, server.url) as response:
                with pytest.raises(TypeError, match=r"aiter_events\(\) needs an async source"):
                    aiter_events(response)


def test_r19_lines_and_text_are_refused_with_what_to_hand_over() -> None:
    with scripted([STREAM, b"data: a\n\n"]) as server:
        with sync_response(httpx2, server.url) as response:
            with pytest.raises(TypeError, match="must yield bytes, not str: hand over"):
                next(iter_events(response.iter_lines()))
    with pytest.raises(TypeError, match="must yield bytes, not int"):
        next(iter_events(b"data: a\n\n"))
    with pytest.raises(TypeError, match="'source' must be a response or yield bytes, not int"):
        iter_events(1)
    with pytest.raises(TypeError, match="'source' must be a response or yield bytes, not int"):
        aiter_events(1)


def test_r18_leaving_closes_the_response() -> None:
    with scripted([STREAM, b"data: a\n\n", ...]) as server, httpx2.Client() as client:
        request = client.build_request("GET", server.url)
        with iter_events(client.send(request, stream=True)) as events:
            assert next(events).data == "a"
        assert server.left.wait(10)


def test_r18_a_response_that_was_read_already_is_read() -> None:
    with scripted(*[answer(200, TYPED, body=b"data: a\n\n")] * 2) as server:
        response = httpx2.get(server.url)
        assert [event.data for event in iter_events(response)] == ["a"]


def test_the_error_of_what_is_no_stream_shows_its_body() -> None:
    error = NotAnEventStream(500, "text/plain")
    error.body = b"sorry"
    shown = "NotAnEventStream(status=500, content_type='text/plain', body=b'sorry', url='')"
    assert repr(error) == shown


@kinds
def test_the_error_of_what_is_no_stream_shows_its_url_without_secrets(
    kind: str, library: Any
) -> None:
    with scripted(answer(401, body=b"sorry")) as server:
        url = server.url.replace("http://", "http://user:password@") + "?token=secret"
        with pytest.raises(NotAnEventStream) as caught:
            read(kind, library, url)
    assert caught.value.url == server.url
    assert str(caught.value) == (
        f"{server.url} is no event stream: status 401 with no content type: b'sorry'"
    )


def test_the_error_of_a_response_that_a_test_has_made_has_no_url() -> None:
    with pytest.raises(NotAnEventStream, match=r"^the response is no event stream: status 500"):
        next(iter_events(httpx2.Response(500)))


@pytest.mark.parametrize("timeout", ["1", True, [1]])
def test_a_timeout_that_is_no_number_is_named(timeout: Any) -> None:
    message = f"'idle_timeout' must be a number of seconds or None, not {type(timeout).__name__}"
    with pytest.raises(TypeError, match=message):
        aiter_events([], idle_timeout=timeout)


@pytest.mark.parametrize("source", [EventSource, SyncEventSource])
def test_an_argument_that_there_is_not_is_told_by_public_names(source: Any) -> None:
    with pytest.raises(TypeError, match=r"^EventSource or SyncEventSource\(\) got an unexpected"):
        source(httpx2.Client(), "http://test", timeout=5)
