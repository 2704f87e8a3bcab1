"""All examples in one app, with the live page at `/`:

cd examples && uvicorn app:app
"""

from typing import Any

import answers
import async_generator
import boards
import chat
import event_fields
import live
import live_pages
import no_annotation
import no_annotation_sync
import notifications
import post_chat
import raw_data
import resume
import rooms
import sync_generator
import typed_events
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel


class Example(BaseModel):
    """One example, and the request that shows it.

    Attributes:
        posts: What is posted to the same URL while the stream is open. Such a stream has no end,
            and has shown enough when as many events have come, besides its snapshots.
        snapshots: How many events the stream begins with before what was posted.
    """

    title: str
    name: str
    path: str
    method: str = "GET"
    headers: dict[str, str] = {}
    body: Any = None
    posts: list[Any] = []
    snapshots: int = 0

    @property
    def url(self) -> str:
        return f"/examples/{self.name}{self.path}"


EXAMPLES = [
    Example(title="Async generator", name="async_generator", path="/planets"),
    Example(title="Plain generator", name="sync_generator", path="/readings"),
    Example(title="No return type", name="no_annotation", path="/orders"),
    Example(title="No return type, plain", name="no_annotation_sync", path="/countdown"),
    Example(title="Comment, event, id, retry", name="event_fields", path="/prices"),
    Example(title="Events that have types", name="typed_events", path="/auction"),
    Example(title="Raw data and an end mark", name="raw_data", path="/log"),
    Example(title="A stream with ids", name="resume", path="/chapters"),
    Example(
        title="The same, resumed after id 1",
        name="resume",
        path="/chapters",
        headers={"Last-Event-ID": "1"},
    ),
    Example(
        title="Answer to a POST",
        name="post_chat",
        path="/chat",
        method="POST",
        body={"text": "Streams are made of words"},
    ),
    Example(
        title="A room, which is a channel",
        name="rooms",
        path="/rooms/lobby",
        posts=[
            {"author": "Ada", "text": "Is anybody here?"},
            {"author": "Grace", "text": "All who read the lobby are"},
        ],
    ),
    Example(
        title="A channel for each user",
        name="notifications",
        path="/users/ada/notifications",
        posts=[{"text": "A parcel has left the depot"}],
    ),
    Example(
        title="A dashboard and an order book, which are snapshots",
        name="boards",
        path="/boards/market",
        posts=[{"figures": {"Visitors": 7}}, {"order": {"price": 101, "amount": 50}}],
        snapshots=2,
    ),
    Example(
        title="A run, which goes on without its client",
        name="answers",
        path="/answers",
        method="POST",
        body={"text": "Streams are made of words"},
    ),
    Example(
        title="A chat in the protocol of useChat",
        name="chat",
        path="/api/chat",
        method="POST",
        body={
            "id": "1",
            "messages": [
                {"role": "user", "parts": [{"type": "text", "text": "Streams are made of words"}]}
            ],
        },
    ),
]

app = FastAPI(title="sserpent examples", lifespan=live.channels.lifespan)
app.include_router(live.router, prefix="/live")
for module in (
    async_generator,
    sync_generator,
    no_annotation,
    no_annotation_sync,
    event_fields,
    typed_events,
    raw_data,
    resume,
    post_chat,
    rooms,
    notifications,
    boards,
    answers,
    chat,
):
    app.mount(f"/examples/{module.__name__}", module.app)


@app.get("/examples")
def list_examples() -> list[dict[str, Any]]:
    return [{**example.model_dump(), "url": example.url} for example in EXAMPLES]


app.include_router(live_pages.router)
# Last, since it answers every path that is left.
app.mount("/", StaticFiles(directory=live_pages.PAGE))
