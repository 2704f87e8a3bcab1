"""A chat in the protocol of Vercel's `useChat`: a reloaded page resumes the answer, and a button
stops it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel, Field

from sserpent.channels import Channels, Subscription
from sserpent.protocols import VercelUI


class Chat(BaseModel):
    """A request of `useChat`: the chat's id, and its messages so far."""

    id: str = Field(max_length=100)
    messages: list[dict[str, Any]] = Field(min_length=1)

    @property
    def prompt(self) -> str:
        parts = self.messages[-1].get("parts", [])
        return "".join(part["text"] for part in parts if part.get("type") == "text")


async def answer(prompt: str) -> AsyncIterator[dict[str, Any]]:
    """Your model: parts of the UI message stream."""
    yield {"type": "start", "messageId": str(uuid4())}
    yield {"type": "text-start", "id": "text"}
    for word in f"You said: {prompt}".split(" "):
        yield {"type": "text-delta", "id": "text", "delta": word + " "}
        await asyncio.sleep(0.05)
    yield {"type": "text-end", "id": "text"}
    yield {"type": "finish"}


def routes(channels: Channels, answer: Any) -> APIRouter:
    """Returns the three routes that `useChat({ id, resume: true })` needs."""
    router = APIRouter()
    runs = channels.runs("chats", ttl=600, response_class=VercelUI)

    @router.post("/chat", response_class=VercelUI)
    async def send(chat: Chat) -> Subscription[Any]:
        run = await runs.start(answer(chat.prompt), key=chat.id, if_active="stop")
        return run.follow()

    @router.get("/chat/{chat}/stream", response_class=VercelUI)
    async def resume(chat: str) -> Subscription[Any]:
        return await runs.follow(key=chat)

    @router.post("/chat/{chat}/stop")
    async def stop(chat: str) -> None:
        await runs.stop(key=chat)

    return router


channels = Channels()
app = FastAPI(lifespan=channels.lifespan)
app.include_router(routes(channels, answer), prefix="/api")
