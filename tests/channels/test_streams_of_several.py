"""Whatever is published to several channels, and whoever stalls, leaves and comes back: a client of
all of them sees the events of each once and in order, or is told exactly what is missing. It has an
id to come back with from the first byte on."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies  # noqa: F401 - the profile
from channel_clients import Client, Run, Seen, StallingReader
from sserpent import ServerSentEvent
from sserpent.channels import Channels
from sserpent.channels.history.position import parse_ids
from virtual_time import run_on_asyncio, run_on_trio

NAMES = "ab"


class World:
    """Two channels, what has been published to them, and their clients."""

    def __init__(self, history: int, overflow: Any, hides: bool) -> None:
        self.channels = Channels()
        self.named = {
            name: self.channels.channel(name, history=history, overflow=overflow) for name in NAMES
        }
        self.labels = {each.on().key.label: name for name, each in self.named.items()}
        self.published = dict.fromkeys(NAMES, 0)
        self.ephemeral = 0
        self.hides = hides
        self.readers = [Reader(self), Reader(self)]

    def is_hidden(self, number: int) -> bool:
        return self.hides and number % 3 == 1

    def shows(self, event: ServerSentEvent) -> bool:
        data: Any = event.data
        return data[0] == "typing" or not self.is_hidden(data[1])

    def subscribe(self, after: str | None) -> Any:
        selections = [each.on() for each in self.named.values()]
        return self.channels.subscribe(
            *selections,
            after=after,
            filter=self.shows if self.hides else None,
            max_pending=300,
        )

    async def play(self, acts: list[tuple[str, int]]) -> None:
        async with anyio.create_task_group() as tasks:
            for act, number in acts:
                reader = self.readers[number % len(self.readers)]
                if act == "turn":
                    for _ in range(number):
                        await anyio.lowlevel.checkpoint()
                elif act in ("publish", "type"):
                    for _ in range(number):
                        await self.publish(NAMES[number % 2], ephemeral=act == "type")
                else:
                    await getattr(reader, act)(tasks)
            for reader in self.readers:
                await reader.come(tasks)
            for name in NAMES:
                while self.is_hidden(self.published[name]):
                    await self.publish(name)
                await self.publish(name)
            for reader in self.readers:
                await reader.catch_up(tasks)

    async def publish(self, name: str, ephemeral: bool = False) -> None:
        if ephemeral:
            self.ephemeral += 1
            await self.named[name].publish(["typing", self.ephemeral, name], ephemeral=True)
        else:
            number, self.published[name] = self.published[name], self.published[name] + 1
            await self.named[name].publish([name, number, "x" * (number % 4 * 50)])


class Reader(StallingReader):
    """One client, through all its connections. `at` is the model: of each channel, the number of
    the last event that it has seen, or has been told of."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.client: Client | None = None
        self.last_id: str | None = None
        self.at: dict[str, int] = {}
        self.began: dict[str, int] = {}

    async def come_stalled(self, tasks: Any) -> None:
        await self.come(tasks, stalls=True)

    async def come(self, tasks: Any, stalls: bool = False) -> None:
        if self.client is None:
            self.client = client = Client()
            if stalls:
                client.stall()
            self.began = dict(self.world.published)
            tasks.start_soon(client.run, self.world.subscribe(self.last_id))
            await client.until(lambda: client.started or client.stalled)

    async def leave(self, tasks: Any) -> None:
        client, self.client = self.client, None
        if client is not None:
            client.disconnect()
            client.unstall()
            self.learn(client)

    def learn(self, client: Client) -> None:
        typed = dict.fromkeys(NAMES, 0)
        for event in client.seen:
            if event.type == "gap":
                self.learn_gap(event)
            elif event.data[0] == "typing":
                _, number, name = event.data
                assert number > typed[name]
                typed[name] = number
            else:
                assert event.type == "message", event
                name, number, _ = event.data
                self.pass_over(name, number)
                self.at[name] = number
                assert self.places(event.id)[name] == number
        if client.body:
            assert client.last_id or self.last_id, "it has no id to come back with"
        if client.last_id:
            self.last_id = client.last_id
            for name, number in self.places(client.last_id).items():
                self.pass_over(name, number + 1)
                self.at[name] = number

    def learn_gap(self, event: Seen) -> None:
        [(name, first)] = self.places(event.data["from"]).items()
        [(same, last)] = self.places(event.data["to"]).items()
        assert same == name
        assert event.data["missed"] == last - first > 0
        self.pass_over(name, first + 1)
        self.at[name] = last
        assert self.places(event.id)[name] == last

    def places(self, id: str) -> dict[str, int]:
        positions = parse_ids(id, len(NAMES))
        assert positions is not None, id
        return {self.world.labels[label]: each.offset - 1 for label, each in positions.items()}

    def pass_over(self, name: str, number: int) -> None:
        """Checks that nothing before an event was missed."""
        if name in self.at:
            assert all(self.world.is_hidden(each) for each in range(self.at[name] + 1, number))
        else:
            assert number >= self.began[name]

    async def catch_up(self, tasks: Any) -> None:
        """Comes back until it has the last event of each channel: a stream may have ended."""
        newest = {name: count - 1 for name, count in self.world.published.items()}
        while True:
            client = self.client
            assert client is not None
            client.unstall()

            def has_all(client: Client = client) -> bool:
                last_id = client.last_id
                return client.complete or (bool(last_id) and self.places(last_id) == newest)

            await client.until(has_all)
            await self.leave(tasks)
            if self.at == newest:
                return
            await self.come(tasks)


DEEDS = [
    *("publish", "publish", "type", "turn"),
    *("come", "come_stalled", "leave", "stall", "unstall"),
]
ACTS = st.lists(st.tuples(st.sampled_from(DEEDS), st.integers(0, 12)), max_size=40)


@pytest.mark.parametrize("run", [run_on_asyncio, run_on_trio], ids=["asyncio", "trio"])
@given(
    acts=ACTS,
    history=st.sampled_from([0, 1, 3, 1_000]),
    overflow=st.sampled_from(["gap", "latest", "disconnect"]),
    hides=st.booleans(),
)
def test_c19_each_event_of_each_channel_once_in_order_or_an_exact_gap(
    run: Run, acts: list[tuple[str, int]], history: int, overflow: str, hides: bool
) -> None:
    async def main() -> None:
        await World(history, overflow, hides).play(acts)

    run(main)
