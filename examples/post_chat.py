"""A stream that answers a POST, as chat and MCP servers do."""

from collections.abc import AsyncIterable

from fastapi import FastAPI
from pydantic import BaseModel

from sserpent import EventSourceResponse, ServerSentEvent

app = FastAPI()


class Prompt(BaseModel):
    text: str


@app.post("/chat", response_class=EventSourceResponse)
async def stream_chat(prompt: Prompt) -> AsyncIterable[ServerSentEvent]:
    for word in prompt.text.split():
        yield ServerSentEvent(data=word, event="token")
    yield ServerSentEvent(raw_data="[DONE]", event="done")
