"""Real clients read compressed streams: each event as soon as it is there, and whatever the end."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from browser import Browser
from debian import program
from servers import Server, until, uvicorn

# What they read does not depend on the core.
pytestmark = [pytest.mark.once, pytest.mark.timeout(300)]

_keys = (f"{os.getpid()}-{number}" for number in itertools.count())

#: Prints what it decodes, and "end", or what has failed.
NODE = """
const response = await fetch(process.argv[1]);
process.stdout.write(`${response.headers.get("content-encoding")}\\n`);
try {
  for await (const part of response.body) process.stdout.write(part);
} catch (error) {
  process.exit(1);
}
"""


class CutOff(Exception):
    """The client knows that the stream is not whole."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(uvicorn("compression_app:app"))
    yield server
    server.close()


def with_httpx(url: str) -> Iterator[bytes]:
    import httpx

    try:
        with httpx.stream("GET", url, timeout=60) as response:
            assert response.headers["content-encoding"] == "gzip"
            yield from response.iter_bytes()
    except httpx.RemoteProtocolError as error:
        raise CutOff from error


def with_httpx2(url: str) -> Iterator[bytes]:
    import httpx2

    try:
        with httpx2.stream("GET", url, timeout=60) as response:
            assert response.headers["content-encoding"] == "gzip"
            yield from response.iter_bytes()
    except httpx2.RemoteProtocolError as error:
        raise CutOff from error


def with_requests(url: str) -> Iterator[bytes]:
    import requests

    try:
        with requests.get(url, stream=True, timeout=60) as response:
            assert response.headers["content-encoding"] == "gzip"
            yield from response.iter_content(None)
    except requests.exceptions.ChunkedEncodingError as error:
        raise CutOff from error


def with_aiohttp(url: str) -> Iterator[bytes]:
    import aiohttp

    async def read() -> Any:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            assert response.headers["content-encoding"] == "gzip"
            async for chunk in response.content.iter_any():
                yield chunk

    parts = read()
    with asyncio.Runner() if hasattr(asyncio, "Runner") else _Runner() as runner:
        while True:
            try:
                yield runner.run(parts.__anext__())
            except StopAsyncIteration:  # noqa: PERF203
                return
            except aiohttp.ClientPayloadError as error:
                raise CutOff from error


class _Runner:
    """What Python 3.10 has in the place of `asyncio.Runner`."""

    def __enter__(self) -> Any:
        self._loop = asyncio.new_event_loop()
        return self

    def run(self, coroutine: Any) -> Any:
        return self._loop.run_until_complete(coroutine)

    def __exit__(self, *_: Any) -> None:
        self._loop.close()


def from_process(command: list[str]) -> Iterator[bytes]:
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield from iter(lambda: process.stdout.read1(1 << 16), b"")  # type: ignore[union-attr]
        finally:
            process.kill() if process.poll() is None and not _ended(process) else None
        if process.wait(20) != 0:
            raise CutOff


def _ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        return False
    return True


def with_curl(url: str) -> Iterator[bytes]:
    options = ["--silent", "--no-buffer", "--compressed", "--max-time", "60"]
    return from_process([program("curl", "curl"), *options, url])


def with_node(url: str) -> Iterator[bytes]:
    command = [program("node", "nodejs"), "--input-type=module", "-e", NODE, url]
    parts = from_process(command)
    first = b""
    while b"\n" not in first:
        first += next(parts)
    encoding, _, rest = first.partition(b"\n")
    assert encoding == b"gzip"
    yield rest
    yield from parts


CLIENTS: list[Callable[[str], Iterable[bytes]]] = [
    with_httpx,
    with_httpx2,
    with_requests,
    with_aiohttp,
    with_curl,
    with_node,
]


def post(server: Server, path: str) -> None:
    urllib.request.urlopen(f"{server.url}{path}", data=b"", timeout=60).close()


@pytest.mark.parametrize("end", ["whole", "untold", "cut"])
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__[5:])
def test_z2_z7_each_event_arrives_at_once_and_every_end_is_understood(
    server: Server, client: Any, end: str
) -> None:
    key = next(_keys)
    body, read, cut = b"", 0, False
    try:
        for part in client(f"{server.url}/steps/{end}/{key}"):
            body += part
            while f"data: {read}\n\n".encode() in body.replace(b"retry: 60000\n", b""):
                post(server, f"/told/{key}/{read}")
                read += 1
    except CutOff:
        cut = True
    assert read == 5
    assert cut is (end == "cut")
    assert b": ping" not in body


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__[5:])
def test_z4_a_client_of_a_channel_reads_and_comes_back_until_it_has_everything(
    server: Server, client: Any
) -> None:
    key, seen, last = next(_keys), 0, None
    while seen < 40:
        query = "" if last is None else f"?last_event_id={last}"
        body = b""
        for part in client(f"{server.url}/numbers/{key}{query}"):
            body += part
            if b"id: " in body and seen == 0 and b"data: 0\n" not in body:
                post(server, f"/numbers/{key}/0")
            while f"data: {seen}\n\n".encode() in body:
                seen += 1
                if seen <= 40:
                    post(server, f"/numbers/{key}/{seen}")
        assert b": goodbye\nretry: " in body
        last = body.rpartition(b"id: ")[2].split(b"\n")[0].decode()


# The browser


@pytest.fixture
def browser(started_browser: Browser, server: Server) -> Iterator[Browser]:
    started_browser.open(server.url)
    yield started_browser
    started_browser.open("about:blank")


FETCH = """
const [url] = arguments;
window.body = "";
window.ended = null;
fetch(url).then(async (response) => {
  window.encoding = response.headers.get("content-encoding");
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  while (true) {
    const { done, value } = await reader.read();
    if (done) break;
    window.body += decoder.decode(value, { stream: true });
  }
  window.ended = "whole";
}).catch((error) => { window.ended = "cut"; });
"""


@pytest.mark.parametrize("end", ["whole", "untold", "cut"])
def test_z2_z7_fetch_of_chromium(browser: Browser, server: Server, end: str) -> None:
    key = next(_keys)
    browser.run(FETCH, f"steps/{end}/{key}")
    for number in range(5):
        until(lambda: f"data: {number}\n" in browser.run("return window.body"))  # noqa: B023
        post(server, f"/told/{key}/{number}")
    ended = until(lambda: browser.run("return window.ended"))
    assert ended == ("cut" if end == "cut" else "whole")
    assert browser.run("return window.encoding") == "gzip"


@pytest.mark.parametrize("end", ["whole", "untold", "cut"])
def test_z2_z7_event_source_of_chromium(browser: Browser, server: Server, end: str) -> None:
    key = next(_keys)
    browser.listen(f"steps/{end}/{key}")
    for number in range(5):
        until(lambda: len(browser.data()) > number)  # noqa: B023
        post(server, f"/told/{key}/{number}")
    until(lambda: browser.logged("error"))
    assert browser.data() == [str(number) for number in range(5)]
    assert browser.logged("error")[0]["state"] == 0  # CONNECTING


def test_z4_event_source_of_chromium_comes_back_to_a_channel(
    browser: Browser, server: Server
) -> None:
    key = next(_keys)
    browser.listen(f"numbers/{key}")
    until(lambda: browser.logged("open"))
    for number in range(120):
        post(server, f"/numbers/{key}/{number}")
        if number % 20 == 0:
            until(lambda: len(browser.data()) > number)  # noqa: B023
    until(lambda: len(browser.data()) >= 120)
    assert browser.data() == [str(number) for number in range(120)]
