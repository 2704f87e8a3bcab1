"""The application that the interop tests read with other people's clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

from sserpent import EventSourceResponse, ServerSentEvent

# Between two events there is time for some keep-alives.
PAUSE = 0.1


class Pinging(EventSourceResponse):
    ping_interval = 0.02


EVENTS: list[dict[str, Any]] = [
    {"comment": "nothing but a comment"},
    {"data": {"text": "é日本🐍", "number": 2**53 + 1}},
    {"raw_data": "two\nlines", "event": "note", "id": "1"},
    {"raw_data": "  spaces  ", "id": "é"},
    {"data": "after", "retry": 250, "comment": "two\nlines"},
    {"raw_data": "a\u2028b\x85c\vd", "event": "odd"},
    {"data": [1, None, 2.5], "id": "a:b"},
    {"raw_data": ": no comment"},
]

app = FastAPI()


@app.get("/events", response_class=Pinging)
async def events() -> AsyncIterator[ServerSentEvent]:
    for fields in EVENTS:
        yield ServerSentEvent(**fields)
        await asyncio.sleep(PAUSE)


@app.get("/many", response_class=EventSourceResponse)
async def many(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


@app.get("/cut", response_class=Pinging)
async def cut() -> AsyncIterator[ServerSentEvent]:
    for fields in EVENTS:
        yield ServerSentEvent(**fields)
    await asyncio.sleep(PAUSE)
    raise RuntimeError("the stream breaks here")


# A chat, as the OpenAI SDK expects it

TOKENS = ["Hel", "lo", ",\n", "wörld", " 🐍", "\u2028", '"}']


class Prompt(BaseModel):
    model: str


@app.post("/v1/chat/completions", response_class=Pinging)
async def chat(prompt: Prompt) -> AsyncIterator[ServerSentEvent]:
    for number, token in enumerate(TOKENS):
        # An id on each event: after one, a blank line is an event to some decoders.
        yield ServerSentEvent(data=chunk(token), id=str(number))
        await asyncio.sleep(PAUSE)
    if prompt.model == "error":
        error = {"message": "The model is overloaded", "type": "server_error", "code": "503"}
        yield ServerSentEvent(data={"error": error}, event="error")
    elif prompt.model == "cut":
        raise RuntimeError("the chat breaks here")
    else:
        yield ServerSentEvent(data=chunk(None, "stop"))
        yield ServerSentEvent(raw_data="[DONE]")


def chunk(content: str | None, finish_reason: str | None = None) -> dict[str, Any]:
    delta = {"role": "assistant", "content": content}
    return {
        "id": "chat-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "test",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }


# A server of the Model Context Protocol, streamable HTTP

TOOL = {"name": "count", "description": "Counts", "inputSchema": {"type": "object"}}


@app.post("/mcp")
async def mcp(request: Request) -> Response:
    message = await request.json()
    if "id" not in message:
        return Response(status_code=202)
    return Pinging(answer(message))


@app.get("/mcp")
async def mcp_resume(request: Request) -> Response:
    last_event_id = request.headers.get("last-event-id")
    if last_event_id is None:
        return Response(status_code=405)
    request_id, _, number = last_event_id.rpartition("/")
    return Pinging(count(int(request_id), int(number) + 1, None))


async def answer(message: dict[str, Any]) -> AsyncIterator[ServerSentEvent]:
    if message["method"] == "tools/call":
        parameters = message["params"]
        token = parameters["_meta"]["progressToken"]
        async for event in count(message["id"], 0, token, parameters["arguments"].get("cut")):
            yield event
        return
    results = {
        "initialize": {
            "protocolVersion": message.get("params", {}).get("protocolVersion"),
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "test", "version": "1"},
        },
        "tools/list": {"tools": [TOOL]},
    }
    await asyncio.sleep(PAUSE)
    yield response(message["id"], results[message["method"]])


async def count(
    request_id: int, first: int, token: Any, cut: bool | None = False
) -> AsyncIterator[ServerSentEvent]:
    """Three steps of progress and a result; on demand the stream breaks after the second."""
    for number in range(first, 3):
        progress = {"progressToken": token, "progress": number, "total": 3}
        message = {"jsonrpc": "2.0", "method": "notifications/progress", "params": progress}
        if token is not None:
            yield ServerSentEvent(
                data=message, event="message", id=f"{request_id}/{number}", retry=10
            )
        await asyncio.sleep(PAUSE)
        if cut and number == 1:
            raise RuntimeError("the answer breaks here")
    text = f"counted from {first}"
    yield response(request_id, {"content": [{"type": "text", "text": text}]})


def response(request_id: int, result: dict[str, Any]) -> ServerSentEvent:
    return ServerSentEvent(
        data={"jsonrpc": "2.0", "id": request_id, "result": result}, event="message"
    )
