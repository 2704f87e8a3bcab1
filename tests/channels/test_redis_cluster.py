"""Channels and runs on a Redis Cluster when a node fails and its replica takes over."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress

import anyio
import pytest
from fastapi import HTTPException
from redis.crc import key_slot

from channel_clients import Client
from event_loops import asyncio_only
from followers import Notes, number_of
from redis_checks import (
    LIMITS,
    QUICK,
    ROOM,
    MakeRedis,
    Outcomes,
    in_thread,
    numbers_in,
    publish,
    publish_all,
    publish_until_it_works,
    run,
    until,
)
from redis_server import Cluster, RedisServer, Sentinel
from servers import free_port
from sserpent.channels import BrokerUnavailable, Channels, PublishUncertain, Runs
from sserpent.channels.history.broker import Lease
from sserpent.channels.history.position import HistoryKey
from sserpent.channels.history.ring import Entry
from sserpent.channels.redis import RedisBroker
from sserpent.channels.redis.names import name_of

# A broker is given frames that are made already.
pytestmark = [pytest.mark.once, pytest.mark.anyio]

PACE = QUICK._replace(timeout=4)
# After a node has been silent for two seconds its replica takes over, however old its data are.
QUICK_TO_FAIL = {"cluster_node_timeout": "2000", "cluster_replica_validity_factor": "0"}
SLOT = key_slot(name_of("sserpent", 0, ROOM))


class Pair:
    """A cluster, of which one node has a replica: the node that has the lobby."""

    def __init__(self, make_redis: MakeRedis) -> None:
        self.cluster = Cluster(make_redis, **QUICK_TO_FAIL)
        self.master = self.cluster.node_of(SLOT)
        self.replica = self.cluster.add_replica(self.master)

    @property
    def others(self) -> list[RedisServer]:
        """The masters that nothing happens to."""
        return [node for node in self.cluster.nodes if node not in (self.master, self.replica)]

    def streams_of_others(self) -> list[HistoryKey]:
        """A stream on each of them."""
        streams = [HistoryKey("rooms", str(number)) for number in range(60)]
        slots = {key_slot(name_of("sserpent", 0, stream)): stream for stream in streams}
        ports = {self.cluster.node_of(slot).port: stream for slot, stream in slots.items()}
        return [ports[node.port] for node in self.others]

    async def replicated(self) -> None:
        """Waits until the replica has all that its master has."""
        await until(lambda: self.replica.ask("ROLE")[4] == self.master.ask("ROLE")[1])

    def took_over(self) -> bool:
        """Whether the replica is the master, and some other node knows."""
        return bool(self.replica.ask("ROLE")[0] == "master") and self._is_known()

    def _is_known(self) -> bool:
        slots = self.others[0].ask("EVAL", "return redis.call('CLUSTER', 'SLOTS')", 0)
        return any(master[1] == self.replica.port for _, _, master, *_ in slots)


@pytest.fixture
def pair(make_redis: MakeRedis) -> Iterator[Pair]:
    pair = Pair(make_redis)
    yield pair
    pair.cluster.close()


def told_the_truth(outcomes: Outcomes, read: list[int]) -> None:
    """What was published is there once, what was refused is not, and of what is uncertain no more
    than once."""
    counted = Counter(read)
    for number, outcome in outcomes.items():
        if isinstance(outcome, str):
            assert counted[number] == 1, number
        elif outcome is PublishUncertain:
            assert counted[number] <= 1, number
        else:
            assert counted[number] == 0, number


def test_c12_a_node_is_killed_and_its_replica_takes_over(pair: Pair) -> None:
    async def check(broker: RedisBroker) -> None:
        others = {stream: Notes() for stream in pair.streams_of_others()}
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        for stream, each in others.items():
            await broker.follow(stream, LIMITS, each)
        outcomes: Outcomes = {}
        await publish_all(broker, outcomes, range(20))
        await pair.replicated()
        pair.master.kill()
        await publish_all(broker, outcomes, range(20, 23))
        assert await publish_until_it_works(broker, 100)
        await until(pair.took_over)
        await publish_all(broker, outcomes, range(101, 120))
        for stream in others:
            await publish(broker, 7, stream=stream)
        await until(lambda: 119 in notes.brief)
        read = await numbers_in(broker)
        told_the_truth(outcomes, read)
        assert notes.brief == read
        for each in others.values():
            await until(lambda each=each: each.brief == [7])  # type: ignore[misc]
        # What comes back is the replica of what was its own.
        await in_thread(pair.master.start)
        await until(lambda: pair.master.ask("ROLE")[0] == "slave")
        await publish(broker, 200)
        await until(lambda: 200 in notes.brief)
        assert notes.brief == await numbers_in(broker) == [*read, 200]

    run(pair.cluster, check, PACE)


def test_c8_a_node_is_killed_whose_replica_lacks_the_tail(pair: Pair) -> None:
    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        await publish(broker, *range(5))
        await pair.replicated()
        # From here on the replica gets nothing.
        pair.replica.pause()
        pair.master.ask("CLIENT", "KILL", "TYPE", "replica")
        last = (await publish(broker, 5, 6))[-1]
        await until(lambda: len(notes.told) == 7)
        pair.master.kill()
        pair.replica.go_on()
        await publish_until_it_works(broker, 7)
        await until(lambda: "diverged" in notes.brief)
        await publish(broker, 8)
        await until(lambda: 8 in notes.brief)
        # 7 came before the new position, or after it.
        assert [each for each in notes.brief if each != 7] == [*range(7), "diverged", 8]
        assert await numbers_in(broker) == [*range(5), 7, 8]
        # Whoever comes back is told too.
        channels = Channels(pair.cluster.url)
        rooms = channels.channel("rooms", keyed=True)
        async with channels, rooms.listen(key="lobby", after=last) as events:
            found = await anext(events)
        assert (found.event, found.data) == ("reset", {"reason": "diverged"})

    run(pair.cluster, check, PACE)


def test_c12_a_failover_that_somebody_asks_for_loses_nothing(pair: Pair) -> None:
    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        outcomes: Outcomes = {}
        tasks = [
            asyncio.create_task(publish_all(broker, outcomes, range(first, first + 300)))
            for first in range(0, 3_000, 300)
        ]
        await until(lambda: len(outcomes) > 500)
        await in_thread(pair.replica.ask, "CLUSTER", "FAILOVER")
        await asyncio.gather(*tasks)
        await until(pair.took_over)
        await publish_until_it_works(broker, 5_000)
        await until(lambda: 5_000 in notes.brief)
        read = await numbers_in(broker)
        told_the_truth(outcomes, read)
        assert notes.brief == read
        # Nothing comes by the old node any more.
        name = name_of("sserpent", 0, ROOM).decode()
        await until(lambda: name in pair.replica.ask("PUBSUB", "SHARDCHANNELS"))
        await until(lambda: pair.master.ask("PUBSUB", "SHARDCHANNELS") == [])

    run(pair.cluster, check, PACE)


def test_c12_a_node_that_stalls_is_replaced_and_comes_back(pair: Pair) -> None:
    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        outcomes: Outcomes = {}
        await publish_all(broker, outcomes, range(20))
        await pair.replicated()
        stalled = [
            asyncio.create_task(publish_all(broker, outcomes, range(first, first + 20)))
            for first in range(100, 1_100, 100)
        ]
        pair.master.pause()
        await until(pair.took_over)
        await publish_until_it_works(broker, 5_000)
        pair.master.go_on()
        await asyncio.gather(*stalled)
        await until(lambda: pair.master.ask("ROLE")[0] == "slave")
        await publish_until_it_works(broker, 5_001)
        await until(lambda: 5_001 in notes.brief)
        read = await numbers_in(broker)
        assert len(set(read)) == len(read)
        assert set(range(20)) | {5_000, 5_001} <= set(read)
        refused = {number for number, outcome in outcomes.items() if outcome is BrokerUnavailable}
        assert not refused & set(read)
        # What the stalled node had accepted is gone with what it was, and that is said.
        lost = {number for number, each in outcomes.items() if isinstance(each, str)} - set(read)
        told = [number_of(each) for each in notes.told if isinstance(each, Entry)]
        if "diverged" not in notes.brief:
            assert not lost
            assert told == read

    run(pair.cluster, check, PACE)


async def counted(go_on: Callable[[int], bool]) -> AsyncIterator[int]:
    number = 0
    while go_on(number):
        yield number
        number += 1
        await asyncio.sleep(0.02)


@asyncio_only
async def test_a_run_goes_on_over_the_failure_of_its_node(pair: Pair) -> None:
    with anyio.fail_after(90):
        channels = Channels(pair.cluster.url, publish_timeout=4)
        runs = channels.runs("answers")
        over: list[int] = []
        async with channels:
            # One that is kept by the node that fails.
            run_id = next(
                name
                for name in map(str, range(1_000))
                if pair.cluster.node_of(key_slot(name_of("sserpent", 0, runs._key(name, None))))
                is pair.master
            )
            started = await runs.start(counted(lambda _: not over), id=run_id)
            client = Client()
            following = asyncio.create_task(client.run(started.follow()))
            await until(lambda: len(client.seen) > 10)
            pair.master.kill()
            await until(pair.took_over)
            seen = len(client.seen)
            await until(lambda: len(client.seen) > seen + 50 or client.complete)
            over.append(1)
            await following
            events = [each for each in client.seen if each.type == "message"]
            end = client.seen[-1]
            if end.data["end"] == "lost":
                # The replica had not all that the follower has had.
                assert "diverged" in [each.data.get("reason") for each in client.said]
            else:
                assert end.data["end"] == "done"
                assert [each.data for each in events] == list(range(len(events)))


async def start_if_free(runs: Runs[int], key: str, over: list[int]) -> str | None:
    """Starts a run of a key, and returns its id; None if the key has an active one, or Redis is
    away."""
    try:
        return (await runs.start(counted(lambda _: not over), key=key)).id
    except (HTTPException, BrokerUnavailable):
        return None


@asyncio_only
async def test_p17_a_key_on_a_node_that_fails_has_one_active_run(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key's string is on the node that fails, its run on another."""
    monkeypatch.setattr(Lease, "RENEWAL", 0.3)
    monkeypatch.setattr(Lease, "DURATION", 30.0)
    with anyio.fail_after(100):
        over: list[int] = []
        channels, others = (Channels(pair.cluster.url, publish_timeout=4) for _ in range(2))
        async with channels, others:
            here, there = (each.runs("answers", shutdown_grace=0) for each in (channels, others))
            is_there = {
                name: pair.cluster.node_of(key_slot(name_of("sserpent", 0, here._key(name, None))))
                is pair.master
                for name in map(str, range(20))
            }
            key = next(name for name, there_too in is_there.items() if there_too)
            run_id = next(name for name, there_too in is_there.items() if not there_too)
            started = await here.start(counted(lambda _: not over), id=run_id, key=key)
            assert await start_if_free(there, key, over) is None
            pair.master.kill()
            await until(pair.took_over)
            ids = [started.id]
            # The replica may not have had the key: then another start gets it, and the first run
            # ends when it renews it.
            for _ in range(20):
                new = await start_if_free(there, key, over)
                ids += [] if new is None else [new]
                await asyncio.sleep(0.1)
            active = None
            while active is None:
                with suppress(BrokerUnavailable):
                    active = await there.active(key)
            with anyio.fail_after(30):
                for each in ids:
                    if each != active.id:
                        assert (await there.wait(each)).state == "stopped"
            assert (await there.status(active.id)).state == "running"
            over.append(1)
            assert (await there.wait(active.id)).state == "done"
            assert await here.active(key) is None


