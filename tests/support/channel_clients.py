"""A client of channels in process: a subscription on a connection that the test holds."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import anyio

from asgi import Connection
from sse_parser import Stream, parse
from sserpent.channels import Channels

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
MakeChannels = Callable[..., Channels]


class Seen(NamedTuple):
    """An event that a client was sent."""

    type: str
    data: Any
    id: str


def seen_in(body: bytes) -> list[Seen]:
    return seen_of(parse(body))


def seen_of(stream: Stream) -> list[Seen]:
    return [Seen(each.type, json.loads(each.data), each.last_event_id) for each in stream.events]


class Client(Connection):
    """One client. What is sent of a block that is not whole yet is an error, unless the stream has
    come to its end: a farewell has no blank line after it."""

    @property
    def stream(self) -> Stream:
        return parse(self.body)

    @property
    def seen(self) -> list[Seen]:
        return seen_in(self.body)

    @property
    def data(self) -> list[Any]:
        """The data of the events that were published."""
        return [each.data for each in self.seen if each.type not in ("gap", "reset")]

    @property
    def said(self) -> list[Seen]:
        """What the channel has said of itself."""
        return [each for each in self.seen if each.type in ("gap", "reset")]

    @property
    def last_id(self) -> str:
        """With what it comes back."""
        return self.stream.last_event_id

    @property
    def lines(self) -> list[str]:
        return self.body.decode().split("\n")

    async def has(self, *data: Any) -> None:
        await self.until(lambda: len(self.data) >= len(data))
        assert self.data == list(data)

    @asynccontextmanager
    async def open(self, subscription: Any) -> AsyncIterator[Client]:
        """Holds the subscription open: begins once its headers are there, and leaves at the end."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.run, subscription)
            await self.until(lambda: self.started)
            try:
                yield self
            finally:
                self.unstall()
                self.disconnect()


class StallingReader:
    """A client through all its connections, of a random session that has it stall."""

    client: Client | None

    async def stall(self, tasks: Any) -> None:
        if self.client is not None:
            self.client.stall()

    async def unstall(self, tasks: Any) -> None:
        if self.client is not None:
            self.client.unstall()


@asynccontextmanager
async def connected(subscription: Any) -> AsyncIterator[Client]:
    async with Client().open(subscription) as client:
        yield client


def offset_of(id: str) -> int:
    return int(id.split("-")[1])
