"""What type checkers make of typed events. `make typecheck` reads it; each ignored error has to be
there, because an ignore that is not needed is an error too."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel
from typing_extensions import assert_type

from sserpent import EventSourceResponse, Named, ServerSentEvent
from sserpent.channels import Channels, Subscription


class Price(BaseModel):
    value: float


class Done(BaseModel):
    reason: str


PriceEvent = ServerSentEvent[Price, Literal["price"]]
DoneEvent = ServerSentEvent[Done, Literal["done"]]
Priced = Annotated[Price, Named("price")]
Ended = Annotated[Done, Named("done")]


async def events() -> AsyncIterable[PriceEvent | DoneEvent]:
    yield ServerSentEvent(data=Price(value=1), event="price", id="1")
    yield ServerSentEvent(data=Done(reason="late"), event="done", retry=5)
    yield PriceEvent(data=Price(value=1), event="price")
    yield ServerSentEvent(data="text", event="price")  # type: ignore[misc]
    yield Price(value=1)  # type: ignore[misc]


def values() -> Iterable[Priced | Ended]:
    yield Price(value=1)
    yield Done(reason="late")
    yield "text"  # type: ignore[misc]


def plain(event: ServerSentEvent, typed: PriceEvent) -> None:
    assert_type(event.data, Any)
    assert_type(typed.data, Price)
    assert_type(typed.event, str | None)
    response = EventSourceResponse(values())
    assert_type(response.status_code, int)


async def channels() -> None:
    prices = Channels().channel("prices", Price)
    assert_type(prices.subscribe(), Subscription[Price])
    await prices.publish(Price(value=1))
    await prices.publish(ServerSentEvent(data=Price(value=1)))
    await prices.publish("text")  # type: ignore[arg-type]


class Token(ServerSentEvent[str]):
    event = "token"
    retry: int | None = 5


class Text(ServerSentEvent):
    def __init__(self, text: str) -> None:
        super().__init__(raw_data=text, event="text")


assert_type(Token(data="a", id="1").id, str | None)
assert_type(Token(data="a").data, str)
Token(name="a")  # type: ignore[call-arg]
Text("a").encode()
Text(1)  # type: ignore[arg-type]
