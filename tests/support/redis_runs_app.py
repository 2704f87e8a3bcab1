"""An application with runs on Redis, to be run in several processes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import anyio
from fastapi import FastAPI
from starlette.responses import Response

from sserpent import EventSourceResponse
from sserpent.channels import Channels, LastEventID, Runs
from sserpent.channels.history.broker import Lease

# Before anything reads them.
Lease.RENEWAL, Lease.DURATION = 0.2, float(os.environ.get("LEASE", "1"))

channels = Channels(os.environ["REDIS_URL"], publish_timeout=2)
runs = channels.runs(
    "answers",
    ttl=float(os.environ.get("TTL", "600")),
    max_bytes=int(os.environ.get("MAX_BYTES", "20000")),
)
abrupt = channels.runs("abrupt", ttl=600, shutdown_grace=0)
app = FastAPI(lifespan=channels.lifespan)
notes: list[str] = []


async def count(name: str, numbers: int, pause: float) -> AsyncIterator[int]:
    notes.append(f"{name} began")
    try:
        for number in range(numbers):
            yield number
            await anyio.sleep(pause)
    finally:
        notes.append(f"{name} ended")


async def burst(name: str, numbers: int) -> AsyncIterator[int]:
    """Never waits."""
    for number in range(numbers):
        yield number


async def fail(name: str) -> AsyncIterator[int]:
    yield 0
    raise RuntimeError("the password is secret")


async def exceed(name: str) -> AsyncIterator[str]:
    while True:
        yield "x" * 1_000


def source_of(kind: str, name: str, numbers: int, pause: float) -> AsyncIterator[Any]:
    if kind == "count":
        return count(name, numbers, pause)
    if kind == "burst":
        return burst(name, numbers)
    return {"fail": fail, "exceed": exceed}[kind](name)


def kept(name: str) -> Runs[Any]:
    return abrupt if name.startswith("abrupt") else runs


@app.post("/answers/{name}")
async def ask(
    name: str, kind: str = "count", numbers: int = 1_000_000, pause: float = 0.05, owner: str = "me"
) -> str:
    run = await kept(name).start(source_of(kind, name, numbers, pause), owner=owner, id=name)
    return run.id


@app.get("/answers/{name}", response_class=EventSourceResponse)
async def follow(name: str, owner: str = "me", last_event_id: LastEventID = None) -> Any:
    return await kept(name).follow(name, owner=owner, after=last_event_id)


@app.delete("/answers/{name}")
async def stop(name: str, owner: str = "me") -> Response:
    await kept(name).stop(name, owner=owner)
    return Response(status_code=204)


@app.get("/notes")
async def read_notes() -> list[str]:
    return notes
