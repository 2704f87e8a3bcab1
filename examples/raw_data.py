"""`raw_data` is sent unchanged, not as JSON: log lines, HTML, or a word that ends the stream."""

from collections.abc import AsyncIterable

from fastapi import FastAPI

from sserpent import EventSourceResponse, ServerSentEvent

app = FastAPI()

LOG = [
    "12:00:01 INFO  listening on port 8000",
    "12:00:07 WARN  slow query: 1.9 s",
    "12:00:09 ERROR upstream closed the connection\n  while reading the answer",
]


@app.get("/log", response_class=EventSourceResponse)
async def stream_log() -> AsyncIterable[ServerSentEvent]:
    for entry in LOG:
        yield ServerSentEvent(raw_data=entry)
    yield ServerSentEvent(raw_data="[DONE]")
