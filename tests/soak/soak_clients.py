"""Those who use the application of the soak, and note what they are told."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Iterator
from time import monotonic
from typing import Any, Protocol

import httpx

from soak_history import (
    UNCERTAIN,
    Client,
    Connection,
    History,
    Published,
    Run,
    Seen,
    position_of,
)

#: The name of the board.
BOARD = "market"

_TIMEOUT = httpx.Timeout(15, read=60)


class Place(Protocol):
    """A process of the application."""

    @property
    def name(self) -> str: ...

    @property
    def url(self) -> str: ...


class Reader:
    """One client: it reads at one process for a while, and goes on at another.

    Args:
        stay: Returns for how many seconds it reads at one process.
        pick: Returns the next process.

    Attributes:
        at: The id that it saw last.
        moves: Whether it goes on to other processes.
    """

    def __init__(
        self,
        name: str,
        room: str,
        path: str,
        stay: Callable[[], float],
        pick: Callable[[], Place],
    ) -> None:
        self.record = Client(name, room)
        self.at: str | None = None
        self.moves = True
        self.finished = False
        self._path = path
        self._stay = stay
        self._pick = pick

    async def run(self) -> None:
        async with httpx.AsyncClient(timeout=_TIMEOUT) as client:
            while not self.finished:
                place = self._pick()
                connection = Connection(place.name, self.at)
                self.record.connections.append(connection)
                try:
                    await self._leave_after(self._stay(), self._read(client, place, connection))
                except httpx.DecodingError:
                    raise  # what came is no gzip
                except httpx.HTTPError:
                    await asyncio.sleep(0.05)  # the process was killed, or is not there yet

    async def _leave_after(self, seconds: float, reading: Awaitable[None]) -> None:
        task = asyncio.ensure_future(reading)
        try:
            deadline = monotonic() + seconds
            while not task.done() and (not self.moves or monotonic() < deadline):
                await asyncio.wait([task], timeout=0.05)
        finally:
            task.cancel()
            await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    async def _read(self, client: httpx.AsyncClient, place: Place, connection: Connection) -> None:
        headers = {} if self.at is None else {"Last-Event-ID": self.at}
        if len(self.record.connections) % 4 == 0:  # the others get the stream compressed
            headers["Accept-Encoding"] = "identity"
        async with client.stream("GET", f"{place.url}{self._path}", headers=headers) as response:
            connection.status = response.status_code
            connection.opened = monotonic()
            if response.status_code in (204, 404):
                self.finished = True
            if response.status_code != 200:
                await asyncio.sleep(0.1)
                return
            rest = ""
            async for text in response.aiter_text():
                *blocks, rest = (rest + text).split("\n\n")
                for block in blocks:
                    self._see(connection, block)
            await asyncio.sleep(0.1)  # as `retry` says, but sooner

    def _see(self, connection: Connection, block: str) -> None:
        fields: dict[str, str] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            if name and value:
                fields[name] = value
        if "id" not in fields:
            return
        kind = fields.get("event", "event" if "data" in fields else "position")
        data: Any = json.loads(fields["data"]) if "data" in fields else None
        self.at = fields["id"]
        connection.seen.append(Seen(monotonic(), kind, self.at, data))
        if kind == "run-end":
            self.finished = True


class BoardReader(Reader):
    """One client of a board, which keeps its state as a page does.

    Attributes:
        state: The figures and the order book.
        snapshots: How many states it was sent.
        complaints: What it should not have seen.
    """

    def __init__(self, name: str, stay: Callable[[], float], pick: Callable[[], Place]) -> None:
        super().__init__(name, BOARD, f"/boards/{BOARD}", stay, pick)
        self.state: dict[str, dict[str, int]] = {"dashboard": {}, "book": {}}
        self.snapshots = 0
        self.complaints: list[str] = []

    def _see(self, connection: Connection, block: str) -> None:
        super()._see(connection, block)
        if not connection.seen:
            return
        kind, data = connection.seen[-1].kind, connection.seen[-1].data
        book = self.state["book"]
        if kind in self.state:
            self.state[kind] = data
            self.snapshots += 1
        elif kind == "figures":
            self.state["dashboard"].update(data)
        elif kind == "order":
            price = str(data["price"])
            book[price] = book.get(price, 0) + data["amount"]
            if book[price] > 1:
                self.complaints.append(f"{self.record.name}: order {price} came twice")
        elif kind != "position":
            self.complaints.append(f"{self.record.name}: was told {kind}, {data}")


class BoardWriter:
    """Changes the board, each time with an order that there was not before.

    Attributes:
        written: How many changes were confirmed.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._number = 0
        self.written = 0

    async def run(self, pick: Callable[[], Place]) -> None:
        async with httpx.AsyncClient(timeout=_TIMEOUT) as client:
            while True:
                await self.write(client, pick())
                await asyncio.sleep(self._rng.uniform(0, 0.2))

    async def write(self, client: httpx.AsyncClient, place: Place) -> bool:
        """Returns whether the change is confirmed."""
        self._number += 1
        figures = {f"figure {self._number % 5}": self._number}
        order = {"price": self._number, "amount": 1}
        try:
            url = f"{place.url}/boards/{BOARD}"
            response = await client.post(url, json={"figures": figures, "order": order})
        except httpx.HTTPError:
            return False
        self.written += response.is_success
        return response.is_success

    async def write_surely(self, place: Place, timeout: float) -> None:
        deadline = monotonic() + timeout
        async with httpx.AsyncClient(timeout=_TIMEOUT) as client:
            while not await self.write(client, place):
                if monotonic() > deadline:
                    raise AssertionError(f"writing by {place.name} does not work")
                await asyncio.sleep(0.1)


