"""Agents on a server, their frames sent by the response of their own package and by `framed`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
from ag_ui.core import (
    RunAgentInput,
    RunFinishedEvent,
    RunStartedEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
)
from ag_ui.encoder import EventEncoder
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from pydantic_ai import Agent
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.ui.ag_ui import AGUIAdapter
from pydantic_ai.ui.vercel_ai import VercelAIAdapter

from sserpent import EventSourceResponse
from sserpent.protocols import AGUI, VercelUI


async def answer(prompt: str) -> AsyncIterator[str]:
    """Yields an answer, or its beginning and then nothing for ever, if "wait" is in the prompt."""
    yield "Hel"
    if "wait" in prompt:
        try:
            print("run waits")
            await anyio.sleep_forever()
        finally:
            print("run cancelled")
    yield "lo,\n"
    yield "world ✓"


async def model(messages: list[Any], info: AgentInfo) -> AsyncIterator[Any]:
    prompt = str(messages)
    if "fail" in prompt:
        raise RuntimeError("the model is away")
    if len(messages) == 1:
        yield {0: DeltaToolCall(name="weather", json_args='{"city":', tool_call_id="call-1")}
        yield {0: DeltaToolCall(json_args='"Riga"}')}
        return
    async for part in answer(prompt):
        yield part


agent = Agent(FunctionModel(stream_function=model))


@agent.tool_plain
def weather(city: str) -> dict[str, str]:
    return {"city": city, "is": "grey\nand wet"}


app = FastAPI()
ADAPTERS: dict[str, Any] = {"ag-ui": AGUIAdapter, "vercel": VercelAIAdapter}


async def adapted(name: str, request: Request) -> tuple[Any, Any]:
    adapter = await ADAPTERS[name].from_request(request, agent=agent)
    return adapter, adapter.run_stream()


@app.post("/theirs/{name}")
async def theirs(name: str, request: Request) -> Response:
    adapter, events = await adapted(name, request)
    return adapter.streaming_response(events)


@app.post("/framed/{name}")
async def framed(name: str, request: Request) -> EventSourceResponse:
    adapter, events = await adapted(name, request)
    return EventSourceResponse(
        adapter.encode_stream(events),
        headers=adapter.build_event_stream().response_headers,
        framed=True,
        ping_interval=0.1,
    )


@app.post("/protocol/{name}")
async def protocol(name: str, request: Request) -> EventSourceResponse:
    adapter, events = await adapted(name, request)
    make = {"ag-ui": AGUI, "vercel": VercelUI}[name]
    return make(adapter.encode_stream(events), framed=True, ping_interval=0.1)


async def encoded(run: RunAgentInput) -> AsyncIterator[str]:
    """Yields the frames that one writes with the encoder of the protocol's own package."""
    encode = EventEncoder().encode
    yield encode(RunStartedEvent(thread_id=run.thread_id, run_id=run.run_id))
    yield encode(TextMessageStartEvent(message_id="m-1", role="assistant"))
    async for part in answer(str(run.messages)):
        yield encode(TextMessageContentEvent(message_id="m-1", delta=part))
    yield encode(TextMessageEndEvent(message_id="m-1"))
    yield encode(RunFinishedEvent(thread_id=run.thread_id, run_id=run.run_id))


@app.post("/theirs-by-hand/ag-ui")
async def theirs_by_hand(run: RunAgentInput) -> StreamingResponse:
    return StreamingResponse(encoded(run), media_type=EventEncoder().get_content_type())


@app.post("/framed-by-hand/ag-ui")
async def framed_by_hand(run: RunAgentInput) -> EventSourceResponse:
    return EventSourceResponse(encoded(run), framed=True, ping_interval=0.1)
