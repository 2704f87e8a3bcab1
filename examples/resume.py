"""Resuming: a browser that reconnects sends the last id that it got as `Last-Event-ID`."""

from collections.abc import AsyncIterable
from typing import Annotated

from fastapi import FastAPI, Header

from sserpent import EventSourceResponse, ServerSentEvent

app = FastAPI()

CHAPTERS = ["The egg", "The nest", "The long winter", "The first skin"]


@app.get("/chapters", response_class=EventSourceResponse)
async def stream_chapters(
    last_event_id: Annotated[int | None, Header()] = None,
) -> AsyncIterable[ServerSentEvent]:
    start = 0 if last_event_id is None else last_event_id + 1
    for number, title in enumerate(CHAPTERS[start:], start):
        yield ServerSentEvent(data={"title": title}, id=str(number))
