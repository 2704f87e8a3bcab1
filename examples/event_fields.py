"""`ServerSentEvent` sets the other fields: comment, event, id and retry."""

from collections.abc import AsyncIterable

from fastapi import FastAPI
from pydantic import BaseModel

from sserpent import EventSourceResponse, ServerSentEvent

app = FastAPI()


class Price(BaseModel):
    symbol: str
    price: float


@app.get("/prices", response_class=EventSourceResponse)
async def stream_prices() -> AsyncIterable[ServerSentEvent]:
    yield ServerSentEvent(comment="prices of today")
    for number, price in enumerate([101.5, 99.25, 103.0], start=1):
        yield ServerSentEvent(
            data=Price(symbol="SNEK", price=price), event="price", id=str(number), retry=5000
        )
