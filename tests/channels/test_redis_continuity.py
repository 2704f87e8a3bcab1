"""Whoever comes back to another process, to another server, or to a key that had no event yet."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal, NamedTuple

import pytest

from channel_clients import Client, connected
from event_loops import asyncio_only
from followers import Notes
from redis_checks import LIMITS, ROOM, MakeRedis, in_thread, publish, until
from redis_server import RedisServer, Sentinel
from servers import free_port, give_back
from servers import until as wait_until
from soak_links import Links
from sserpent.channels import Channels
from sserpent.channels.history.position import parse_id
from sserpent.channels.redis import Pace, RedisBroker

# A broker is given frames that are made already.
pytestmark = [pytest.mark.once, pytest.mark.anyio]

PACE = Pace(timeout=5.0, probe=0.5, compare=60.0)


@asynccontextmanager
async def linked(target: Callable[[], int]) -> AsyncIterator[Links]:
    """A way to Redis that can be cut, stalled, made slow, and led elsewhere."""
    links = Links(target)
    await links.open()
    try:
        yield links
    finally:
        await links.close()


def url_of(links: Links) -> str:
    return f"redis://127.0.0.1:{links.port}/0"


# A process that is behind


Fault = Literal["slow", "cut", "stalled"]


def hold_back(links: Links, fault: Fault) -> None:
    """Has what is published come late, or not at all, for as long as a test takes."""
    if fault == "slow":
        links.slow_down("subscription", 1.0, 60)
    else:
        links.stall("subscription", 60)
    if fault == "cut":
        links.cut("subscription")


@pytest.mark.parametrize("fault", ["slow", "cut", "stalled"])
@asyncio_only
async def test_a_client_that_comes_to_a_process_that_is_behind_misses_nothing_and_is_not_reset(
    make_redis: MakeRedis, fault: Fault
) -> None:
    server = make_redis()
    async with (
        linked(lambda: server.port) as links,
        Channels(url_of(links)) as behind,
        Channels(server.url) as ahead,
    ):
        here, there = (each.channel("news") for each in (behind, ahead))
        await there.publish(0)
        async with connected(here.subscribe(start="earliest")) as reader:
            await reader.has(0)
            hold_back(links, fault)
            ids = [await there.publish(n) for n in range(1, 4)]
            async with connected(here.subscribe(after=ids[1])) as back:
                await back.has(3)
                assert back.said == []
            # The process has caught up for everybody.
            await reader.has(0, 1, 2, 3)
            assert reader.said == []
            links.heal()
            await there.publish(4)
            await reader.has(0, 1, 2, 3, 4)


@pytest.mark.parametrize("fault", ["slow", "cut", "stalled"])
@asyncio_only
async def test_a_follower_of_a_run_that_comes_to_a_process_that_is_behind_gets_the_rest_alone(
    make_redis: MakeRedis, fault: Fault
) -> None:
    server = make_redis()
    go_on = asyncio.Event()

    async def answer() -> AsyncIterator[int]:
        yield 0
        await go_on.wait()
        for number in range(1, 4):
            yield number

    async with (
        linked(lambda: server.port) as links,
        Channels(url_of(links)) as behind,
        Channels(server.url) as ahead,
    ):
        here, there = (each.runs("answers") for each in (behind, ahead))
        await there.start(answer(), id="answer")
        async with connected(await here.follow("answer")) as early:
            await early.has(0)
            hold_back(links, fault)
            async with connected(await there.follow("answer")) as follower:
                go_on.set()
                await follower.until(lambda: len(follower.seen) == 5)
                third = follower.seen[2].id
            async with connected(await here.follow("answer", after=third)) as back:
                await back.until(lambda: len(back.seen) == 2)
                assert [each.type for each in back.seen] == ["message", "run-end"]
                assert back.seen[0].data == 3


@asyncio_only
async def test_an_id_of_nobody_costs_one_look_and_is_ahead(make_redis: MakeRedis) -> None:
    server = make_redis()
    async with Channels(server.url) as channels:
        news = channels.channel("news")
        epoch, offset, _ = (await news.publish(0)).split("-")
        async with connected(news.subscribe()) as reader:
            for after in (f"{epoch}-{int(offset) + 5}-7", f"{'f' * 16}-1-7"):
                async with connected(news.subscribe(after=after)) as back:
                    await back.until(lambda back=back: back.said)
                    reason = "ahead" if after.startswith(epoch) else "epoch"
                    assert back.said[0].data == {"reason": reason}
            await news.publish(1)
            await reader.has(1)
            assert reader.said == []


@asyncio_only
async def test_c18_somebody_who_is_ahead_while_redis_is_away_is_told_to_come_back(
    make_redis: MakeRedis,
) -> None:
    server = make_redis()
    async with Channels(server.url, publish_timeout=1) as channels:
        news = channels.channel("news")
        epoch, offset, _ = (await news.publish(0)).split("-")
        async with connected(news.subscribe()):
            server.pause()
            back = Client()
            begin = time.monotonic()
            await back.run(news.subscribe(after=f"{epoch}-{int(offset) + 1}-7"))
            assert time.monotonic() - begin < 10
            assert back.status == 200
            assert back.stream.retry is not None
            assert back.said == []
            server.go_on()


# An address that leads to another server, and the old one stays up


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    texts = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    return [text for text in texts if "made anew" in text]


Address = Literal["server", "sentinel", "cluster"]
addresses = pytest.mark.parametrize("address", ["server", "sentinel", "cluster"])


class Moving(NamedTuple):
    """A log that follows a room, by an address of the first of two servers."""

    broker: RedisBroker
    notes: Notes
    servers: list[RedisServer]
    sentinel: Sentinel | None

    async def move(self, kind: str) -> None:
        """Leads the address to the other server; connections of one kind go along."""
        self.servers.reverse()
        if self.sentinel is not None:
            await in_thread(self.sentinel.watch, self.servers[0])
        await in_thread(self.servers[1].kill_clients, kind)


@asynccontextmanager
async def moving(
    make_redis: MakeRedis, pace: Pace, address: Address = "server"
) -> AsyncIterator[Moving]:
    servers: list[RedisServer] = []
    async with linked(lambda: servers[0].port) as links:
        buses = [free_port(), free_port()]
        make = lone_node if address == "cluster" else lone_server
        servers += [make(make_redis, bus, links.port) for bus in buses]
        sentinel = Sentinel(servers[0]) if address == "sentinel" else None
        url = {"cluster": f"redis+cluster://127.0.0.1:{links.port}", "server": url_of(links)}
        pace = pace._replace(timeout=30)
        broker = RedisBroker(sentinel.url if sentinel else url[address], pace=pace)
        try:
            notes = Notes()
            await broker.follow(ROOM, LIMITS, notes)
            await publish(broker, 1)
            await until(lambda: notes.brief == [1])
            yield Moving(broker, notes, servers, sentinel)
        finally:
            await broker.aclose()
            if sentinel is not None:
                sentinel.close()
            for bus in buses:
                give_back(bus)


def lone_server(make_redis: MakeRedis, *ports: int) -> RedisServer:
    return make_redis()


def lone_node(make_redis: MakeRedis, bus: int, port: int) -> RedisServer:
    """A cluster of one node, which says that it is at another port."""
    node = make_redis(cluster_enabled="yes", cluster_port=str(bus), cluster_announce_port=str(port))
    node.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
    wait_until(
        lambda: "cluster_state:ok" in node.ask("EVAL", "return redis.call('CLUSTER', 'INFO')", 0)
    )
    node.url = f"redis+cluster://127.0.0.1:{node.port}"
    return node


def is_said_once(caplog: pytest.LogCaptureFixture, address: Address) -> bool:
    """Sentinel, and the nodes of a cluster, are asked again and again who is where: that may be
    known before anything is missed."""
    return len(warnings_in(caplog)) in ({1} if address == "server" else {0, 1})


async def is_subscribed(server: RedisServer) -> None:
    await until(lambda: any(":rooms" in name for name in server.subscriptions()))


@addresses
@asyncio_only
async def test_c13_a_comparison_finds_that_what_is_published_is_not_heard(
    make_redis: MakeRedis, caplog: pytest.LogCaptureFixture, address: Address
) -> None:
    async with moving(make_redis, PACE._replace(compare=0.5), address) as moved:
        _, notes, servers, _ = moved
        await moved.move("normal")
        other = RedisBroker(servers[0].url, pace=PACE)
        await publish(other, 2)
        await is_subscribed(servers[0])
        await publish(other, 3)
        await until(lambda: notes.brief[-1:] == [3])
        assert notes.brief == [1, "epoch", 2, 3]
        assert is_said_once(caplog, address)
        await other.aclose()


@addresses
@asyncio_only
async def test_c13_what_a_process_publishes_and_does_not_hear_is_noticed_at_once(
    make_redis: MakeRedis, caplog: pytest.LogCaptureFixture, address: Address
) -> None:
    async with moving(make_redis, PACE, address) as moved:
        broker, notes, servers, _ = moved
        await moved.move("normal")
        # A publish on the connection that was just cut might have been carried out.
        await broker.ready()
        await publish(broker, 2)
        await is_subscribed(servers[0])
        await publish(broker, 3)
        await until(lambda: notes.brief[-1:] == [3])
        assert notes.brief == [1, "epoch", 2, 3]
        assert is_said_once(caplog, address)


@addresses
@asyncio_only
async def test_c13_commands_go_along_when_the_subscription_is_elsewhere(
    make_redis: MakeRedis, caplog: pytest.LogCaptureFixture, address: Address
) -> None:
    async with moving(make_redis, PACE._replace(compare=0.5), address) as moved:
        broker, notes, servers, _ = moved
        await moved.move("pubsub")
        await is_subscribed(servers[0])
        other = RedisBroker(servers[0].url, pace=PACE)
        ids = await publish(other, 2, 3)
        await until(lambda: notes.brief[-1:] == [3])
        await until(lambda: not servers[1].clients("normal"))
        assert is_said_once(caplog, address)
        await is_subscribed(servers[0])
        ids += await publish(broker, 4)
        positions = [parse_id(each) for each in ids]
        assert [each and each.offset for each in positions] == [1, 2, 3]
        await other.aclose()


@asyncio_only
async def test_a_slow_subscription_is_left_alone(
    make_redis: MakeRedis, caplog: pytest.LogCaptureFixture
) -> None:
    server = make_redis()
    async with linked(lambda: server.port) as links:
        broker = RedisBroker(url_of(links), pace=PACE._replace(compare=0.2, probe=5.0))
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        links.slow_down("subscription", 0.5, 60)
        for number in range(20):
            await publish(broker, number)
            await asyncio.sleep(0.1)
        await until(lambda: len(notes.told) == 20)
        assert notes.numbers == list(range(20))
        assert warnings_in(caplog) == []
        await broker.aclose()


# A key that had no event yet


@asyncio_only
async def test_c7_a_key_that_is_followed_has_its_epoch_for_every_process(
    make_redis: MakeRedis,
) -> None:
    server = make_redis()
    logs = [RedisBroker(server.url, pace=PACE) for _ in range(2)]
    notes = [Notes(), Notes()]
    first, second = [
        await broker.follow(ROOM, LIMITS, each) for broker, each in zip(logs, notes, strict=True)
    ]
    assert first == second
    assert first.offset == 0
    (name,) = [name for name in server.names() if ":rooms" in name]
    assert 200_000 < server.ask("PTTL", name) <= 300_000
    (published,) = await publish(logs[1], 1)
    position = parse_id(published)
    assert position is not None
    assert position[:2] == (first.epoch, 1)
    for each in notes:
        await until(lambda each=each: each.brief == [1])
    assert server.ask("PTTL", name) > 300_000
    floor, entries = await logs[0].read(ROOM, LIMITS, 1, 10**9)
    assert floor == first
    assert len(entries) == 1
    for broker in logs:
        await broker.aclose()


@asyncio_only
async def test_c7_somebody_who_saw_no_event_is_told_when_that_history_is_gone(
    make_redis: MakeRedis,
) -> None:
    server = make_redis()
    async with Channels(server.url) as channels:
        news = channels.channel("news")
        async with connected(news.subscribe()) as client:
            await client.until(lambda: client.last_id)
            position = client.last_id
    server.kill()
    await in_thread(server.start)
    async with Channels(server.url) as channels:
        news = channels.channel("news")
        await news.publish("missed")
        async with connected(news.subscribe(after=position)) as client:
            await client.until(lambda: client.said)
            assert client.said[0].data == {"reason": "epoch"}
            assert client.last_id != position


@asyncio_only
async def test_c7_an_event_that_is_lost_and_not_trimmed_is_told_by_a_reset(
    make_redis: MakeRedis,
) -> None:
    """This process follows the history, and has not heard yet that it is gone."""
    server = make_redis()
    async with Channels(server.url) as channels, Channels(server.url) as elsewhere:
        news, theirs = channels.channel("news"), elsewhere.channel("news")
        ids = [await theirs.publish(n) for n in range(5)]
        async with connected(news.subscribe()):
            server.ask("FLUSHALL")
            async with connected(news.subscribe(after=ids[1])) as client:
                await client.until(lambda: client.said)
                assert [each.data["reason"] for each in client.said] == ["epoch"]


@asyncio_only
async def test_a_key_that_was_emptied_by_hand_begins_anew(make_redis: MakeRedis) -> None:
    server = make_redis()
    broker = RedisBroker(server.url, pace=PACE)
    await publish(broker, 1, 2)
    (name,) = [name for name in server.names() if ":rooms" in name]
    server.ask("XTRIM", name, "MAXLEN", 0)
    notes = Notes()
    head = await broker.follow(ROOM, LIMITS, notes)
    assert head.offset == 0
    await publish(broker, 3)
    await until(lambda: notes.brief == [3])
    await broker.aclose()
