"""The application of `snapshot_herd`: the state by `snapshot=`, or by a `reset` and a GET."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

import sserpent
from sserpent.channels import Channels, LastEventID, Subscription

STATE = {f"figure {n}": "x" * 30 for n in range(1_000)}  # about 40 KB

app = FastAPI(openapi_url=None)
board = Channels().channel("board")
calls = 0


def state() -> dict[str, str]:
    global calls
    calls += 1
    return STATE


@app.get("/snapshot", response_class=sserpent.EventSourceResponse)
async def with_snapshot(last_event_id: LastEventID = None) -> Subscription[Any]:
    return board.subscribe(after=last_event_id, snapshot=state)


@app.get("/reset", response_class=sserpent.EventSourceResponse)
async def without(last_event_id: LastEventID = None) -> Subscription[Any]:
    return board.subscribe(after=last_event_id)


@app.get("/state")
async def read() -> dict[str, str]:
    return STATE


@app.get("/calls")
async def count_calls() -> int:
    return calls
