"""A history that begins anew while somebody is about to follow it."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest

from channel_clients import connected
from sserpent.channels import Channels
from sserpent.channels.history.broker import Follower
from sserpent.channels.history.memory import MemoryBroker
from sserpent.channels.history.position import HistoryKey, Position
from sserpent.channels.history.ring import Entry, Retention

pytestmark = pytest.mark.anyio

AGAIN = Position("feed", 0, 0)


class RestartingBroker(MemoryBroker):
    """Has the history of a channel begin anew while that of the same or another is asked for."""

    def __init__(self, restarts: str, while_asked: str) -> None:
        super().__init__()
        self._restarts = restarts
        self._while_asked = while_asked
        self._followers: dict[str, Follower] = {}

    async def follow(self, stream: HistoryKey, limits: Retention, follower: Follower) -> Position:
        self._followers[stream.channel] = follower
        return await super().follow(stream, limits, follower)

    async def read(
        self, stream: HistoryKey, limits: Retention, first: int, before: int
    ) -> tuple[Position, list[Entry]]:
        read = await super().read(stream, limits, first, before)
        if stream.channel == self._while_asked:
            self._followers[self._restarts].reset("epoch", AGAIN)
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
        return read


@pytest.fixture
def make_channels() -> Callable[[str, str], Channels]:
    def make(restarts: str, while_asked: str) -> Channels:
        channels = Channels()
        channels._broker = channels._hubs.broker = RestartingBroker(restarts, while_asked)
        return channels

    return make


async def test_somebody_who_comes_back_is_told(
    make_channels: Callable[[str, str], Channels],
) -> None:
    async with make_channels("news", "news") as channels:
        news = channels.channel("news")
        ids = [await news.publish(number) for number in range(3)]
        async with connected(news.subscribe(after=ids[0])) as client:
            await client.until(lambda: client.seen)
            assert [event.type for event in client.seen] == ["reset"]
            assert client.last_id == str(AGAIN)


async def test_somebody_of_several_channels_is_told(
    make_channels: Callable[[str, str], Channels],
) -> None:
    async with make_channels("news", "talk") as channels:
        both = [channels.channel(name) for name in ("news", "talk")]
        for channel in both:
            await channel.publish(1)
            await channel.publish(2)
        selections = [channel.on() for channel in both]
        async with connected(channels.subscribe(*selections, start="earliest")) as client:
            await client.has(1, 2)  # of talk
            assert [event.type for event in client.said] == ["reset"]
            assert str(AGAIN) in client.last_id