class Publisher:
    """Publishes numbers to one room, one after another, by one process or another.

    Attributes:
        error: What the last request has raised that was not answered; "" if all were.
    """

    def __init__(self, room: str, history: History, rng: random.Random) -> None:
        self._room = room
        self._history = history
        self._rng = rng
        self._numbers = self._count()
        self.error = ""

    @staticmethod
    def _count() -> Iterator[int]:
        number = 0
        while True:
            number += 1
            yield number

    async def run(self, pick: Callable[[], Place]) -> None:
        async with httpx.AsyncClient(timeout=_TIMEOUT) as client:
            while True:
                await self.publish(client, pick())
                if self._rng.random() < 0.7:  # else a burst
                    await asyncio.sleep(self._rng.uniform(0, 0.12))

    async def publish(self, client: httpx.AsyncClient, place: Place) -> str:
        number = next(self._numbers)
        began = monotonic()
        try:
            url = f"{place.url}/rooms/{self._room}/{number}"
            response = await client.post(url)
            status = response.status_code
            outcome = response.text if status == 200 else f"answered {status}"
        except httpx.HTTPError as error:
            outcome = UNCERTAIN
            self.error = repr(error)
            await asyncio.sleep(0.05)
        published = Published(self._room, number, began, monotonic(), outcome)
        self._history.published.append(published)
        return outcome

    async def publish_surely(self, place: Place, timeout: float) -> str:
        """Publishes until it is told an id, and returns that."""
        deadline = monotonic() + timeout
        async with httpx.AsyncClient(timeout=_TIMEOUT) as client:
            while position_of(outcome := await self.publish(client, place)) is None:
                if monotonic() > deadline:
                    raise AssertionError(
                        f"publishing by {place.name} does not work: {outcome}; the last error of a"
                        f" request: {self.error or 'none'}"
                    )
                await asyncio.sleep(0.1)
            return outcome


async def start_run(place: Place, id: str, numbers: int, pause: float) -> Run | None:
    """Starts a run, and returns it if it is known to be there."""
    began = monotonic()
    async with httpx.AsyncClient(timeout=_TIMEOUT) as client:
        try:
            params: dict[str, Any] = {"numbers": numbers, "pause": pause}
            response = await client.post(f"{place.url}/runs/{id}", params=params)
        except httpx.HTTPError:
            return None
    return Run(id, place.name, began, numbers) if response.status_code == 200 else None
