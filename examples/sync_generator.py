"""A plain generator: it runs in a thread of its own, so blocking calls in it hold up nobody."""

import time
from collections.abc import Iterable

from fastapi import FastAPI
from pydantic import BaseModel

from sserpent import EventSourceResponse

app = FastAPI()


class Reading(BaseModel):
    sensor: str
    celsius: float


@app.get("/readings", response_class=EventSourceResponse)
def stream_readings() -> Iterable[Reading]:
    for sensor, celsius in [("cellar", 11.5), ("kitchen", 21.0), ("attic", 27.25)]:
        time.sleep(0.05)  # as a driver would that has no async interface
        yield Reading(sensor=sensor, celsius=celsius)
