"""A dashboard and an order book, stored in SQLite: every page of a board shows the stored state,
even after connections were cut, or processes killed or restarted."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Path, Query
from pydantic import BaseModel

from sserpent import EventSourceResponse, ServerSentEvent
from sserpent.channels import Channels, LastEventID, Subscription

State = dict[str, Any]
# Limited, because clients choose them.
Name = Annotated[str, Path(max_length=128)]
Client = Annotated[str | None, Query(max_length=128)]


class Database:
    """States in SQLite, which several processes may share."""

    def __init__(self, file: str) -> None:
        self.connection = sqlite3.connect(file, isolation_level=None)
        self.execute = self.connection.execute
        self.lock = asyncio.Lock()
        self.execute("PRAGMA journal_mode = WAL")  # readers do not wait for a writer
        self.execute(
            "CREATE TABLE IF NOT EXISTS states"
            " (kind TEXT, name TEXT, state TEXT, last TEXT, PRIMARY KEY (kind, name))"
        )
        # No other statement may wait for another process: the event loop would wait too.
        self.execute("PRAGMA busy_timeout = 0")

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Lets one writer in at a time: the lock excludes other tasks, and the transaction other
        processes."""
        async with self.lock:
            while not self.begins():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            with self.connection:
                yield

    def begins(self) -> bool:
        try:
            self.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:  # another process writes
            return False
        return True


class States:
    """The states of one kind, by their names, and a channel for their changes.

    Args:
        kind: The name of the event that has a whole state.
        change: The name of an event that has a change.
        apply: Changes a state.
    """

    def __init__(
        self,
        channels: Channels,
        database: Database,
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
        if self.row(name) is None:
            async with self.database.writing():
                new = (self.kind, name, "{}", await self.channel.position(key=name))
                self.database.execute("INSERT OR IGNORE INTO states VALUES (?, ?, ?, ?)", new)
        state, last = self.row(name)
        return json.loads(state), last

    def row(self, name: str) -> Any:
        query = "SELECT state, last FROM states WHERE kind = ? AND name = ?"
        return self.database.execute(query, (self.kind, name)).fetchone()

    async def snapshot(self, name: str) -> ServerSentEvent:
        state, last = await self.load(name)
        return ServerSentEvent(data=state, event=self.kind, id=last)

    async def write(self, name: str, change: State) -> None:
        """Changes a state, and publishes the change."""
        await self.load(name)  # stores a new state, even if the change fails
        async with self.database.writing():
            await self._write(name, change)

    async def _write(self, name: str, change: State) -> None:
        state, last = await self.load(name)
        is_newest = last == await self.channel.position(key=name)
        self.apply(state, change)
        if is_newest:
            last = await self.channel.publish(change, key=name, event=self.change)
        else:
            # A process was killed between `publish` and COMMIT, or did not learn whether its change
            # was published: clients may have a change that is not stored. Send the whole state.
            last = await self.channel.publish(state, key=name, event=self.kind)
        update = "UPDATE states SET state = ?, last = ? WHERE kind = ? AND name = ?"
        self.database.execute(update, (json.dumps(state), last, self.kind, name))


class Order(BaseModel):
    price: int
    amount: int


class Change(BaseModel):
    """New figures for the dashboard, a new order, or both."""

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
    database = Database(file)
    dashboard = States(channels, database, "dashboard", "figures", set_figures)
    book = States(channels, database, "book", "order", add_order)

    @router.get("/boards/{name}", response_class=EventSourceResponse)
    async def read(
        name: Name, client: Client = None, last_event_id: LastEventID = None
    ) -> Subscription[Any]:
        return channels.subscribe(
            dashboard.channel.on(name, snapshot=dashboard.snapshot),
            book.channel.on(name, snapshot=book.snapshot),
            after=last_event_id,
            owner=client,
        )

    @router.post("/boards/{name}", status_code=204)
    async def write(name: Name, change: Change) -> None:
        if change.figures:
            await dashboard.write(name, change.figures)
        if change.order is not None:
            await book.write(name, change.order.model_dump())

    return router


channels = Channels()
app = FastAPI(lifespan=channels.lifespan)
app.include_router(routes(channels, ":memory:"))
