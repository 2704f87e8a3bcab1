"""A FastAPI that is too old, and imports that are changed by half."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterable
from typing import Annotated, Any

import fastapi.sse
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

import sserpent
from sserpent import ServerSentEvent

HALF_CHANGED = (
    r"half_changed.*\.py:\d+\) yields sserpent's events, but its response_class is that of"
    " fastapi.sse: import EventSourceResponse from sserpent, too"
)


class Item(BaseModel):
    name: str


class OwnEvent(ServerSentEvent):
    pass


@pytest.mark.once
@pytest.mark.parametrize("pure", ["", "1"])
def test_a_fastapi_without_sse_is_named_with_the_release_that_is_needed(pure: str) -> None:
    program = "import fastapi, sys; sys.modules['fastapi.sse'] = None; "
    program += "from sserpent import EventSourceResponse"
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "SSERPENT_PURE": pure},
    )
    assert ended.stderr.splitlines()[-1] == (
        f"ImportError: sserpent needs FastAPI 0.135.0 or newer; {fastapi.__version__} is installed,"
        " which has no fastapi.sse"
    )


@pytest.mark.parametrize(
    "item_type",
    [
        ServerSentEvent,
        OwnEvent,
        ServerSentEvent | fastapi.sse.ServerSentEvent,
        ServerSentEvent[Item, Any],
        Annotated[ServerSentEvent, "comment"],
    ],
)
def test_a_route_of_fastapis_class_that_says_it_yields_our_events_is_refused(
    item_type: Any,
) -> None:
    async def endpoint() -> Any:
        yield None

    endpoint.__annotations__["return"] = AsyncIterable[item_type]
    with pytest.raises(TypeError, match=HALF_CHANGED):
        FastAPI().get("/", response_class=fastapi.sse.EventSourceResponse)(endpoint)


@pytest.mark.parametrize("event", [ServerSentEvent(data=1), OwnEvent(data=1)])
def test_a_route_of_fastapis_class_that_yields_our_events_unannounced_says_so(event: Any) -> None:
    app = FastAPI()

    @app.get("/", response_class=fastapi.sse.EventSourceResponse)
    async def stream() -> Any:
        yield event

    @app.get("/json")
    async def as_json():  # type: ignore[no-untyped-def]
        return {"event": event}

    for path in ("/", "/json"):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            TestClient(app).get(path)
        error: Any = caught.value
        while hasattr(error, "exceptions"):  # FastAPI's stream has a task group
            error = error.exceptions[0]
        assert isinstance(error, ValueError)
        assert str(error) == (
            f"{type(event).__name__} is an event of sserpent's, not JSON: yield it by itself, from"
            " a route whose response_class is sserpent's EventSourceResponse, not that of"
            " fastapi.sse"
        )


def test_fastapis_own_routes_and_events_are_as_they_were() -> None:
    app = FastAPI()

    @app.get("/theirs", response_class=fastapi.sse.EventSourceResponse)
    async def theirs() -> AsyncIterable[fastapi.sse.ServerSentEvent]:
        yield fastapi.sse.ServerSentEvent(data=1)

    @app.get("/ours", response_class=sserpent.EventSourceResponse)
    async def ours() -> AsyncIterable[fastapi.sse.ServerSentEvent]:
        yield fastapi.sse.ServerSentEvent(data=1)

    client = TestClient(app)
    assert client.get("/theirs").text == client.get("/ours").text == "data: 1\n\n"
