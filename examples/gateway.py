"""A gateway to an LLM: reads the provider's stream, passes its tokens on, and stops the provider at
once when the client leaves."""

import os
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager

import httpx2
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel

from sserpent import EventSourceResponse, ServerSentEvent
from sserpent.client import aiter_events


class Prompt(BaseModel):
    text: str


class Chunk(BaseModel):
    token: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    url = os.environ.get("UPSTREAM_URL", "http://127.0.0.1:8001")
    async with httpx2.AsyncClient(base_url=url, timeout=60) as upstream:
        app.state.upstream = upstream
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/chat", response_class=EventSourceResponse)
async def chat(prompt: Prompt, request: Request) -> AsyncIterable[ServerSentEvent]:
    upstream = request.app.state.upstream
    # Leaving this block closes the connection to the provider, which then stops to generate.
    async with upstream.stream("POST", "/generate", json={"prompt": prompt.text}) as response:
        if response.status_code != 200:
            raise HTTPException(502, f"the provider returned {response.status_code}")
        chunks = aiter_events(response.aiter_bytes(), type=Chunk, until="[DONE]", idle_timeout=30)
        async with chunks:
            async for chunk in chunks:
                yield ServerSentEvent(raw_data=chunk.token, event="token")
    yield ServerSentEvent(raw_data="[DONE]", event="done")
