"""Runs: answers that go on when the client disconnects. A client that reconnects gets the events
that it missed, and then the rest.

Here the user is in a header. In your application take the user from the session.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import FastAPI, Header
from pydantic import BaseModel

from sserpent import EventSourceResponse
from sserpent.channels import Channels, LastEventID, Subscription


class Prompt(BaseModel):
    text: str


channels = Channels()
runs = channels.runs("answers", str)
app = FastAPI(lifespan=channels.lifespan)
User = Annotated[str, Header()]


async def answer(prompt: Prompt) -> AsyncIterator[str]:
    for word in f"You said: {prompt.text}".split():
        yield word
        await asyncio.sleep(0.05)


@app.post("/answers", response_class=EventSourceResponse)
async def ask(prompt: Prompt, user: User = "guest") -> Subscription[str]:
    run = await runs.start(answer(prompt), owner=user)
    return run.follow()


@app.get("/answers/{run_id}", response_class=EventSourceResponse)
async def follow(
    run_id: str, user: User = "guest", last_event_id: LastEventID = None
) -> Subscription[str]:
    return await runs.follow(run_id, owner=user, after=last_event_id)


@app.delete("/answers/{run_id}")
async def stop(run_id: str, user: User = "guest") -> None:
    await runs.stop(run_id, owner=user)