@asyncio_only
async def test_p17_a_failover_that_lost_a_key_and_its_run_frees_the_key(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lease, "RENEWAL", 0.3)
    monkeypatch.setattr(Lease, "DURATION", 30.0)
    master = make_redis()
    replica = make_redis(replicaof=f"127.0.0.1 {master.port}")
    sentinel = Sentinel(master)
    try:
        with anyio.fail_after(100):
            over: list[int] = []
            channels, others = (Channels(sentinel.url, publish_timeout=4) for _ in range(2))
            async with channels, others:
                here, there = (
                    each.runs("answers", shutdown_grace=0) for each in (channels, others)
                )
                await until(lambda: "slave0" in master.ask("INFO", "replication"))
                await until(lambda: sentinel.ask("SENTINEL", "REPLICAS", "main"))
                # From here on the replica gets nothing.
                replica.pause()
                master.ask("CLIENT", "KILL", "TYPE", "replica")
                old = await start_if_free(here, "chat", over)
                assert old is not None
                master.kill()
                replica.go_on()
                new = None
                with anyio.fail_after(60):
                    while new is None:
                        new = await start_if_free(there, "chat", over)
                # The old one has lost what it has yielded, and yields no more.
                await until(lambda: not here._local.producers)
                active = await here.active("chat")
                assert active is not None
                assert active.id == new
                over.append(1)
                assert (await there.wait(new)).state == "done"
    finally:
        sentinel.close()


