"""A plain generator runs in a thread of its own, so its blocking calls do not block the server."""

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
        time.sleep(0.05)  # in your application: a blocking driver
        yield Reading(sensor=sensor, celsius=celsius)
