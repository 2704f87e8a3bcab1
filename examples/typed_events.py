"""Typed events: the annotation gives each event its data's type, and every event is validated."""

from collections.abc import AsyncIterable
from typing import Annotated

from fastapi import FastAPI
from pydantic import BaseModel

from sserpent import EventSourceResponse, Named

app = FastAPI()


class Bid(BaseModel):
    bidder: str
    amount: int


class Sold(BaseModel):
    to: str


BidMade = Annotated[Bid, Named("bid")]
Closed = Annotated[Sold, Named("sold")]


@app.get("/auction", response_class=EventSourceResponse)
async def stream_auction() -> AsyncIterable[BidMade | Closed]:
    for bidder, amount in [("Ada", 10), ("Grace", 15), ("Ada", 25)]:
        yield Bid(bidder=bidder, amount=amount)
    yield Sold(to="Ada")
