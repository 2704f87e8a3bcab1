"""The streams of the live page: tokens, an answer that goes on, a room with clients that can be
cut off, a board, and the race. With REDIS_URL all processes share the answers and the room, with
BOARDS_FILE the board too."""

import asyncio
import os
import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Annotated, Any
from uuid import uuid4

import boards
import chat
import race
from fastapi import APIRouter, HTTPException, Path, Query
from pydantic import BaseModel, Field

from sserpent import BACKEND, EventSourceResponse, ServerSentEvent
from sserpent.channels import Channels, LastEventID, Subscription

router = APIRouter()
# Limited, because clients choose them.
Room = Annotated[str, Path(max_length=128)]
Client = Annotated[str, Query(max_length=128)]

# Tokens

ANSWER = (
    "You asked: “{text}”.\n\nAn answer like this one is made a token at a time, and each token is"
    " on its way as soon as it is made. Line breaks, émojis 🐍 and ελληνικά arrive whole, because"
    " every token is JSON inside its event. When the answer is complete, an event named “done”"
    " says so."
)


class Prompt(BaseModel):
    text: str = Field(min_length=1, max_length=500)


@router.post("/tokens", response_class=EventSourceResponse)
async def stream_tokens(prompt: Prompt) -> AsyncIterable[ServerSentEvent]:
    yield ServerSentEvent(comment="a pretended model answers")
    for token in ANSWER.format(text=prompt.text).replace(" ", "\0 ").split("\0"):
        yield ServerSentEvent(data=token, event="token")
        await asyncio.sleep(0.03)
    yield ServerSentEvent(raw_data="[DONE]", event="done")


# The room


class Message(BaseModel):
    author: str = Field(max_length=20)
    text: str = Field(min_length=1, max_length=200)


REDIS_URL = os.environ.get("REDIS_URL")
channels = Channels(REDIS_URL)
# A short history, so that a client that is away for a moment misses events.
rooms = channels.channel("rooms", Message, keyed=True, history=5, history_ttl=600)


@router.get("/rooms/{room}", response_class=EventSourceResponse)
async def read_room(
    room: Room, client: Client, last_event_id: LastEventID = None
) -> Subscription[Message]:
    return rooms.subscribe(key=room, after=last_event_id, start="earliest", owner=client)


@router.post("/rooms/{room}")
async def write_to_room(room: Room, message: Message) -> str:
    return await rooms.publish(message, key=room)


@router.post("/cut")
async def cut_connections(client: Client) -> None:
    """Ends the streams of a client, which reconnects by itself."""
    await channels.disconnect(owner=client)


# The board

router.include_router(boards.routes(channels, os.environ.get("BOARDS_FILE", ":memory:")))

# The answer that goes on

runs = channels.runs("answers", str, ttl=600, shutdown_grace=0)


async def count(prompt: Prompt) -> AsyncIterator[str]:
    yield f"“{prompt.text}”, in process {os.getpid()}:"
    for number in range(1, 101):
        yield f" {number}"
        await asyncio.sleep(0.2)


@router.post("/answers")
async def ask(prompt: Prompt) -> str:
    return (await runs.start(count(prompt))).id


@router.get("/answers/{run_id}", response_class=EventSourceResponse)
async def follow(run_id: str, last_event_id: LastEventID = None) -> Subscription[str]:
    return await runs.follow(run_id, after=last_event_id)


@router.delete("/answers/{run_id}")
async def stop(run_id: str) -> None:
    await runs.stop(run_id)


# The chat, in the protocol of useChat


async def count_in_parts(prompt: str) -> AsyncIterator[dict[str, Any]]:
    yield {"type": "start", "messageId": str(uuid4())}
    yield {"type": "text-start", "id": "text"}
    async for text in count(Prompt(text=prompt)):
        yield {"type": "text-delta", "id": "text", "delta": text}
    yield {"type": "text-end", "id": "text"}
    yield {"type": "finish"}


router.include_router(chat.routes(channels, count_in_parts))

# The race

ROUNDS = 10
ROUND = 0.25  # seconds
SAMPLE_EVERY = 0.08
_racing = threading.Lock()


class Sample(BaseModel):
    contender: str
    round: int
    seconds: float
    events_per_second: float


@router.get("/race", response_class=EventSourceResponse)
def stream_race() -> Iterable[ServerSentEvent]:
    """Streams the race, which blocks, from a thread of its own."""
    if not _racing.acquire(blocking=False):
        raise HTTPException(409, "A race is under way already: two would slow each other down.")
    try:
        racing = race.contenders()
        names = [contender.name for contender in racing]
        start = {"contenders": names, "rounds": ROUNDS, "seconds": ROUNDS * ROUND}
        yield ServerSentEvent(event="start", data=start)
        with race.servers(racing) as ports:
            for number in range(ROUNDS):
                for contender, port in ports.items():
                    for sample in _samples(number, contender, port):
                        yield ServerSentEvent(event="sample", data=sample)
        yield ServerSentEvent(event="done", raw_data="[DONE]")
    finally:
        _racing.release()


def _samples(number: int, contender: race.Contender, port: int) -> Iterable[Sample]:
    # Short turns, so that whatever else the machine does hits all of them alike.
    for seconds, rate in race.sample(port, contender.path, ROUND, SAMPLE_EVERY):
        yield Sample(
            contender=contender.name,
            round=number + 1,
            seconds=number * ROUND + seconds,
            events_per_second=rate,
        )


@router.get("/backend")
def backend() -> str:
    return BACKEND


@router.get("/redis")
def is_on_redis() -> bool:
    return REDIS_URL is not None
