"""A dashboard and an order book, stored in SQLite: every page of a board shows what is stored,
whatever is cut, killed or restarted meanwhile."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel

from sserpent import EventSourceResponse, ServerSentEvent
from sserpent.channels import Channels, LastEventID, Subscription

State = dict[str, Any]


class States:
    """The states of one kind, by their names, and a channel that says what changes.

    Args:
        kind: The name of the event that has a whole state.
        change: The name of an event that has a change.
        apply: Changes a state.
    """

    def __init__(
        self,
        channels: Channels,
        database: sqlite3.Connection,
        kind: str,
        change: str,
        apply: Callable[[State, State], None],
    ) -> None:
        self.channel = channels.channel(kind, keyed=True, history=100)
        self.database = database
        self.kind = kind
        self.change = change
        self.apply = apply

    async def load(self, name: str) -> tuple[State, str]:
        """Returns a state, and the id of the newest change that it has."""
        if (found := self.stored(name)) is None:
            # What a new state begins with. If another process is quicker, its row stays.
            last = await self.channel.position(key=name)
            row = (self.kind, name, "{}", last)
            self.database.execute("INSERT OR IGNORE INTO states VALUES (?, ?, ?, ?)", row)
            found = self.stored(name)
        state, last = found
        return json.loads(state), last

    def stored(self, name: str) -> Any:
        query = "SELECT state, last FROM states WHERE kind = ? AND name = ?"
        return self.database.execute(query, (self.kind, name)).fetchone()

    async def snapshot(self, name: str) -> ServerSentEvent:
        state, last = await self.load(name)
        return ServerSentEvent(data=state, event=self.kind, id=last)

    async def publish(self, name: str, change: State) -> None:
        """Changes a state; nobody else may write meanwhile."""
        state, last = await self.load(name)
        is_newest = last == await self.channel.position(key=name)
        self.apply(state, change)
        if is_newest:
            last = await self.channel.publish(change, key=name, event=self.change)
        else:
            # A process was killed between `publish` and COMMIT: its change is not stored, and may
            # have been seen. Everybody gets the state as it is.
            last = await self.channel.publish(state, key=name, event=self.kind)
        update = "UPDATE states SET state = ?, last = ? WHERE kind = ? AND name = ?"
        self.database.execute(update, (json.dumps(state), last, self.kind, name))


class Order(BaseModel):
    price: int
    amount: int


class Change(BaseModel):
    """What is to change: figures of the dashboard, the order book, or both."""

    figures: dict[str, float] = {}
    order: Order | None = None


def set_figures(figures: State, change: State) -> None:
    figures.update(change)


def add_order(amounts: State, order: State) -> None:
    price = str(order["price"])
    amounts[price] = amounts.get(price, 0) + order["amount"]


def routes(channels: Channels, file: str) -> APIRouter:
    """Returns the routes of boards that are stored in a file, which several processes may share."""
    router = APIRouter()
    database = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    database.execute(
        "CREATE TABLE IF NOT EXISTS states"
        " (kind TEXT, name TEXT, state TEXT, last TEXT, PRIMARY KEY (kind, name))"
    )
    dashboard = States(channels, database, "dashboard", "figures", set_figures)
    book = States(channels, database, "book", "order", add_order)
    lock = asyncio.Lock()

    @asynccontextmanager
    async def writing() -> AsyncIterator[None]:
        """One at a time: the lock is this process's, the transaction that of all processes."""
        async with lock:
            await asyncio.to_thread(database.execute, "BEGIN IMMEDIATE")
            with database:
                yield

    @router.get("/boards/{name}", response_class=EventSourceResponse)
    async def read(
        name: str, client: str | None = None, last_event_id: LastEventID = None
    ) -> Subscription[Any]:
        return channels.subscribe(
            dashboard.channel.on(name, snapshot=dashboard.snapshot),
            book.channel.on(name, snapshot=book.snapshot),
            after=last_event_id,
            owner=client,
        )

    @router.post("/boards/{name}", status_code=204)
    async def write(name: str, change: Change) -> None:
        for states in (dashboard, book):
            await states.load(name)  # is stored from now on, whatever becomes of the change
        async with writing():
            if change.figures:
                await dashboard.publish(name, change.figures)
            if change.order is not None:
                await book.publish(name, change.order.model_dump())

    return router


channels = Channels()
app = FastAPI(lifespan=channels.lifespan)
app.include_router(routes(channels, ":memory:"))
