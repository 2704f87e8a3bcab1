"""Each example on a real uvicorn, read back by httpx-sse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from httpx_sse import EventSource, connect_sse

from conftest import Server, uvicorn

EXAMPLES = Path(__file__).parent.parent / "examples"


class Event(NamedTuple):
    """One event as the client has it; httpx-sse's own class has no equality."""

    event: str = "message"
    data: str = ""
    id: str = ""
    retry: int | None = None

    def json(self) -> Any:
        return json.loads(self.data)


def events_of(source: EventSource) -> Iterator[Event]:
    for event in source.iter_sse():
        yield Event(event.event, event.data, event.id, event.retry)


def read(url: str, method: str = "GET", **request: Any) -> list[Event]:
    with httpx.Client() as client, connect_sse(client, method, url, **request) as source:
        assert source.response.status_code == 200
        assert source.response.headers["content-type"].startswith("text/event-stream")
        return list(events_of(source))


def message(data: Any, id: str = "") -> Event:
    """An unnamed event whose data is JSON."""
    return Event(data=compact(data), id=id)


def compact(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False)


PLANETS = [
    message({"name": "Earth", "moons": 1}),
    message({"name": "Mars", "moons": 2}),
    message({"name": "Neptune", "moons": 16}),
]
READINGS = [
    message({"sensor": "cellar", "celsius": 11.5}),
    message({"sensor": "kitchen", "celsius": 21.0}),
    message({"sensor": "attic", "celsius": 27.25}),
]
ORDERS = [
    message({"order": 1, "placed": "2025-03-01"}),
    message(["order", 2]),
    message("no more orders"),
]
COUNTDOWN = [
    message({"seconds": 3}),
    message({"seconds": 2}),
    message({"seconds": 1}),
    message("lift-off"),
]
PRICES = [
    Event("price", compact({"symbol": "SNEK", "price": price}), number, 5000)
    for number, price in [("1", 101.5), ("2", 99.25), ("3", 103.0)]
]
LOG = [
    Event("message", "12:00:01 INFO  listening on port 8000"),
    Event("message", "12:00:07 WARN  slow query: 1.9 s"),
    Event("message", "12:00:09 ERROR upstream closed the connection\n  while reading the answer"),
    Event("message", "[DONE]"),
]
CHAPTERS = [
    message({"title": "The egg"}, id="0"),
    message({"title": "The nest"}, id="1"),
    message({"title": "The long winter"}, id="2"),
    message({"title": "The first skin"}, id="3"),
]
ANSWER = [
    Event("token", '"Hello"'),
    Event("token", '"wörld"'),
    Event("done", "[DONE]"),
]
CHAT = {"method": "POST", "json": {"text": "Hello wörld"}}

CASES: list[tuple[str, str, dict[str, Any], list[Event]]] = [
    ("async_generator", "/planets", {}, PLANETS),
    ("sync_generator", "/readings", {}, READINGS),
    ("no_annotation", "/orders", {}, ORDERS),
    ("no_annotation_sync", "/countdown", {}, COUNTDOWN),
    ("event_fields", "/prices", {}, PRICES),
    ("raw_data", "/log", {}, LOG),
    ("resume", "/chapters", {}, CHAPTERS),
    ("post_chat", "/chat", CHAT, ANSWER),
]


@pytest.mark.parametrize(
    ("name", "path", "request_", "events"), CASES, ids=[case[0] for case in CASES]
)
def test_example(
    serve: Any, name: str, path: str, request_: dict[str, Any], events: list[Event]
) -> None:
    server = serve(uvicorn(f"{name}:app"), EXAMPLES)

    assert read(server.url + path, **request_) == events
    assert read(server.url + path, **request_) == events


def test_resume(serve: Any) -> None:
    server = serve(uvicorn("resume:app"), EXAMPLES)

    for last in range(len(CHAPTERS)):
        headers = {"Last-Event-ID": str(last)}
        assert read(server.url + "/chapters", headers=headers) == CHAPTERS[last + 1 :]


def test_the_comment_is_on_the_wire(serve: Any) -> None:
    server = serve(uvicorn("event_fields:app"), EXAMPLES)

    assert httpx.get(server.url + "/prices").text.startswith(": prices of today\n\n")


@pytest.fixture
def all_examples(serve: Any) -> Server:
    server: Server = serve(uvicorn("app:app"), EXAMPLES)
    return server


def test_the_app_has_every_example(all_examples: Server) -> None:
    url = all_examples.url
    for name, path, request, events in CASES:
        assert read(f"{url}/examples/{name}{path}", **request) == events

    listed = httpx.get(f"{url}/examples").json()

    assert {example["name"] for example in listed} == {case[0] for case in CASES}
    for example in listed:
        request = {"headers": example["headers"]}
        if example["body"] is not None:
            request["json"] = example["body"]
        assert read(url + example["url"], example["method"], **request)


def test_notifications_resume_after_a_cut(all_examples: Server) -> None:
    url = all_examples.url
    stream = f"{url}/live/notifications?visitor=ada"
    received = []
    with httpx.Client() as client:
        with connect_sse(client, "GET", stream, timeout=20) as source:
            events = events_of(source)
            assert next(events).json() == {"resumed_after": None}
            received.append(next(events))
            assert httpx.post(f"{url}/live/cut?visitor=nobody").json() == 0
            assert httpx.post(f"{url}/live/cut?visitor=ada").json() == 1
            with pytest.raises(httpx.RemoteProtocolError):
                received.extend(events)

        last = int(received[-1].id)
        headers = {"Last-Event-ID": str(last)}
        with connect_sse(client, "GET", stream, timeout=20, headers=headers) as source:
            events = events_of(source)
            assert next(events).json() == {"resumed_after": last}
            assert next(events).id == str(last + 1)
    assert "Traceback" not in all_examples.log


def test_tokens(all_examples: Server) -> None:
    events = read(all_examples.url + "/live/tokens", "POST", json={"text": "what is a stream?"})

    answer = "".join(event.json() for event in events if event.event == "token")
    assert answer.startswith("You asked: “what is a stream?”.\n\n")
    assert "🐍" in answer
    assert events[-1] == Event("done", "[DONE]")


def test_a_prompt_that_is_too_long_is_refused(all_examples: Server) -> None:
    answer = httpx.post(all_examples.url + "/live/tokens", json={"text": "x" * 501})

    assert answer.status_code == 422


def test_the_race_runs_every_contender_and_only_once_at_a_time(all_examples: Server) -> None:
    url = all_examples.url + "/live/race"
    rust = httpx.get(all_examples.url + "/live/backend").json() == "rust"
    names = ["fastapi.sse", "sserpent, pure Python", *(["sserpent, Rust"] if rust else [])]
    with httpx.Client(timeout=60) as client, connect_sse(client, "GET", url) as source:
        events = events_of(source)
        assert next(events).json() == names
        assert client.get(url).status_code == 409
        *samples, done = events

    assert done.event == "done"
    assert {event.event for event in samples} == {"sample"}
    assert list(dict.fromkeys(event.json()["contender"] for event in samples)) == names
    assert all(event.json()["events_per_second"] > 0 for event in samples)
