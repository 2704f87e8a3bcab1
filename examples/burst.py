"""The same endpoint twice, once with `fastapi.sse` and once with sserpent, for the race."""

from collections.abc import AsyncIterable

import fastapi.sse
from fastapi import FastAPI
from pydantic import BaseModel

import sserpent


class Product(BaseModel):
    id: int
    name: str
    price: float
    tags: list[str]
    in_stock: bool


PRODUCT = Product(
    id=1, name="A snake plant in a clay pot", price=24.99, tags=["plant", "indoor"], in_stock=True
)

app = FastAPI()


@app.get("/fastapi", response_class=fastapi.sse.EventSourceResponse)
async def stream_with_fastapi(count: int) -> AsyncIterable[Product]:
    for _ in range(count):
        yield PRODUCT


@app.get("/sserpent", response_class=sserpent.EventSourceResponse)
async def stream_with_sserpent(count: int) -> AsyncIterable[Product]:
    for _ in range(count):
        yield PRODUCT


@app.get("/backend")
def backend() -> str:
    return sserpent.BACKEND
