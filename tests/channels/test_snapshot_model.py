"""Whatever happens between a server and its clients, their state is the server's when all is quiet:
a map that is changed before `publish`, and a counter whose state knows its last event."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from redis.crc import key_slot

from channel_clients import Client, Run
from redis_checks import MakeRedis, until
from redis_server import Cluster, RedisServer, Sentinel
from soak_links import Links
from sserpent import ServerSentEvent
from sserpent.channels import BrokerUnavailable, Channels, PublishUncertain
from sserpent.channels.history.position import HistoryKey, parse_id
from sserpent.channels.redis.names import name_of

NAMES = "abcdef"


class Database:
    """The state of the application, which outlives its processes. One writer at a time.

    Args:
        counts: Whether changes add up, so that none may be applied twice: then the state knows its
            last event.
    """

    def __init__(self, counts: bool) -> None:
        self.counts = counts
        self.state: dict[str, int] = dict.fromkeys(NAMES, 0)
        self.last: str | None = None
        self.writer = anyio.Lock()
        self.channel: Any = None
        self.pause = 0.0

    async def change(self, name: str, value: int) -> None:
        async with self.writer:
            if self.counts:
                self.last = await self._publish([name, value])
                self.state[name] += value
            else:
                self.state[name] = value
                await self._publish([name, value])

    async def begin(self) -> None:
        """Notes where the history begins: a first event may be there before its `publish` returns,
        and a state without a position does not say whether it has that event."""
        self.last = await self._position()

    async def _publish(self, change: list[Any]) -> str:
        while True:
            before = self.last
            try:
                return str(await self.channel.publish(change))
            except BrokerUnavailable:
                await anyio.sleep(0.1)
            except PublishUncertain:
                # There is one writer: where the position is another, it is that of this event.
                at = await self._position()
                known = parse_id(at)
                if known is not None and known.offset and at != before:
                    return at

    async def _position(self) -> str:
        while True:
            with suppress(BrokerUnavailable):
                return str(await self.channel.position())
            await anyio.sleep(0.1)

    async def snapshot(self) -> ServerSentEvent:
        state, last = dict(self.state), self.last
        if self.pause:
            await anyio.sleep(self.pause)
        return ServerSentEvent(data=state, event="snapshot", id=last if self.counts else None)


class Tab:
    """A page that shows the state, and comes back when it is cut off."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.state: Any = None
        self.last_id: str | None = None
        self.snapshots = 0
        self.client: Client | None = None
        self.is_closed = False
        self._applied = 0

    async def live(self, subscribe: Callable[[str | None], Any]) -> None:
        while not self.is_closed:
            self.client, self._applied = Client(), 0
            subscription = subscribe(self.last_id)
            try:
                await self.client.run(subscription)
            except Exception as error:  # a 500 is a fault of the server's
                raise AssertionError(f"a client has seen {error!r}") from error
            self.apply()
            await anyio.sleep(0.005)

    def apply(self) -> None:
        client = self.client
        if client is None:
            return
        events = client.seen
        for event in events[self._applied :]:
            if event.type == "snapshot":
                self.state = event.data
                self.snapshots += 1
            else:
                assert event.type == "message", event
                name, value = event.data
                self.state[name] = self.state[name] + value if self.database.counts else value
        self._applied = len(events)
        self.last_id = client.last_id or self.last_id

    def cut(self) -> None:
        if self.client is not None:
            self.client.unstall()
            self.client.disconnect()

    def stall(self) -> None:
        if self.client is not None:
            self.client.stall()

    def go_on(self) -> None:
        if self.client is not None:
            self.client.unstall()

    def close(self) -> None:
        self.is_closed = True
        self.cut()


