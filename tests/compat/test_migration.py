"""Three applications that were written for `sse-starlette`: as they were, with the import changed,
and moved on to sserpent's own API as the page says. Their clients see the same events."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from pages import DOCS, all_blocks
from servers import Server, until, uvicorn
from sserpent.client import iter_events

pytestmark = pytest.mark.once  # the bytes are tested with both cores

APPLICATIONS = Path(__file__).parent / "applications"
WAYS = ["sse-starlette", "import", "moved"]

Start = Callable[..., Server]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start(serve: Start, way: str, tmp_path: Path) -> Start:
    """Starts an application, in one of the ways."""

    def start(name: str, **environment: str) -> Server:
        code = (APPLICATIONS / f"{name}.py").read_text(encoding="utf-8")
        if way == "import":
            assert "from sse_starlette" in code
            for module in ("sse_starlette.sse", "sse_starlette"):
                code = code.replace(f"from {module} ", "from sserpent.compat.sse_starlette ")
        elif way == "moved":
            code = (APPLICATIONS / f"{name}_moved.py").read_text(encoding="utf-8")
        assert ("from sse_starlette" in code) == (way == "sse-starlette")
        (tmp_path / "served.py").write_text(code, encoding="utf-8")
        command = uvicorn("served:app", "--app-dir", str(tmp_path))
        return serve(command, cwd=tmp_path, **environment)

    return start


def read(events: Iterator[Any], count: int | None = None) -> list[tuple[str, str, str]]:
    """Reads some events, or all."""
    found = []
    for event in events:
        found.append((event.type, event.data, event.last_event_id))
        if len(found) == count:
            break
    return found


def test_e9_the_page_begins_with_the_import() -> None:
    first = all_blocks(DOCS / "from-sse-starlette.md")[0].code
    assert first == (
        "from sserpent.compat.sse_starlette import EventSourceResponse, ServerSentEvent\n"
    )
    exec(first, {})


def test_e9_the_chat(start: Start) -> None:
    server = start("chat")
    text = "Hello\nall é"

    def post() -> int:
        posted = httpx.post(f"{server.url}/messages", json={"author": "Ada", "text": text})
        return int(posted.json()["listeners"])

    with httpx.stream("GET", f"{server.url}/listen/ada", timeout=30) as ada:
        assert ada.headers["cache-control"] == "no-store, private"
        events = iter_events(ada)
        assert read(events, 1) == [("joined", "ada", "ada-1")]
        with httpx.stream("GET", f"{server.url}/listen/bob", timeout=30) as bob:
            assert read(events, 1) == [("joined", "bob", "ada-2")]
            assert post() == 2
            ((kind, data, event_id),) = read(events, 1)
            assert (kind, event_id) == ("message", "ada-3")
            assert json.loads(data) == {"author": "Ada", "text": text}
            assert [each[2] for each in read(iter_events(bob), 2)] == ["bob-1", "bob-2"]
        assert read(events, 1) == [("left", "bob", "ada-4")]
        until(lambda: "bob has left" in server.log)
        assert post() == 1
    until(lambda: "ada has left" in server.log)
    assert "Traceback" not in server.log


PROGRESS = [("progress", {"percent": n * 25, "step": f"step {n}\nof 4"}, str(n)) for n in (1, 2, 3)]


def test_e9_the_jobs(start: Start, way: str) -> None:
    server = start("progress")

    def events_of(path: str, **headers: str) -> tuple[httpx.Response, list[Any]]:
        with httpx.stream("GET", server.url + path, headers=headers, timeout=30) as response:
            response.read()
            return response, read(iter_events(response))

    response, events = events_of("/jobs/7")
    assert [(each[0], json.loads(each[1]), each[2]) for each in events[:3]] == PROGRESS
    assert events[3:] == [("message", "nearly\ndone", "3"), ("end", "all done", "4")]
    assert response.text.splitlines()[:3] == [": job 7", "retry: 500", ""]
    assert response.headers["x-job"] == "7"
    _, resumed = events_of("/jobs/7", **{"Last-Event-ID": "2"})
    assert [each[2] for each in resumed] == ["3", "3", "4"]
    response, events = events_of("/jobs/7/log")
    assert events == [("log", f"line {number}", "") for number in range(3)]
    if way != "moved":
        assert response.text.startswith("event: log\r\ndata: line 0\r\nretry: 100\r\n\r\n")
    assert until(lambda: httpx.get(f"{server.url}/finished").json()) == ["7", "7"]


def test_e9_the_proxy(serve: Start, start: Start, way: str) -> None:
    upstream = serve(uvicorn("upstream:app", "--app-dir", str(APPLICATIONS)), cwd=APPLICATIONS)
    server = start("proxy", UPSTREAM=upstream.url)
    with httpx.stream("GET", f"{server.url}/pausing", timeout=30) as response:
        events = read(iter_events(response))
    assert ("ping", "pausing", "a") in events
    assert [each for each in events if each[0] != "ping"] == [
        ("begin", "1", "a"),
        ("message", "two", "a"),
        ("end", "3", "b"),
    ]
    until(lambda: "upstream closed: pausing" in server.log)

    with ExitStack() as stack:
        client = stack.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.sendall(b"GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: "upstream closed: flood" in server.log)
    if way != "moved":
        until(lambda: "SendTimeoutError" in server.log)
