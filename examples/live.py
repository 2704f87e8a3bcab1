"""What the live page streams: tokens, notifications that can be cut off, and the race."""

import asyncio
import logging
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterable, Iterable
from typing import Annotated

import race
from fastapi import APIRouter, Header, HTTPException
from pydantic import BaseModel, Field

from sserpent import BACKEND, EventSourceResponse, ServerSentEvent

router = APIRouter()

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


# Notifications

EVERY = 1.5  # seconds
BIRTH = time.monotonic()
HAPPENINGS = [
    "A parcel has left the depot",
    "Build 4711 is green",
    "Ada mentioned you in “Release notes”",
    "Disk usage is back below 70 %",
    "A new reply to your question",
    "The nightly backup is complete",
]


class Notification(BaseModel):
    text: str


class ConnectionCutError(Exception):
    """Raised in a stream to break its connection."""


_cuts: defaultdict[str, set[asyncio.Event]] = defaultdict(set)


def _number_now() -> int:
    return int((time.monotonic() - BIRTH) / EVERY)


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Waits for the event for so long at most; answers whether it is set."""
    try:
        await asyncio.wait_for(event.wait(), max(seconds, 0))
    except asyncio.TimeoutError:
        pass
    return event.is_set()


@router.get("/notifications", response_class=EventSourceResponse)
async def stream_notifications(
    visitor: str, last_event_id: Annotated[int | None, Header()] = None
) -> AsyncIterable[ServerSentEvent]:
    """Every notification has a number, so whoever was away gets what they missed."""
    cut = asyncio.Event()
    _cuts[visitor].add(cut)
    try:
        yield ServerSentEvent(event="welcome", data={"resumed_after": last_event_id}, retry=2000)
        number = _number_now() if last_event_id is None else last_event_id + 1
        while not await _within(BIRTH + number * EVERY - time.monotonic(), cut):
            text = HAPPENINGS[number % len(HAPPENINGS)]
            yield ServerSentEvent(data=Notification(text=text), id=str(number))
            number += 1
        raise ConnectionCutError
    finally:
        _cuts[visitor].discard(cut)
        if not _cuts[visitor]:
            del _cuts[visitor]


@router.post("/cut")
async def cut_connections(visitor: str) -> int:
    """Breaks the visitor's connections, as a failing network would; answers how many."""
    cuts = list(_cuts.get(visitor, ()))
    for cut in cuts:
        cut.set()
    return len(cuts)


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
    """Blocking, and so in a thread of its own."""
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


class _OneLineForACut(logging.Filter):
    """A cut is asked for, so its traceback helps nobody."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, ConnectionCutError)


logging.getLogger("uvicorn.error").addFilter(_OneLineForACut())