class World:
    """A server, its clients, and what can happen to them."""

    def __init__(self, database: Database, randomly: random.Random) -> None:
        self.database = database
        self.randomly = randomly
        self.tabs = [Tab(database) for _ in range(6)]
        self.faults: list[Callable[[], Any]] = [self.cut, self.stall, self.go_on, self.slow_calls]

    def any_tab(self) -> Tab:
        return self.randomly.choice(self.tabs)

    async def cut(self) -> None:
        self.any_tab().cut()

    async def stall(self) -> None:
        self.any_tab().stall()

    async def go_on(self) -> None:
        for tab in self.tabs:
            tab.go_on()

    async def slow_calls(self) -> None:
        self.database.pause = self.randomly.choice([0, 0, 0.01, 0.05])

    async def burst(self) -> None:
        for _ in range(self.randomly.choice([1, 1, 3, 10, 40])):
            name = self.randomly.choice(NAMES)
            await self.database.change(name, self.randomly.randrange(1, 100))
            if self.randomly.random() < 0.2:
                await anyio.lowlevel.checkpoint()

    async def play(
        self,
        steps: int,
        subscribe: Callable[[str | None], Any],
        fail_over: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        async with anyio.create_task_group() as tasks:
            for tab in self.tabs:
                tasks.start_soon(tab.live, subscribe)
            for step in range(steps):
                await self.burst()
                if fail_over is not None and step == steps // 2:
                    await fail_over()
                if self.randomly.random() < 0.5:
                    await self.randomly.choice(self.faults)()
                await anyio.sleep(self.randomly.choice([0, 0, 0.001, 0.01]))
            await self.quiet()
            for tab in self.tabs:
                tab.close()

    async def quiet(self) -> None:
        self.database.pause = 0
        await self.go_on()
        await self.database.change("a", 1)
        with anyio.move_on_after(60):
            while not self.is_right():
                await anyio.sleep(0.01)
        for tab in self.tabs:
            tab.apply()
            assert tab.state == self.database.state

    def is_right(self) -> bool:
        for tab in self.tabs:
            tab.apply()
            tab.go_on()
        return all(tab.state == self.database.state for tab in self.tabs)


# In this process


@pytest.mark.parametrize("counts", [False, True], ids=["map", "counter"])
@pytest.mark.parametrize("seed", range(6))
def test_a_client_has_the_state_of_its_server_when_all_is_quiet(
    run: Run, seed: int, counts: bool
) -> None:
    async def main() -> None:
        randomly = random.Random(seed)
        database = Database(counts)
        world = World(database, randomly)
        overflow = randomly.choice(["gap", "latest", "disconnect"])
        history = randomly.choice([0, 1, 5, 50])

        async with AsyncExitStack() as stack:

            async def restart() -> None:
                """Begins another process: the histories are gone, and the state is not."""
                async with database.writer:
                    await stack.aclose()
                    channels = await stack.enter_async_context(Channels())
                    database.channel = channels.channel("state", history=history, overflow=overflow)

            await restart()
            await database.begin()
            world.faults.append(restart)
            await world.play(
                60,
                lambda after: database.channel.subscribe(
                    after=after, snapshot=database.snapshot, max_pending=200
                ),
            )
        assert sum(tab.snapshots for tab in world.tabs) > len(world.tabs)

    run(main)


# On Redis


@asynccontextmanager
async def linked(target: Callable[[], int]) -> AsyncIterator[Links]:
    links = Links(target)
    await links.open()
    try:
        yield links
    finally:
        await links.close()


@pytest.mark.parametrize("counts", [False, True], ids=["map", "counter"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("keeps", [True, False], ids=["with data", "without data"])
def test_a_client_has_the_state_of_its_server_when_redis_is_well_again(
    make_redis: MakeRedis, seed: int, counts: bool, keeps: bool
) -> None:
    options = {"appendonly": "yes", "appendfsync": "always"} if keeps else {}
    server: RedisServer = make_redis(**options)

    async def main() -> None:
        randomly = random.Random(seed)
        database = Database(counts)
        world = World(database, randomly)
        async with (
            linked(lambda: server.port) as links,
            Channels(server.url, publish_timeout=2) as writing,
            Channels(f"redis://127.0.0.1:{links.port}/0", publish_timeout=2) as reading,
        ):
            history = randomly.choice([5, 50])
            database.channel = writing.channel("state", history=history)
            await database.begin()
            read = reading.channel("state", history=history)

            async def cut_redis() -> None:
                links.cut(randomly.choice(["subscription", "commands"]))

            async def slow_redis() -> None:
                links.slow_down("subscription", 0.2, 0.5)

            async def restart_redis() -> None:
                async with database.writer:
                    await anyio.to_thread.run_sync(server.kill)
                    await anyio.to_thread.run_sync(server.start)

            world.faults += [cut_redis, slow_redis]
            if randomly.random() < 0.9:
                world.faults.append(restart_redis)
            await world.play(
                40, lambda after: read.subscribe(after=after, snapshot=database.snapshot)
            )

    anyio.run(main)


# At a failover


async def play_over_a_failover(
    url: str, counts: bool, fail_over: Callable[[], Awaitable[object]]
) -> None:
    database = Database(counts)
    world = World(database, random.Random(7))
    async with Channels(url, publish_timeout=4) as writing, Channels(url) as reading:
        database.channel = writing.channel("state", history=50)
        await database.begin()
        read = reading.channel("state", history=50)
        await database.change("a", 1)
        await world.play(
            20, lambda after: read.subscribe(after=after, snapshot=database.snapshot), fail_over
        )


@pytest.mark.parametrize("counts", [False, True], ids=["map", "counter"])
def test_a_client_has_the_state_of_its_server_after_sentinel_has_moved_the_master(
    make_redis: MakeRedis, counts: bool
) -> None:
    master = make_redis()
    replica = make_redis(replicaof=f"127.0.0.1 {master.port}")
    sentinel = Sentinel(master)

    def sees_the_replica() -> bool:
        return int(sentinel.ask("INFO", "sentinel")["master0"]["slaves"]) == 1

    async def fail_over() -> None:
        await until(sees_the_replica)
        sentinel.ask("SENTINEL", "FAILOVER", "main")

    try:
        anyio.run(play_over_a_failover, sentinel.url, counts, fail_over)
        assert replica.ask("ROLE")[0] == "master"
    finally:
        sentinel.close()


@pytest.mark.parametrize("counts", [False, True], ids=["map", "counter"])
def test_a_client_has_the_state_of_its_server_after_a_node_of_a_cluster_has_failed(
    make_redis: MakeRedis, counts: bool
) -> None:
    cluster = Cluster(make_redis, cluster_node_timeout="2000", cluster_replica_validity_factor="0")
    slot = key_slot(name_of("sserpent", 0, HistoryKey("state", None)))
    node = cluster.node_of(slot)
    replica = cluster.add_replica(node)

    async def fail_over() -> None:
        await until(lambda: replica.ask("ROLE")[4] == node.ask("ROLE")[1])
        await anyio.to_thread.run_sync(node.kill)

    try:
        anyio.run(play_over_a_failover, cluster.url, counts, fail_over)
    finally:
        cluster.close()
