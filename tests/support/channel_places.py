"""Channels in memory and on Redis, on each event loop that they run on, for tests of both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel

from redis_server import RedisServer
from sserpent.channels import Channels


class Place(NamedTuple):
    """Where channels are."""

    make: Callable[[], Channels]
    redis: RedisServer | None

    @asynccontextmanager
    async def channels(self) -> AsyncIterator[Channels]:
        with anyio.fail_after(60):
            async with self.make() as channels:
                yield channels

    async def forget(self, channel: Any) -> None:
        """Begins the history of a channel anew, as a restart without data does."""
        if self.redis is not None:
            self.redis.ask("FLUSHALL")
        else:
            broker = channel._broker
            for key, history in list(broker.histories.items()):
                followers = history.followers
                del broker.histories[key]
                anew = broker.history(key, channel._definition.limits)
                anew.followers = followers
                for each in followers:
                    each.reset("epoch", anew.ring.head)


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


async def until(condition: Callable[[], Any]) -> None:
    with anyio.fail_after(30):
        while not condition():
            await anyio.sleep(0.001)


async def heard(channels: Channels) -> None:
    """Waits until the subscribers of this event loop have had the occasion to take all there is."""
    for hub in channels._hubs._by_loop.values():
        for tail in hub._tails.values():
            await hub.catch_up(tail)
    await turns()
