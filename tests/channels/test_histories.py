"""Whatever is published, trimmed and forgotten, and whoever stalls, leaves and comes back: a client
sees each event once, in order, or is told exactly what is missing."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest.mock import patch

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies  # noqa: F401 - the profile
from channel_clients import Client, Run, Seen, StallingReader, offset_of
from sserpent._runtime.loops import current_time
from sserpent.channels import Channels
from sserpent.channels.history import memory
from virtual_time import run_on_asyncio, run_on_trio


class World:
    """A channel, what has been published to it, and its clients."""

    def __init__(self, history: int, overflow: Any) -> None:
        self.channels = Channels()
        self.news = self.channels.channel(
            "news", history=history, history_ttl=100, history_bytes=2_000, overflow=overflow
        )
        self.ids: list[str] = []
        self.clients: list[Reader] = [Reader(self), Reader(self)]

    async def play(self, acts: list[tuple[str, int]]) -> None:
        async with anyio.create_task_group() as tasks:
            for act, number in acts:
                reader = self.clients[number % len(self.clients)]
                if act == "publish":
                    await self.publish(number)
                elif act == "turn":
                    for _ in range(number):
                        await anyio.lowlevel.checkpoint()
                elif act == "wait":
                    await anyio.sleep(number * 10)
                else:
                    await getattr(reader, act)(tasks)
            for reader in self.clients:
                await reader.come(tasks)
            await self.publish(1)
            for reader in self.clients:
                await reader.catch_up(tasks)
            for reader in self.clients:
                await reader.leave(tasks)

    async def publish(self, count: int) -> None:
        for _ in range(count):
            self.ids.append(await self.news.publish("x" * (len(self.ids) % 5 * 100)))


class Reader(StallingReader):
    """One client, through all its connections. `at` is the model: the index of the last event that
    it has seen, or has been told of."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.client: Client | None = None
        self.last_id: str | None = None
        self.at = -1

    async def come(self, tasks: Any) -> None:
        if self.client is None:
            self.client = client = Client()
            subscription = self.world.news.subscribe(after=self.last_id, start="earliest")
            tasks.start_soon(client.run, subscription)
            await client.until(lambda: client.started)

    async def leave(self, tasks: Any) -> None:
        if self.client is not None:
            self.client.disconnect()
            self.client.unstall()
            without_data = [
                names for names in blocks(self.client.stream.fields) if "data" not in names
            ]
            if without_data:
                self.learn_position(without_data)
            for each in self.client.seen:
                if self.last_id is None:  # it begins with whatever is kept
                    before = each.data["from"] if each.type == "gap" else None
                    self.at = self.index_before(before) if before else self.index_of(each) - 1
                self.see(each)
                self.last_id = each.id
            self.last_id = self.client.last_id or self.last_id
            self.client = None

    def learn_position(self, without_data: list[set[str]]) -> None:
        """One that is ended as too slow before its first event is told where it stands."""
        assert self.client is not None
        assert without_data == [{"id"}]
        assert self.world.news.on().overflow == "disconnect"
        assert self.client.seen == []
        assert self.last_id is None
        self.at = self.index_before(self.client.last_id)

    async def catch_up(self, tasks: Any) -> None:
        """Comes back until it has the last event: a stream may have ended."""
        newest = self.world.ids[-1]
        while self.client is not None:
            client = self.client
            client.unstall()
            await client.until(partial(self.has_ended_or, newest))
            if client.last_id == newest:
                return
            await self.leave(tasks)
            await self.come(tasks)

    def has_ended_or(self, newest: str) -> bool:
        return self.client is None or self.client.complete or self.client.last_id == newest

    def see(self, event: Seen) -> None:
        ids = self.world.ids
        if event.type == "reset":
            assert event.data["reason"] == "epoch"
            assert self.last_id is not None
            assert self.last_id.split("-")[0] != event.id.split("-")[0]
            self.at = self.index_before(event.id)
        elif event.type == "gap":
            assert event.data["missed"] == ids.index(event.id) - self.at > 0
            self.at = ids.index(event.id)
        else:
            self.at += 1
            assert event.id == ids[self.at]

    def index_of(self, event: Seen) -> int:
        return self.world.ids.index(event.id)

    def index_before(self, position: str) -> int:
        """Returns the index of the event that a position follows: an event's, or an epoch's."""
        if position in self.world.ids:
            return self.world.ids.index(position)
        assert offset_of(position) == 0
        return self.start_of(position)

    def start_of(self, position: str) -> int:
        """Returns the index before the first event of an epoch, which may be the next one."""
        epochs = [each.split("-")[0] for each in self.world.ids]
        epoch = position.split("-")[0]
        return (epochs.index(epoch) if epoch in epochs else len(epochs)) - 1


def blocks(fields: list[Any]) -> list[set[str]]:
    """The names of the fields of each block that is whole, comments left out."""
    found: list[set[str]] = [set()]
    for each in fields:
        if each is None:
            found.append(set())
        else:
            found[-1].add(each[0])
    return found[:-1]


ACTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["publish", "publish", "turn", "wait", "come", "leave", "stall", "unstall"]
        ),
        st.integers(0, 12),
    ),
    max_size=40,
)


@pytest.mark.parametrize("run", [run_on_asyncio, run_on_trio], ids=["asyncio", "trio"])
@given(acts=ACTS, history=st.sampled_from([0, 1, 3, 1_000]), overflow=st.sampled_from(
    ["gap", "latest", "disconnect"]
))  # fmt: skip
def test_each_event_once_in_order_or_an_exact_gap(
    run: Run, acts: list[tuple[str, int]], history: int, overflow: str
) -> None:
    async def main() -> None:
        await World(history, overflow).play(acts)

    with patch.object(memory, "monotonic", current_time):
        run(main)
