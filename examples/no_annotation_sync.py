"""A plain generator without a return type."""

from fastapi import FastAPI

from sserpent import EventSourceResponse

app = FastAPI()


@app.get("/countdown", response_class=EventSourceResponse)
def stream_countdown():
    for seconds in (3, 2, 1):
        yield {"seconds": seconds}
    yield "lift-off"
