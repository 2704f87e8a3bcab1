"""Publishes that wait together go to Redis in one call, and each is answered as if alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from followers import Notes, item, number_of
from proxy import Proxy
from redis_checks import (
    ALL,
    LIMITS,
    QUICK,
    ROOM,
    MakeRedis,
    numbers_in,
    outcome_of,
    publish,
    run,
    run_behind_proxy,
    until,
)
from redis_server import Cluster, RedisServer
from sserpent.channels import BrokerUnavailable, PublishUncertain
from sserpent.channels.history.broker import Item, Refused
from sserpent.channels.history.position import HistoryKey, parse_id
from sserpent.channels.redis import RedisBroker

pytestmark = pytest.mark.once

OTHER = HistoryKey("rooms", "kitchen")


@pytest.fixture
def server(make_redis: MakeRedis) -> RedisServer:
    return make_redis()


def calls(server: RedisServer) -> int:
    """How many scripts have been called."""
    return int(server.ask("INFO", "commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


async def publish_together(broker: RedisBroker, numbers: range) -> list[str]:
    return await asyncio.gather(*[broker.publish(ROOM, LIMITS, item(each)) for each in numbers])


def test_those_that_wait_go_in_one_call_and_keep_their_order(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        await publish(broker, 0)
        before = calls(server)
        ids = await publish_together(broker, range(1, 251))
        assert calls(server) - before == 3  # a hundred each
        _, entries = await broker.read(ROOM, LIMITS, *ALL)
        assert [number_of(entry) for entry in entries] == [*range(251)]
        assert [entry.id for entry in entries][1:] == ids
        await until(lambda: len(notes.told) == 251)
        assert notes.brief == [*range(251)]

    run(server, check, QUICK._replace(compare=600))  # a comparison is a call too


def test_those_of_several_histories_keep_their_order_in_each(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        rooms = ROOM, ROOM, OTHER
        await asyncio.gather(
            *[broker.publish(rooms[n % 3], LIMITS, item(n)) for n in range(90)],
            *[broker.publish(OTHER, LIMITS._replace(history=5), item(n)) for n in range(90, 100)],
        )
        assert await numbers_in(broker) == [n for n in range(90) if n % 3 < 2]
        _, others = await broker.read(OTHER, LIMITS, *ALL)
        assert [number_of(entry) for entry in others][-10:] == [*range(90, 100)]

    run(server, check)


def test_one_that_is_given_up_by_who_waits_for_it_takes_no_other_with_it(
    server: RedisServer,
) -> None:
    async def check(broker: RedisBroker) -> None:
        tasks = [asyncio.create_task(broker.publish(ROOM, LIMITS, item(n))) for n in range(10)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(ended[3], asyncio.CancelledError)
        there = await numbers_in(broker)
        assert [n for n in there if n != 3] == [n for n in range(10) if n != 3]
        offsets = [parsed.offset for each in ended if (parsed := parse_id(str(each)))]
        assert offsets == sorted(set(offsets))
        assert len(offsets) == 9

    run(server, check)


def test_large_ones_go_by_themselves(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        await publish(broker, 0)
        before = calls(server)
        bodies = [b"data: %d%b\n\n" % (n, b" " * 10_000 * (n == 2)) for n in range(1, 5)]
        events = [Item(body, False, None) for body in bodies]
        await asyncio.gather(*[broker.publish(ROOM, LIMITS, each) for each in events])
        assert calls(server) - before == 3
        _, entries = await broker.read(ROOM, LIMITS, *ALL)
        assert [entry.body for entry in entries][1:] == bodies

    run(server, check)


@pytest.mark.parametrize("history", [0, 1, 40])
def test_the_limits_of_the_history_hold(server: RedisServer, history: int) -> None:
    async def check(broker: RedisBroker) -> None:
        limits = LIMITS._replace(history=history)
        for first in range(0, 300, 30):
            numbers = range(first, first + 30)
            await asyncio.gather(*[broker.publish(ROOM, limits, item(each)) for each in numbers])
        assert (await numbers_in(broker))[-max(history, 1) :] == [*range(300)][-max(history, 1) :]
        if history == 0:
            assert await numbers_in(broker) == [299]

    run(server, check)


@pytest.mark.parametrize("together", [2, 3, 7, 40])
def test_the_bytes_of_the_history_are_bounded(server: RedisServer, together: int) -> None:
    async def check(broker: RedisBroker) -> None:
        limits = LIMITS._replace(history_bytes=20_000)
        body = b"data: %b\n\n" % (b"x" * 500)
        for _ in range(0, 400, together):
            events = [Item(body, False, None)] * together
            await asyncio.gather(*[broker.publish(ROOM, limits, each) for each in events])
        _, entries = await broker.read(ROOM, LIMITS, *ALL)
        # They are looked at every 16 events.
        assert 20_000 - 600 <= sum(len(each.frame) for each in entries) <= 20_000 + 16 * 600

    run(server, check)


def test_the_bytes_of_the_history_are_bounded_where_many_small_ones_give_way(
    server: RedisServer,
) -> None:
    async def check(broker: RedisBroker) -> None:
        limits = LIMITS._replace(history_bytes=200_000)
        for first in range(0, 2_000, 100):
            await publish_together(broker, range(first, first + 100))
        event = Item(b"data: %b\n\n" % (b"x" * 4_000), False, None)
        for _ in range(3):
            await asyncio.gather(*[broker.publish(ROOM, limits, event) for _ in range(100)])
        _, entries = await broker.read(ROOM, LIMITS, *ALL)
        assert sum(len(each.frame) for each in entries) <= 200_000 + 16 * 4_100

    run(server, check)


# Faults


def test_c3_those_whose_answer_is_lost_are_stored_once_each(server: RedisServer) -> None:
    async def check(broker: RedisBroker, proxy: Proxy) -> None:
        await publish(broker, *range(10))
        await asyncio.sleep(0.15)  # so that the history reaches back before the publish
        proxy.loses_answers = True
        tasks = asyncio.gather(*[broker.publish(ROOM, LIMITS, item(n)) for n in range(100, 140)])
        await until(lambda: proxy.lost)
        proxy.loses_answers = False
        ids = await tasks
        _, entries = await broker.read(ROOM, LIMITS, *ALL)
        assert [number_of(entry) for entry in entries] == [*range(10), *range(100, 140)]
        assert [entry.id for entry in entries][10:] == ids

    run_behind_proxy(server, check)


def test_c3_connections_that_are_killed_under_many(server: RedisServer) -> None:
    outcomes: dict[int, Any] = {}

    async def publish_some(broker: RedisBroker, numbers: range) -> None:
        found = await asyncio.gather(*[outcome_of(broker, n) for n in numbers])
        outcomes.update(zip(numbers, found, strict=True))

    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        await publish(broker, *range(20))
        killing = asyncio.create_task(kill(broker))
        for first in range(1_000, 7_000, 100):
            await publish_some(broker, range(first, first + 100))
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)
        counted = Counter(await numbers_in(broker))
        assert set(counted.values()) == {1}
        stored = {n for n, outcome in outcomes.items() if isinstance(outcome, str)}
        assert stored <= set(counted)
        refused = {n for n, outcome in outcomes.items() if outcome is BrokerUnavailable}
        assert not refused & set(counted)
        assert set(counted) - stored - set(range(20)) <= {
            n for n, outcome in outcomes.items() if outcome is PublishUncertain
        }
        await until(lambda: len(notes.told) >= len(counted))
        assert notes.brief == await numbers_in(broker)

    async def kill(broker: RedisBroker) -> None:
        while True:
            await asyncio.to_thread(server.kill_clients, "normal")
            await asyncio.sleep(0.02)

    run(server, check)


def test_c12_those_that_are_refused_are_refused_each(make_redis: MakeRedis) -> None:
    server = make_redis(maxmemory="20mb", maxmemory_policy="noeviction")

    async def check(broker: RedisBroker) -> None:
        await publish(broker, 0)
        server.ask("CONFIG", "SET", "maxmemory", "1mb")
        outcomes = await asyncio.gather(*[outcome_of(broker, n) for n in range(1, 30)])
        assert set(outcomes) == {Refused}
        server.ask("CONFIG", "SET", "maxmemory", "0")
        assert await numbers_in(broker) == [0]
        await publish_together(broker, range(30, 40))
        assert await numbers_in(broker) == [0, *range(30, 40)]

    run(server, check)


def test_who_waits_for_a_redis_that_stands_still_is_told(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        await publish(broker, 0)
        server.pause()
        try:
            outcomes = await asyncio.gather(*[outcome_of(broker, n) for n in range(1, 20)])
        finally:
            server.go_on()
        assert set(outcomes) == {PublishUncertain}
        await publish_together(broker, range(20, 30))
        there = await numbers_in(broker)
        assert len(set(there)) == len(there)
        assert there[-10:] == [*range(20, 30)]

    run(server, check, QUICK)


def test_a_cluster_sends_each_to_its_node(make_redis: MakeRedis) -> None:
    nodes = Cluster(make_redis)

    async def check(broker: RedisBroker) -> None:
        rooms = [HistoryKey("rooms", str(n)) for n in range(12)]
        publishes = [broker.publish(room, LIMITS, item(n)) for n in range(20) for room in rooms] + [
            broker.publish(ROOM, LIMITS, item(n)) for n in range(100)
        ]
        await asyncio.gather(*publishes)
        assert await numbers_in(broker) == [*range(100)]
        for room in rooms:
            _, entries = await broker.read(room, LIMITS, *ALL)
            assert [number_of(entry) for entry in entries] == [*range(20)]

    try:
        run(nodes, check)
    finally:
        nodes.close()
