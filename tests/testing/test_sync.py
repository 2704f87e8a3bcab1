"""`connect_sync`: the same without an event loop in the test."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import httpx2
import pytest

from feed import Feed
from sserpent.client import NotAnEventStream, iter_events
from sserpent.testing import FakeUpstream, connect_sync

backends = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@backends
def test_an_endless_stream(backend: str) -> None:
    feed = Feed()
    before = set(threading.enumerate())
    with connect_sync(feed.app, backend=backend) as client:
        assert client.get("/nothing").status_code == 404
        with client.events("/events", last_event_id="3") as events:
            assert events.response.status_code == 200
            assert events.next(timeout=5).json() == {"number": 4}
            assert [event.json()["number"] for event, _ in zip(events, range(2), strict=False)]
            assert events.reconnection_time is None
            events.stall()
            events.until_send_waits()
            events.resume()
            events.leave()
            assert feed.cleaned_up == 1
            again = events.reconnect()
            assert again.next().last_event_id == str(int(events.last_event_id) + 1)
            again.cut()
            with pytest.raises(httpx2.RemoteProtocolError):  # noqa: PT012
                while True:
                    again.next()
        with client.events("/idle") as events:
            events.next()
            events.none_within(0.01)
            client.shut_down()
    assert feed.cleaned_up == 2
    # Threads of other tests may end meanwhile.
    assert set(threading.enumerate()) <= before


@backends
def test_a_stream_to_its_end(backend: str) -> None:
    upstream = FakeUpstream([b"data: a\n\ndata: b\n\n"])
    with (
        connect_sync(upstream, http_library=httpx, backend=backend) as client,
        client.events("/") as events,
    ):
        assert [event.data for event in events] == ["a", "b"]


def test_errors_come_through_as_they_are() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("no such thing")

    with connect_sync(app) as client, pytest.raises(LookupError, match="no such thing"):
        client.get("/")


@backends
def test_a_response_is_read_as_a_stream(backend: str) -> None:
    feed = Feed()
    with connect_sync(feed.app, backend=backend) as client:
        with client.stream("GET", "/events") as response:
            assert response.status_code == 200
            with iter_events(response) as events:
                assert next(events).json() == {"number": 1}
                assert next(events).json() == {"number": 2}
        assert feed.cleaned_up == 1
        with client.stream("GET", "/nothing") as response, pytest.raises(NotAnEventStream):
            list(iter_events(response))
        with pytest.raises(AttributeError, match="a SyncClient has no 'http'"):
            client.http  # noqa: B018


def test_it_has_the_attributes_of_the_client_too() -> None:
    upstream = FakeUpstream([], status=200)
    with connect_sync(upstream) as client:
        client.cookies.set("session", "7")
        client.headers["X-Name"] = "Ada"
        assert str(client.base_url) == "http://testserver"
        client.get("/")
    sent = upstream.requests[0].headers
    assert (sent["cookie"], sent["x-name"]) == ("session=7", "Ada")


def test_the_whole_body_is_read() -> None:
    with connect_sync(FakeUpstream([b"a", b"b"])) as client:
        with client.stream("GET", "/") as response:
            assert response.read() == b"ab"
        with client.stream("GET", "/") as response:
            assert list(response) == [b"a", b"b"]
