"""Plain routes in the protocols of other people's clients, each ending in all ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response

from sserpent import ServerSentEvent
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

app = FastAPI()


@app.middleware("http")
async def pass_on(request: Request, call_next: Any) -> Response:
    """It ends a response properly whose application only raises."""
    response: Response = await call_next(request)
    return response


def short(response_class: type[ProtocolResponse]) -> type[Any]:
    return type("Short", (response_class,), {"max_duration": 0.3})


async def ending(events: list[Any], how: str) -> AsyncIterator[Any]:
    """Yields the events, and ends in a way."""
    if how == "before":
        raise HTTPException(429, "slow down")
    yield events[0]
    if how == "raises":
        raise KeyError("secret")
    if how == "refuses":
        raise HTTPException(429, "slow down")
    if how in ("cut", "open"):
        await asyncio.sleep(600)
    for event in events[1:]:
        yield event
    if how == "gateway":
        yield ServerSentEvent(raw_data="[DONE]")


def answer(response_class: type[ProtocolResponse], events: list[Any], how: str) -> Response:
    made = short(response_class) if how == "cut" else response_class
    response: Response = made(ending(events, how), open_delay=None)
    return response


def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
    }


CHAT = [chunk({"role": "assistant", "content": "Hel"}), chunk({"content": "lo"}), chunk({}, "stop")]

RESPONSE = {
    "id": "r",
    "object": "response",
    "created_at": 1,
    "status": "in_progress",
    "model": "m",
    "output": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "error": None,
}
TEXT = {"type": "response.output_text.delta", "item_id": "i", "output_index": 0, "content_index": 0}
RESPONSES = [
    {"type": "response.created", "response": RESPONSE},
    {**TEXT, "delta": "Hel", "logprobs": []},
    {**TEXT, "delta": "lo", "logprobs": [], "sequence_number": 99},
    {"type": "response.completed", "response": {**RESPONSE, "status": "completed"}},
]

MESSAGE = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
MESSAGES = [
    {"type": "message_start", "message": MESSAGE},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": "Hello"},
    },
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 2},
    },
    {"type": "message_stop"},
]

GOOGLE = [
    {"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}]}
    for text in ("Hel", "lo")
]

VERCEL = [
    {"type": "start", "messageId": "m"},
    {"type": "text-start", "id": "t"},
    {"type": "text-delta", "id": "t", "delta": "Hello"},
    {"type": "text-end", "id": "t"},
    {"type": "finish"},
]

AG_UI = [
    {"type": "RUN_STARTED", "threadId": "t", "runId": "r"},
    {"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"},
    {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "Hello"},
    {"type": "TEXT_MESSAGE_END", "messageId": "m"},
    {"type": "RUN_FINISHED", "threadId": "t", "runId": "r"},
]

LANG_GRAPH = [
    ServerSentEvent(event="metadata", data={"run_id": "r"}),
    ServerSentEvent(event="values", data={"text": "Hello"}),
]


@app.post("/{how}/v1/chat/completions", response_class=OpenAIChat)
async def chat(how: str) -> Any:
    return answer(OpenAIChat, CHAT, how)


@app.post("/{how}/v1/responses", response_class=OpenAIResponses)
async def responses(how: str) -> Any:
    return answer(OpenAIResponses, RESPONSES, how)


@app.post("/{how}/v1/messages", response_class=AnthropicMessages)
async def messages(how: str) -> Any:
    return answer(AnthropicMessages, MESSAGES, how)


@app.post("/{how}/{version}/models/{model}:streamGenerateContent", response_class=GoogleGenAI)
async def generate(how: str, version: str, model: str) -> Any:
    return answer(GoogleGenAI, GOOGLE, how)


@app.post("/{how}/api/chat", response_class=VercelUI)
async def vercel(how: str) -> Any:
    return answer(VercelUI, VERCEL, how)


@app.post("/{how}/agent", response_class=AGUI)
async def agent(how: str) -> Any:
    return answer(AGUI, AG_UI, how)


@app.post("/{how}/threads/{thread}/runs/stream", response_class=LangGraph)
async def graph(how: str, thread: str) -> Any:
    return answer(LangGraph, LANG_GRAPH, how)


@app.post("/{how}/runs/stream", response_class=LangGraph)
async def stateless(how: str) -> Any:
    return answer(LangGraph, LANG_GRAPH, how)
