"""The application of `docs/security.md` lets in whom the page says, and nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pages import DOCS, run_blocks
from sserpent.testing import SyncClient, connect_sync

SESSION = "a session of Ada's"
BEARER = {"Authorization": f"Bearer {SESSION}"}


@pytest.fixture
def page() -> dict[str, Any]:
    return run_blocks(DOCS / "security.md")


@pytest.fixture
def client(page: dict[str, Any]) -> Iterator[SyncClient]:
    with connect_sync(page["app"]) as client:
        yield client


def test_a_cookie_lets_in(client: SyncClient) -> None:
    assert client.get("/notifications").status_code == 401
    with client.events("/notifications", headers={"Cookie": f"session={SESSION}"}) as events:
        assert events.response.status_code == 200


def test_a_header_lets_in(client: SyncClient) -> None:
    for wrong in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Basic {SESSION}"}):
        assert client.get("/api/notifications", headers=wrong).status_code == 401
    with client.events("/api/notifications", headers=BEARER) as events:
        assert events.response.status_code == 200


def test_a_ticket_lets_in_for_a_minute(client: SyncClient, monkeypatch: Any) -> None:
    url = "/tickets/notifications"
    assert client.post("/tickets").status_code == 401
    ticket = client.post("/tickets", headers=BEARER).json()
    forged = ticket.replace("ada", "eve")
    for wrong in (forged, "", "a:b:c", "é:1:2", ticket[:-1]):
        assert client.get(url, params={"ticket": wrong}).status_code == 401
    with client.events(url, params={"ticket": ticket}) as events:
        assert events.response.status_code == 200
    monkeypatch.setattr("time.time", lambda: 10.0**12)
    assert client.get(url, params={"ticket": ticket}).status_code == 401


def test_a_logout_ends_the_streams_of_the_user(client: SyncClient) -> None:
    cookie = {"Cookie": f"session={SESSION}"}
    with client.events("/until-it-expires", headers=cookie) as events:
        client.post("/logout", headers=cookie).raise_for_status()
        assert list(events) == []


def test_another_origin_reads_what_the_page_allows(client: SyncClient) -> None:
    origin = {"Origin": "https://app.example.com"}
    answer = client.get("/notifications", headers=origin)
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert answer.headers["access-control-expose-headers"] == "Run-ID"
    asked = {"Access-Control-Request-Method": "GET"}
    wanted = {"Access-Control-Request-Headers": "authorization,last-event-id"}
    answer = client.request("OPTIONS", "/api/notifications", headers={**origin, **asked, **wanted})
    assert answer.status_code == 200
    evil = client.get("/notifications", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in evil.headers


def test_padded_events_are_equally_long(page: dict[str, Any]) -> None:
    padded = [page["padded"](token) for token in ("a", " there", " \u00e9lan")]
    assert {len(event.data.encode()) + len(event.comment) for event in padded} == {64}
