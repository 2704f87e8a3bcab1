"""An application whose runs the SDKs of model providers read, to be run in several processes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import anyio
from fastapi import FastAPI, HTTPException, Request

from sserpent import ServerSentEvent
from sserpent.channels import Channels, LastEventID, Runs
from sserpent.channels.history.broker import Lease
from sserpent.protocols import (
    AGUI,
    AnthropicMessages,
    GoogleGenAI,
    LangGraph,
    OpenAIChat,
    OpenAIResponses,
    ProtocolResponse,
    VercelUI,
)

# Before anything reads them.
Lease.RENEWAL, Lease.DURATION = 0.2, float(os.environ.get("LEASE", "2"))

channels = Channels(os.environ.get("REDIS_URL"), publish_timeout=2)
app = FastAPI(lifespan=channels.lifespan)
entered: list[str] = []
# Set once somebody follows a run: a run of the kind "followed" goes on then.
is_followed = asyncio.Event()


def runs_of(name: str, response_class: type[ProtocolResponse]) -> Runs[Any]:
    grace = float(os.environ.get("GRACE", "0"))
    return channels.runs(name, response_class=response_class, shutdown_grace=grace)


RUNS = {
    "chat": runs_of("chat", OpenAIChat),
    "responses": runs_of("responses", OpenAIResponses),
    "messages": runs_of("messages", AnthropicMessages),
    "google": runs_of("google", GoogleGenAI),
    "langgraph": runs_of("langgraph", LangGraph),
    "vercel": runs_of("vercel", VercelUI),
    "agui": runs_of("agui", AGUI),
}


def chat(text: str) -> Any:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    facts = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**facts, "choices": [choice]}


def responses(text: str) -> Any:
    if text == "first":
        return {"type": "response.created", "response": {"id": "r", "status": "in_progress"}}
    where = {"item_id": "i", "output_index": 0, "content_index": 0}
    return {"type": "response.output_text.delta", "delta": text, **where}


def messages(text: str) -> Any:
    if text == "first":
        usage = {"input_tokens": 1, "output_tokens": 1}
        facts = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": []}
        return {"type": "message_start", "message": {**facts, "usage": usage}}
    delta = {"type": "text_delta", "text": text}
    return {"type": "content_block_delta", "index": 0, "delta": delta}


def google(text: str) -> Any:
    return {"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}}]}


def langgraph(text: str) -> Any:
    return ServerSentEvent(data={"text": text}, event="values")


def vercel(text: str) -> list[Any]:
    if text == "first":
        return [{"type": "start", "messageId": "m"}, {"type": "text-start", "id": "t"}]
    return [{"type": "text-delta", "id": "t", "delta": text}]


def agui(text: str) -> list[Any]:
    if text == "first":
        message = {"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"}
        return [{"type": "RUN_STARTED", "threadId": "t", "runId": "r"}, message]
    return [{"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": text}]


ITEMS: dict[str, Any] = {
    "chat": chat,
    "responses": responses,
    "messages": messages,
    "google": google,
    "langgraph": langgraph,
    "vercel": vercel,
    "agui": agui,
}
# What the last event of a whole answer is, where only the generator can know it.
LAST: dict[str, list[Any]] = {
    "vercel": [{"type": "text-end", "id": "t"}, {"type": "finish"}],
    "agui": [
        {"type": "TEXT_MESSAGE_END", "messageId": "m"},
        {"type": "RUN_FINISHED", "threadId": "t", "runId": "r"},
    ],
}


def items_of(protocol: str, text: str) -> list[Any]:
    items = ITEMS[protocol](text)
    return items if isinstance(items, list) else [items]


async def answer(protocol: str, kind: str) -> AsyncIterator[Any]:
    """The texts "first", "a" and "b", and then as the kind says."""
    entered.append(kind)
    for text in ("first", "a", "b"):
        for item in items_of(protocol, text):
            yield item
        await anyio.sleep(0.01)
    if kind == "error":
        raise RuntimeError("the password is secret")
    if kind == "limited":
        raise HTTPException(429, "Slow down")
    if kind == "slow":
        await anyio.sleep(1)
    if kind == "followed":
        await is_followed.wait()
    while kind == "endless":
        await anyio.sleep(60)
    if kind in ("slow", "followed"):
        for item in items_of(protocol, "c"):
            yield item
    for item in LAST.get(protocol, []):
        yield item


async def begin(protocol: str, kind: str, key: str | None = None, **options: Any) -> Any:
    return await RUNS[protocol].start(answer(protocol, kind), key=key, **options)


async def follow_noted(protocol: str, **options: Any) -> Any:
    following = await RUNS[protocol].follow(**options)
    is_followed.set()
    return following


# What the SDKs call


@app.post("/v1/chat/completions", response_class=OpenAIChat)
async def complete(body: dict[str, Any]) -> Any:
    if body["model"] == "refused":
        raise HTTPException(429, "Slow down")
    return (await begin("chat", body["model"], body.get("user"))).follow()


@app.post("/v1/responses", response_class=OpenAIResponses)
async def respond(body: dict[str, Any]) -> Any:
    return (await begin("responses", body["model"], body.get("user"))).follow()


@app.get("/v1/responses/{run_id}", response_class=OpenAIResponses)
async def retrieve(run_id: str, starting_after: int | None = None) -> Any:
    return await RUNS["responses"].follow(run_id, after=starting_after)


@app.post("/v1/messages", response_class=AnthropicMessages)
async def create_message(body: dict[str, Any]) -> Any:
    return (await begin("messages", body["model"])).follow()


@app.post("/v1/models/{model}:streamGenerateContent", response_class=GoogleGenAI)
async def generate(model: str) -> Any:
    return (await begin("google", model)).follow()


@app.post("/threads/{thread}/runs/stream", response_class=LangGraph)
async def stream(thread: str, body: dict[str, Any]) -> Any:
    run = await begin("langgraph", body["assistant_id"], thread)
    return run.follow(headers={"Location": f"/threads/{thread}/runs/{run.id}/stream"})


@app.get("/threads/{thread}/runs/{run_id}/stream", response_class=LangGraph)
async def join(thread: str, run_id: str, last_event_id: LastEventID = None) -> Any:
    return await RUNS["langgraph"].follow(run_id, after=last_event_id)


@app.post("/api/chat", response_class=VercelUI)
async def chat_of_vercel(body: dict[str, Any]) -> Any:
    return (await begin("vercel", body["model"], body.get("id"))).follow()


@app.get("/api/chat/{chat}/stream", response_class=VercelUI)
async def resume(chat: str) -> Any:
    return await follow_noted("vercel", key=chat)


@app.post("/agent", response_class=AGUI)
async def run_agent(body: dict[str, Any]) -> Any:
    return (await begin("agui", body["model"])).follow()


# What tests call


@app.post("/begin/{protocol}/{kind}")
async def begin_by_key(protocol: str, kind: str, request: Request) -> str:
    return str((await begin(protocol, kind, **request.query_params)).id)


@app.get("/active/{protocol}/{key}")
async def active(protocol: str, key: str) -> str | None:
    run = await RUNS[protocol].active(key)
    return None if run is None else run.id


@app.get("/status/{protocol}/{run_id}")
async def status(protocol: str, run_id: str) -> Any:
    return await RUNS[protocol].status(run_id)


@app.get("/follow/{protocol}")
async def follow(protocol: str, request: Request) -> Any:
    return await follow_noted(protocol, **request.query_params)


@app.delete("/stop/{protocol}")
async def stop(protocol: str, request: Request) -> None:
    await RUNS[protocol].stop(**request.query_params)


@app.get("/entered")
async def read_entered() -> list[str]:
    return entered
