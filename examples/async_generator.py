"""An async generator with a declared item type: each item is validated, and sent as JSON."""

from collections.abc import AsyncIterable

from fastapi import FastAPI
from pydantic import BaseModel

from sserpent import EventSourceResponse

app = FastAPI()


class Planet(BaseModel):
    name: str
    moons: int


PLANETS = [
    Planet(name="Earth", moons=1),
    Planet(name="Mars", moons=2),
    Planet(name="Neptune", moons=16),
]


@app.get("/planets", response_class=EventSourceResponse)
async def stream_planets() -> AsyncIterable[Planet]:
    for planet in PLANETS:
        yield planet
