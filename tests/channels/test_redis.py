"""Channels on Redis when Redis fails: nothing is lost or repeated without a word."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from asgi import Connection
from event_loops import asyncio_only
from followers import Notes, item, number_of
from proxy import Proxy
from redis_checks import (
    ALL,
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
    run_behind_proxy,
    until,
)
from redis_server import Cluster, RedisServer, Sentinel
from servers import Server, uvicorn
from sserpent.channels import BrokerError, BrokerUnavailable, Channels, PublishUncertain
from sserpent.channels.history.broker import Item
from sserpent.channels.history.position import HistoryKey, Position, parse_id
from sserpent.channels.history.ring import Entry, Retention
from sserpent.channels.redis import Pace, RedisBroker
from sserpent.channels.redis.client import connection
from sserpent.client import EventStreamParser

# A broker is given frames that are made already.
pytestmark = [pytest.mark.once, pytest.mark.anyio]


@pytest.fixture
def server(make_redis: MakeRedis) -> RedisServer:
    return make_redis()


# Redis goes and comes back


def test_c12_redis_is_killed_and_comes_back_with_all_it_had(make_redis: MakeRedis) -> None:
    server = make_redis(appendonly="yes", appendfsync="always")

    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        await publish(broker, *range(10))
        for start in (10, 20):
            server.kill()
            with pytest.raises(BrokerError, match="could not be reached within 1 s"):
                await broker.publish(ROOM, LIMITS, item(-1))
            await in_thread(server.start)
            for number in range(start, start + 10):
                await publish_until_it_works(broker, number)
        await until(lambda: len(notes.told) >= 30)
        assert notes.brief == await numbers_in(broker) == list(range(30))

    run(server, check)


def test_c7_redis_is_killed_and_comes_back_empty(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        await publish(broker, 1, 2)
        await until(lambda: notes.brief == [1, 2])
        server.kill()
        await in_thread(server.start)
        ids = [await publish_until_it_works(broker, number) for number in (3, 4)]
        await until(lambda: 4 in notes.brief)
        # It may have been noticed before the first of the new life, or with it.
        assert notes.brief in ([1, 2, "epoch", 3, 4], [1, 2, "epoch", 4])
        new = parse_id(ids[0])
        assert new is not None
        assert new.offset == 1
        _, head = next(each for each in notes.told if not isinstance(each, Entry))
        assert head.epoch == new.epoch

    run(server, check)


def test_c7_redis_is_emptied(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        await publish(broker, 1, 2)
        server.ask("FLUSHALL")
        await publish(broker, 3, 4)
        await until(lambda: len(notes.told) == 5)
        assert notes.brief == [1, 2, "epoch", 3, 4]
        server.ask("FLUSHALL")
        # C13: it is noticed though nobody publishes.
        await until(lambda: len(notes.told) == 6)
        reason, head = notes.told[-1]  # type: ignore[misc]
        assert (reason, head.offset) == ("epoch", 0)
        (fifth,) = await publish(broker, 5)
        assert fifth.split("-")[:2] == [head.epoch, "1"]
        await until(lambda: len(notes.told) == 7)
        assert notes.brief == [1, 2, "epoch", 3, 4, "epoch", 5]

    run(server, check)


def test_c8_redis_comes_back_without_its_tail(make_redis: MakeRedis) -> None:
    server = make_redis()

    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        await publish(broker, *range(5))
        server.ask("SAVE")
        await publish(broker, 5, 6)
        await until(lambda: notes.brief == list(range(7)))
        server.kill()
        await in_thread(server.start)
        await until(lambda: len(notes.told) == 8)
        reason, head = notes.told[-1]  # type: ignore[misc]
        assert (reason, head.offset) == ("diverged", 5)
        await publish_until_it_works(broker, 7)
        await until(lambda: len(notes.told) == 9)
        assert notes.brief == [*range(7), "diverged", 7]
        assert await numbers_in(broker) == [*range(5), 7]

    run(server, check)


def test_c8_others_have_published_since_the_tail_was_lost(make_redis: MakeRedis) -> None:
    server = make_redis()

    async def check(broker: RedisBroker) -> None:
        await publish(broker, *range(5))
        server.ask("SAVE")
        last = (await publish(broker, 5, 6))[-1]
        server.kill()
        await in_thread(server.start)
        for number in (7, 8, 9):
            await publish_until_it_works(broker, number)
        channels = Channels(server.url)
        rooms = channels.channel("rooms", keyed=True)
        async with channels, rooms.listen(key="lobby", after=last) as events:
            await publish(broker, 10)
            found = [await anext(events) for _ in range(2)]
        assert [(each.event, each.data) for each in found] == [
            ("reset", {"reason": "diverged"}),
            (None, 10),
        ]

    run(server, check)


def test_c12_a_stopped_redis_loses_and_repeats_nothing(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        outcomes: Outcomes = {}
        await publish_all(broker, outcomes, range(100))
        for start, pause in ((1_000, 0.3), (2_000, 0.8), (3_000, 1.6)):
            tasks = [
                asyncio.create_task(publish_all(broker, outcomes, range(first, first + 10)))
                for first in range(start, start + 1_000, 50)
            ]
            await asyncio.sleep(0.01)
            server.pause()
            await asyncio.sleep(pause)
            server.go_on()
            await asyncio.gather(*tasks)
        await publish_until_it_works(broker, 5_000)
        await until(lambda: 5_000 in notes.brief)
        counted = Counter(await numbers_in(broker))
        for number, outcome in outcomes.items():
            if isinstance(outcome, str):
                assert counted[number] == 1
            elif outcome is PublishUncertain:
                assert counted[number] <= 1
            else:
                assert counted[number] == 0
        assert notes.brief == await numbers_in(broker)
        assert BrokerUnavailable in outcomes.values() or PublishUncertain in outcomes.values()

    run(server, check)


def test_c13_the_subscription_alone_is_killed(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        notes = [Notes() for _ in range(3)]
        for number, each in enumerate(notes):
            await broker.follow(HistoryKey("rooms", str(number)), LIMITS, each)
        for number in range(600):
            if number % 60 == 30:
                await in_thread(server.kill_clients, "pubsub")
            await publish(broker, number, stream=HistoryKey("rooms", str(number % 3)))
        for number, each in enumerate(notes):
            await until(lambda each=each: len(each.told) >= 200)  # type: ignore[misc]
            assert each.brief == list(range(number, 600, 3))

    run(server, check)


def test_c3_the_connection_for_commands_is_killed(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        outcomes: Outcomes = {}
        await publish_all(broker, outcomes, range(100))
        tasks = [
            asyncio.create_task(publish_all(broker, outcomes, range(start, start + 200)))
            for start in range(1_000, 11_000, 1_000)
        ]
        for some in range(200, 2_100, 100):
            await until(lambda some=some: len(outcomes) >= some)  # type: ignore[misc]
            await in_thread(server.kill_clients, "normal")
        await asyncio.gather(*tasks)
        counted = Counter(await numbers_in(broker))
        assert set(counted.values()) == {1}
        published = {number for number, outcome in outcomes.items() if isinstance(outcome, str)}
        assert published <= set(counted)
        await until(lambda: len(notes.told) >= len(counted))
        assert notes.brief == await numbers_in(broker)
        # The history says of nearly all whether they were carried out.
        assert len(outcomes) - len(published) < 100

    run(server, check)


def test_c13_a_connection_is_probed_also_where_nobody_is_subscribed(server: RedisServer) -> None:
    def pings() -> int:
        return int(server.ask("INFO", "commandstats").get("cmdstat_ping", {"calls": 0})["calls"])

    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        for number in range(2):
            await broker.follow(ROOM, LIMITS, notes)
            await publish(broker, number)
            await until(lambda number=number: number in notes.brief)  # type: ignore[misc]
            broker.unfollow(ROOM, notes)
            await until(lambda: server.subscriptions() == [])
            before = pings()
            await until(lambda before=before: pings() >= before + 2)  # type: ignore[misc]
        assert notes.brief == [0, 1]

    run(server, check)


def test_c13_a_message_that_never_came_is_read(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        await publish(broker, 1)
        (key,) = server.names()
        await until(lambda: len(notes.told) == 1)
        epoch = notes.told[0].position.epoch  # type: ignore[union-attr]
        about = f"{epoch} {int(time.time() * 1000)} 50 50 0 "
        server.ask("XADD", key, "2-77", "about", about, "body", "data: 2\n\n")
        await until(lambda: len(notes.told) == 2)
        server.ask("XADD", key, "3-88", "about", about, "body", "data: 3\n\n")
        await publish(broker, 4)
        await until(lambda: len(notes.told) == 4)
        assert notes.brief == [1, 2, 3, 4]

    run(server, check)


# Sentinel


def test_c8_a_replica_without_the_tail_takes_over(make_redis: MakeRedis) -> None:
    master = make_redis()
    replica = make_redis(replicaof=f"127.0.0.1 {master.port}")
    sentinel = Sentinel(master)

    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        for number in range(5):
            await publish_until_it_works(broker, number)
        await until(lambda: "slave0" in master.ask("INFO", "replication"))
        newest = "XREVRANGE", master.names()[0], "+", "-", "COUNT", 1
        await until(lambda: [*replica.ask(*newest), [""]][0][0].startswith("5-"))
        await until(lambda: sentinel.ask("SENTINEL", "REPLICAS", "main"))
        # From here on the replica gets nothing.
        replica.pause()
        master.ask("CLIENT", "KILL", "TYPE", "replica")
        await publish(broker, 5, 6)
        await until(lambda: len(notes.told) == 7)
        master.kill()
        replica.go_on()
        await publish_until_it_works(broker, 7)
        await until(lambda: "diverged" in notes.brief)
        await publish_until_it_works(broker, 8)
        await until(lambda: 8 in notes.brief)
        # 7 came before the new position, or after it.
        assert [each for each in notes.brief if each != 7] == [*range(7), "diverged", 8]
        assert await numbers_in(broker) == [*range(5), 7, 8]

    try:
        run(sentinel, check, QUICK._replace(timeout=4))
    finally:
        sentinel.close()


def test_c12_sentinel_moves_the_master(make_redis: MakeRedis) -> None:
    master = make_redis()
    replica = make_redis(replicaof=f"127.0.0.1 {master.port}")
    sentinel = Sentinel(master)

    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        await publish_until_it_works(broker, 0)
        await until(lambda: replica.ask("DBSIZE") == 1)
        await until(lambda: _can_fail_over(sentinel))
        for number in range(1, 100):
            if number == 20:
                sentinel.ask("SENTINEL", "FAILOVER", "main")
            await publish_until_it_works(broker, number)
            await asyncio.sleep(0.02)
        await until(lambda: 99 in notes.brief)
        await until(lambda: replica.ask("ROLE")[0] == "master")
        await until(lambda: replica.subscriptions() != [])
        read = await numbers_in(broker)
        # What was published in the moment of the change may be lost, but not in silence.
        if "diverged" not in notes.brief:
            assert notes.brief == read == list(range(100))

    try:
        run(sentinel, check, QUICK._replace(timeout=4))
    finally:
        sentinel.close()


def _can_fail_over(sentinel: Sentinel) -> bool:
    return int(sentinel.ask("INFO", "sentinel")["master0"]["slaves"]) == 1


# A cluster


# Nodes behind a proxy or in containers name no host.
@pytest.fixture(params=["ip", "unknown-endpoint"])
def cluster(make_redis: MakeRedis, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    cluster = Cluster(make_redis, cluster_preferred_endpoint_type=request.param)
    yield cluster
    cluster.close()


def test_a_cluster_has_keys_on_all_nodes(cluster: Cluster) -> None:
    streams = [HistoryKey("rooms", str(number)) for number in range(60)]

    async def check(broker: RedisBroker) -> None:
        notes = {stream: Notes() for stream in streams}
        await asyncio.gather(*[broker.follow(each, LIMITS, notes[each]) for each in streams])
        for number in range(10):
            await asyncio.gather(*[broker.publish(each, LIMITS, item(number)) for each in streams])
        for stream in streams:
            await until(lambda stream=stream: len(notes[stream].told) == 10)  # type: ignore[misc]
            assert notes[stream].brief == list(range(10))
            _, read = await broker.read(stream, LIMITS, *ALL)
            assert [number_of(entry) for entry in read] == list(range(10))
        assert all(node.ask("DBSIZE") > 5 for node in cluster.nodes)
        for stream in streams:
            broker.unfollow(stream, notes[stream])
        for node in cluster.nodes:
            await until(lambda node=node: node.ask("PUBSUB", "SHARDCHANNELS") == [])  # type: ignore[misc]

    run(cluster, check, QUICK._replace(timeout=4))


def test_a_slot_of_a_cluster_moves(cluster: Cluster) -> None:
    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        await publish(broker, 0, 1)
        (name,) = [name for node in cluster.nodes for name in node.names()]
        slot = key_slot(name.encode())
        for start in (2, 12):
            source = cluster.node_of(slot)
            to = next(node for node in cluster.nodes if node is not source)
            cluster.begin_to_move(slot, to)
            await publish(broker, start, start + 1)
            cluster.move_key(name, slot, to)
            await publish(broker, start + 2, start + 3)
            cluster.end_move(slot, to)
            for number in range(start + 4, start + 10):
                await publish_until_it_works(broker, number)
            await until(lambda start=start: len(notes.told) >= start + 10)  # type: ignore[misc]
            await until(lambda to=to: to.ask("PUBSUB", "SHARDCHANNELS") != [])  # type: ignore[misc]
        assert notes.brief == await numbers_in(broker) == list(range(22))

    run(cluster, check, QUICK._replace(timeout=4))


# Answers that are lost


async def publish_with_a_lost_answer(broker: RedisBroker, proxy: Proxy, limits: Retention) -> str:
    """Has the answer to a publish lost, once."""
    proxy.loses_answers = True
    task = asyncio.create_task(broker.publish(ROOM, limits, item(1_000)))
    await until(lambda: proxy.lost)
    proxy.loses_answers = False
    return await task


def test_c3_a_publish_with_a_lost_answer_is_not_repeated(server: RedisServer) -> None:
    async def check(broker: RedisBroker, proxy: Proxy) -> None:
        await publish(broker, *range(10))
        await asyncio.sleep(0.15)  # so that the history reaches back before the publish
        found = await publish_with_a_lost_answer(broker, proxy, LIMITS)
        _, read = await broker.read(ROOM, LIMITS, *ALL)
        assert [number_of(entry) for entry in read] == [*range(10), 1_000]
        assert read[-1].id == found

    run_behind_proxy(server, check)


def test_c3_where_the_history_is_too_short_the_publisher_is_told(server: RedisServer) -> None:
    async def check(broker: RedisBroker, proxy: Proxy) -> None:
        # Nothing is there that is older than the publish, so it may have been there and be gone.
        proxy.loses_answers = True
        task = asyncio.create_task(broker.publish(ROOM, LIMITS, item(1)))
        await until(lambda: server.names() != [])
        server.ask("FLUSHALL")
        await until(lambda: proxy.lost)  # the answer is on its way when the event is there
        proxy.loses_answers = False
        with pytest.raises(PublishUncertain, match="does not reach back"):
            await task
        assert await numbers_in(broker) == []

    async def warm(broker: RedisBroker, proxy: Proxy) -> None:
        await publish(broker, 0, stream=HistoryKey("rooms", "other"))
        server.ask("FLUSHALL")
        await check(broker, proxy)

    run_behind_proxy(server, warm)


# Redis refuses


@asyncio_only
async def test_c12_a_password_is_needed_and_changes(make_redis: MakeRedis) -> None:
    server = make_redis(requirepass="first")
    nobody = RedisBroker(server.url, pace=QUICK)
    with pytest.raises(BrokerUnavailable, match=r"(?i)authentication"):
        await nobody.publish(ROOM, LIMITS, item(1))
    with pytest.raises(BrokerUnavailable):
        await nobody.follow(ROOM, LIMITS, Notes())
    await nobody.aclose()
    broker = RedisBroker(f"redis://:first@127.0.0.1:{server.port}/0", pace=QUICK)
    notes = Notes()
    await broker.follow(ROOM, LIMITS, notes)
    await publish(broker, 1)
    server.ask("CONFIG", "SET", "requirepass", "second", password="first")
    for kind in ("normal", "pubsub"):
        server.ask("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes", password="second")
    with pytest.raises(BrokerError, match=r"(?i)invalid|password") as raised:
        await broker.publish(ROOM, LIMITS, item(2))
    assert "first" not in str(raised.value)
    server.ask("CONFIG", "SET", "requirepass", "first", password="second")
    await publish_until_it_works(broker, 3)
    await until(lambda: len(notes.told) >= 2)
    assert notes.brief == [1, 3]
    await broker.aclose()


def test_c12_redis_is_full(make_redis: MakeRedis) -> None:
    server = make_redis(maxmemory_policy="noeviction")

    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        await publish(broker, 1)
        server.ask("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(BrokerUnavailable, match="used memory > 'maxmemory'"):
            await broker.publish(ROOM, LIMITS, item(2))
        server.ask("CONFIG", "SET", "maxmemory", "0")
        await publish(broker, 3)
        await until(lambda: len(notes.told) == 2)
        assert notes.brief == await numbers_in(broker) == [1, 3]

    run(server, check)


def test_c7_redis_evicts_histories(make_redis: MakeRedis) -> None:
    server = make_redis(maxmemory_policy="allkeys-lru")
    streams = [HistoryKey("rooms", str(number)) for number in range(60)]

    async def check(broker: RedisBroker) -> None:
        notes = {stream: Notes() for stream in streams}
        for stream in streams:
            await broker.follow(stream, LIMITS, notes[stream])
        used = server.ask("INFO", "memory")["used_memory"]
        server.ask("CONFIG", "SET", "maxmemory", str(used + 700_000))
        filling = b" " * 3_000
        for number in range(20):
            for stream in streams:
                body = b"data: %d%b\n\n" % (number, filling)
                await broker.publish(stream, LIMITS, Item(body))
        assert server.ask("INFO", "stats")["evicted_keys"] > 0
        resets = 0
        for each in notes.values():
            await until(lambda each=each: 19 in each.brief)  # type: ignore[misc]
            previous: Position | None = None
            for told in each.told:
                if isinstance(told, Entry):
                    if previous is not None:
                        assert told.position.epoch == previous.epoch
                        assert told.offset == previous.offset + 1
                    previous = told.position
                else:
                    resets += 1
                    assert told[0] == "epoch"
                    previous = told[1]
        assert resets > 0

    run(server, check)


def test_an_old_redis_is_refused_by_its_version(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "OLDEST", (99, 1))

    async def check(broker: RedisBroker) -> None:
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable, match=r"need Redis 99\.1 or newer, and this is"):
            await broker.publish(ROOM, LIMITS, item(1))
        assert time.monotonic() - began < 20  # not after the timeout

    run(server, check, Pace(timeout=60))


@asyncio_only
async def test_the_rights_that_the_page_names_are_enough(server: RedisServer) -> None:
    page = (Path(__file__).parents[2] / "docs/channels-redis.md").read_text(encoding="utf-8")
    (rights,) = re.findall(r"```text\n(~sserpent:[^`]+)```", page)
    server.ask("ACL", "SETUSER", "app", "reset", "on", ">secret", *rights.split())
    broker = RedisBroker(server.url.replace("//", "//app:secret@"), pace=QUICK)
    notes = Notes()
    limits = LIMITS._replace(history_bytes=1_000)
    await broker.follow(ROOM, limits, notes)
    for number in range(100):
        await broker.publish(ROOM, limits, item(number))
    await until(lambda: len(notes.told) == 100)
    _, read = await broker.read(ROOM, limits, *ALL)
    assert 10 < len(read) < 25
    broker.unfollow(ROOM, notes)
    await until(lambda: server.subscriptions() == [])
    await broker.aclose()
    denied = [each["object"] for each in server.ask("ACL", "LOG")]
    assert [each for each in denied if not each.startswith("client|")] == []


# Nothing is left


def test_ten_thousand_keys_leave_nothing(server: RedisServer) -> None:
    streams = [HistoryKey("rooms", str(number)) for number in range(10_000)]
    limits = LIMITS._replace(history_ttl=60)

    async def check(broker: RedisBroker) -> None:
        followers = {stream: Notes() for stream in streams}
        await asyncio.gather(*[broker.follow(each, limits, followers[each]) for each in streams])
        assert len(server.subscriptions()) == 10_000

        async def publish_some(some: list[HistoryKey]) -> None:
            for stream in some:
                await broker.publish(stream, limits, item(7))

        await asyncio.gather(*[publish_some(streams[start::50]) for start in range(50)])
        await until(lambda: all(len(each.told) == 1 for each in followers.values()))
        order = random.Random(5).sample(streams, len(streams))
        for stream in order[:5_000]:
            broker.unfollow(stream, followers[stream])
        again = [broker.follow(each, limits, followers[each]) for each in order[:1_000]]
        await asyncio.gather(*again)
        await until(lambda: len(server.subscriptions()) == 6_000)
        for stream in [*order[5_000:], *order[:1_000]]:
            broker.unfollow(stream, followers[stream])
        await until(lambda: server.subscriptions() == [])
        assert server.ask("DBSIZE") == 10_000
        lasting = "for _, key in ipairs(redis.call('KEYS', '*')) do \
            if redis.call('PTTL', key) < 0 then return key end end"
        assert server.ask("EVAL", lasting, 0) is None
        assert broker._session is not None
        assert not broker._session._followed

    run(server, check, Pace(timeout=30))


# Processes


def test_c16_an_owner_is_closed_in_every_process(server: RedisServer) -> None:
    async def check() -> None:
        here, there = Channels(server.url), Channels(server.url)
        async with here, there:
            ended: list[str] = []

            async def listen(channels: Channels, owner: Any, name: str) -> None:
                response = channels.channel(name).subscribe(owner=owner)
                scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
                left = asyncio.Event()

                async def receive() -> dict[str, Any]:
                    await left.wait()
                    return {"type": "http.disconnect"}

                async def send(message: dict[str, Any]) -> None:
                    if message["type"] == "http.response.start":
                        ended.append(f"{name} begins")

                await response(scope, receive, send)  # type: ignore[arg-type]
                ended.append(name)

            tasks = [
                asyncio.create_task(listen(channels, owner, name))
                for channels, owner, name in [
                    (here, 1, "here 1"),
                    (there, 1, "there 1"),
                    (there, "2", "there 2"),
                    (there, None, "there nobody"),
                ]
            ]
            await until(lambda: len(ended) == 4)
            # One that is just reconnecting is told too.
            await in_thread(server.kill_clients, "pubsub")
            assert await here.disconnect(owner="1") == 1
            await until(lambda: {"here 1", "there 1"} <= set(ended))
            assert await there.disconnect(owner=2) == 1
            await until(lambda: "there 2" in ended)
            assert "there nobody" not in ended
            assert "'2'" not in str(server.ask("XRANGE", _disconnects_key(server), "-", "+"))
        await asyncio.gather(*tasks)

    asyncio.run(check())


def _disconnects_key(server: RedisServer) -> str:
    (key,) = [key for key in server.names() if key.endswith(":0:")]
    return key


@asyncio_only
async def test_c12_subscribing_while_redis_is_away(server: RedisServer) -> None:
    channels = Channels(server.url, publish_timeout=0.5)
    rooms = channels.channel("rooms")
    async with channels:
        server.kill()
        with pytest.raises(BrokerUnavailable):
            await rooms.publish(1)
        connection = Connection()
        await connection.run(rooms.subscribe(after="1-2-3"))
        assert connection.status == 200
        assert b"\nretry: " in connection.body
    server.start()


class Roamer:
    """A client of two servers, that goes from one to the other."""

    def __init__(self, servers: list[Server], seed: int) -> None:
        self._servers = servers
        self._random = random.Random(seed)
        self._last: str | None = None
        self.follows = asyncio.Event()
        self.offset = 0
        self.received = 0
        self.missed = 0

    async def read(self, upto: int) -> None:
        for server in itertools.cycle(self._random.sample(self._servers, 2)):
            if self.offset >= upto:
                return
            await self._read_some(server, min(upto, self.offset + self._random.randint(1, 600)))

    async def _read_some(self, server: Server, upto: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        resume = "" if self._last is None else f"Last-Event-ID: {self._last}\r\n"
        writer.write(f"GET /numbers HTTP/1.0\r\nHost: localhost\r\n{resume}\r\n".encode())
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        parser = EventStreamParser()
        while self.offset < upto:
            received = await reader.read(65_536)
            assert received, "the server has ended the stream"
            for event in parser.feed(received):
                self._take(event.type, event.data, event.last_event_id)
            self._last = parser.last_event_id or self._last
            self.follows.set()  # at the latest, it has been told where it begins
        writer.close()

    def _take(self, kind: str, data: str, last_event_id: str) -> None:
        position = parse_id(last_event_id)
        assert position is not None
        if kind == "gap":
            gap = json.loads(data)
            assert position.offset == self.offset + gap["missed"]
            self.missed += gap["missed"]
        else:
            assert kind == "message", (kind, data)
            assert position.offset == self.offset + 1
            self.received += 1
        self.offset = position.offset


@asyncio_only
async def test_clients_move_between_two_processes(
    server: RedisServer, serve: Callable[..., Server]
) -> None:
    servers = [serve(uvicorn("redis_app:app"), REDIS_URL=server.url) for _ in range(2)]

    async def publish_there(server: Server) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST /numbers?count=2500&tasks=5 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await writer.drain()
        writer.close()

    roamers = [Roamer(servers, seed) for seed in range(12)]
    reading = asyncio.gather(*[roamer.read(5_000) for roamer in roamers])
    # A client that connects more than a thousand events later begins there, and has missed nothing.
    await asyncio.wait_for(asyncio.gather(*[each.follows.wait() for each in roamers]), 30)
    for each in servers:
        await publish_there(each)
    await asyncio.wait_for(reading, 90)
    for roamer in roamers:
        assert roamer.received + roamer.missed == roamer.offset == 5_000
    assert any(roamer.received > 1_000 for roamer in roamers)


# What channels refuse


def test_who_tries_again_after_broker_unavailable_publishes_nothing_twice() -> None:
    assert not issubclass(PublishUncertain, BrokerUnavailable)
    assert issubclass(PublishUncertain, BrokerError)
    assert issubclass(BrokerUnavailable, BrokerError)


def test_trio_is_refused() -> None:
    import trio

    async def check() -> None:
        channels = Channels("redis://127.0.0.1:1")
        rooms = channels.channel("rooms")
        with pytest.raises(RuntimeError, match="Trio"):
            await rooms.publish(1)
        with pytest.raises(RuntimeError, match="Trio"):
            await channels.__aenter__()

    trio.run(check)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"broker": 1}, r"'broker' must be the URL of a Redis server, an object .* not int"),
        ({"broker": "http://localhost"}, r"'broker' must begin with"),
        ({"broker": "redis://secret@localhost:x"}, r"'broker'"),
        ({"broker": "redis://localhost", "prefix": "a{b}"}, r"'prefix' must not have braces"),
        ({"broker": "redis://localhost", "prefix": ""}, r"'prefix' must not be empty"),
        ({"broker": "redis://localhost", "prefix": 1}, r"'prefix' must be a string"),
        (
            {"broker": "redis://localhost", "publish_timeout": 0},
            r"'publish_timeout' must be finite",
        ),
        (
            {"broker": "redis://localhost", "publish_timeout": "1"},
            r"'publish_timeout' must be a num",
        ),
    ],
)
def test_arguments_are_checked_by_name(arguments: dict[str, Any], error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error) as raised:
        Channels(**arguments)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("missing", ["redis", "hiredis"])
def test_without_redis_py_or_hiredis_the_error_names_both_and_the_extra(missing: str) -> None:
    code = f"""
import sys
sys.modules["{missing}"] = None
from sserpent.channels import Channels
Channels()
try:
    Channels("redis://localhost")
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    both = 'Channels on Redis need redis-py and hiredis: pip install "sserpent[redis]" ('
    assert done.stdout.startswith(both), done.stderr
    assert missing in done.stdout.removeprefix(both)


def test_importing_channels_loads_no_redis() -> None:
    code = "import sserpent.channels, sys; print('redis' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
