"""An endless stream, which a client can resume."""

import asyncio
from collections.abc import AsyncIterable
from itertools import count
from typing import Annotated

from fastapi import FastAPI, Header

from sserpent import EventSourceResponse, ServerSentEvent

app = FastAPI()
app.state.listeners = 0


@app.get("/ticks", response_class=EventSourceResponse)
async def ticks(
    last_event_id: Annotated[int | None, Header()] = None,
) -> AsyncIterable[ServerSentEvent]:
    app.state.listeners += 1
    try:
        for number in count(0 if last_event_id is None else last_event_id + 1):
            yield ServerSentEvent(data={"tick": number}, id=str(number))
            await asyncio.sleep(0.01)
    finally:
        app.state.listeners -= 1