def test_a_node_that_is_in_no_cluster_any_more_is_not_asked_for_all(
    make_redis: MakeRedis,
) -> None:
    cluster = Cluster(make_redis)
    left = make_redis(cluster_enabled="yes", cluster_port=str(free_port()))

    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        await publish(broker, 1)
        await until(lambda: notes.brief == [1])

    cluster.url = cluster.url.replace("//", f"//127.0.0.1:{left.port},")
    try:
        run(cluster, check, PACE)
    finally:
        cluster.close()


def test_c12_a_node_that_refuses_to_say_where_the_others_are_is_not_asked_alone(
    pair: Pair,
) -> None:
    async def check(broker: RedisBroker) -> None:
        await publish(broker, 1)
        await pair.replicated()
        pair.master.kill()
        await publish_until_it_works(broker, 2)
        assert await numbers_in(broker) == [1, 2]

    first = pair.others[0]
    first.ask("ACL", "SETUSER", "default", "-cluster|slots")
    pair.cluster.url = pair.cluster.url.replace("//", f"//127.0.0.1:{first.port},")
    run(pair.cluster, check, PACE)


@asyncio_only
async def test_who_waits_is_told_what_a_node_refuses(make_redis: MakeRedis) -> None:
    cluster = Cluster(make_redis)
    for node in cluster.nodes:
        node.ask("ACL", "SETUSER", "default", "-ssubscribe")
    try:
        async with Channels(cluster.url, publish_timeout=2) as channels:
            with pytest.raises(BrokerUnavailable, match=r"refuses a subscription: .*'ssubscribe'"):
                await channels.ready()
    finally:
        cluster.close()


def connections_of(node: RedisServer) -> int:
    """How many connections it has had so far."""
    return int(node.ask("INFO", "stats")["total_connections_received"])


@asyncio_only
async def test_a_name_that_is_refused_beside_another_is_asked_for_after_pauses(
    make_redis: MakeRedis,
) -> None:
    cluster = Cluster(make_redis)
    node = cluster.nodes[0]
    rooms = [HistoryKey("rooms", str(number)) for number in range(30)]
    one, other, *_ = [
        room for room in rooms if cluster.node_of(key_slot(name_of("sserpent", 0, room))) is node
    ]
    allowed = [name_of("sserpent", 0, each).decode() for each in (one, HistoryKey("", "rights"))]
    node.ask("ACL", "SETUSER", "default", "resetchannels", *[f"&{name}" for name in allowed])
    broker = RedisBroker(cluster.url, pace=PACE)
    try:
        made = connections_of(node)
        following = [broker.follow(room, LIMITS, Notes()) for room in (one, other)]
        await asyncio.gather(*following, return_exceptions=True)
        assert connections_of(node) - made < 60
    finally:
        await broker.aclose()
        cluster.close()
