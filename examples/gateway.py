"""A gateway that speaks OpenAI's protocol at both ends: it reads the provider's stream, sends the
chunks to its client, and stops the provider at once when the client disconnects."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, ConfigDict

from sserpent.client import aiter_events
from sserpent.protocols import OpenAIChat


class Completion(BaseModel):
    """A request of OpenAI's SDK. Undeclared fields are passed on too."""

    model_config = ConfigDict(extra="allow")
    model: str
    messages: list[dict[str, Any]]


class Answer(OpenAIChat):
    open_delay = None  # wait for the provider, so that its refusal becomes a real status


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    url = os.environ.get("UPSTREAM_URL", "http://127.0.0.1:8001")
    headers = {"Authorization": f"Bearer {os.environ.get('UPSTREAM_KEY', 'none')}"}
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=60) as upstream:
        app.state.upstream = upstream
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/v1/chat/completions", response_class=Answer)
async def complete(completion: Completion, request: Request) -> AsyncIterator[dict[str, Any]]:
    upstream = request.app.state.upstream
    body = {**completion.model_dump(), "stream": True}
    # Leaving this block closes the connection, and the provider stops generating.
    async with upstream.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise HTTPException(502, f"the provider returned {response.status_code}")
        chunks = aiter_events(response, type=dict[str, Any], until="[DONE]", idle_timeout=30)
        async with chunks:
            async for chunk in chunks:
                yield chunk
