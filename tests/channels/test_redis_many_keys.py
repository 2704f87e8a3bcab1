"""Many keys that are followed at the same time: Redis is asked about them in few calls, and whoever
follows one is told as if alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from followers import Notes, item
from proxy import Proxy
from redis_checks import LIMITS, QUICK, MakeRedis, run, run_behind_proxy, until
from redis_server import Cluster, RedisServer
from sserpent.channels import BrokerUnavailable
from sserpent.channels.history.broker import Refused
from sserpent.channels.history.position import HistoryKey, Position
from sserpent.channels.redis import RedisBroker
from sserpent.channels.redis.names import name_of

pytestmark = pytest.mark.once

ROOMS = [HistoryKey("rooms", str(number)) for number in range(300)]
PATIENT = QUICK._replace(timeout=10)
# Nothing is compared unless somebody has missed something.
RARELY = PATIENT._replace(compare=600)

Outcome = Position | BaseException


@pytest.fixture
def server(make_redis: MakeRedis) -> RedisServer:
    return make_redis()


def calls(server: RedisServer) -> int:
    """How many scripts have been called."""
    return int(server.ask("INFO", "commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


def live_ones(broker: RedisBroker) -> set[HistoryKey]:
    """The histories of which nothing is missing."""
    session = broker._session
    return {key for key, each in session._followed.items() if each._live} if session else set()


def redis_name(room: HistoryKey) -> bytes:
    return name_of("sserpent", 0, room)


async def follow_all(
    broker: RedisBroker, notes: dict[HistoryKey, Notes]
) -> dict[HistoryKey, Outcome]:
    outcomes = await asyncio.gather(
        *[broker.follow(room, LIMITS, each) for room, each in notes.items()], return_exceptions=True
    )
    return dict(zip(notes, outcomes, strict=True))


async def publish_to(broker: RedisBroker, rooms: Iterable[HistoryKey], number: int) -> None:
    await asyncio.gather(*[broker.publish(room, LIMITS, item(number)) for room in rooms])


def test_redis_is_asked_about_a_hundred_in_one_call(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        await broker.follow(HistoryKey("rooms", "before"), LIMITS, Notes())
        await publish_to(broker, ROOMS[::2], 1)
        before = calls(server)
        notes = {room: Notes() for room in ROOMS}
        positions = await follow_all(broker, notes)
        assert calls(server) - before < 20
        for number, room in enumerate(ROOMS):
            position = positions[room]
            assert isinstance(position, Position)
            assert position.offset == (number % 2 == 0)
        assert len({each.epoch for each in positions.values() if isinstance(each, Position)}) == 300
        await publish_to(broker, ROOMS, 2)
        await until(lambda: all(each.told for each in notes.values()))
        assert all(each.brief == [2] for each in notes.values())

    run(server, check, RARELY)


def test_c5_nothing_is_missed_that_is_published_while_they_are_looked_at(
    server: RedisServer,
) -> None:
    async def check(broker: RedisBroker) -> None:
        other = RedisBroker(server.url, pace=PATIENT)
        is_done = False

        async def publish_on(rooms: list[HistoryKey]) -> None:
            number = 0
            while not is_done:
                await publish_to(other, rooms, number)
                number += 1

        publishing = [asyncio.ensure_future(publish_on(ROOMS[start::3])) for start in range(3)]
        try:
            notes = {room: Notes() for room in ROOMS}
            positions = await follow_all(broker, notes)
            await until(lambda: all(len(each.told) > 2 for each in notes.values()))
            is_done = True
            await asyncio.gather(*publishing)
            for room, each in notes.items():
                head = await other.position(room, LIMITS)
                await until(lambda each=each, head=head: each.offsets[-1] == head.offset)  # type: ignore[misc]
                first = positions[room]
                assert isinstance(first, Position)
                assert each.offsets == [*range(first.offset + 1, head.offset + 1)]
                assert each.numbers == [offset - 1 for offset in each.offsets]
        finally:
            is_done = True
            await asyncio.gather(*publishing, return_exceptions=True)
            await other.aclose()

    run(server, check, PATIENT)


@pytest.mark.parametrize("bad", [[0], [299], [3, 150, 151, 299], [*range(0, 300, 2)]])
def test_keys_of_another_type_are_told_alone(
    server: RedisServer, bad: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    async def check(broker: RedisBroker) -> None:
        for number in bad:
            server.ask("SET", redis_name(ROOMS[number]), "a text")
        notes = {room: Notes() for room in ROOMS}
        following = asyncio.ensure_future(follow_all(broker, notes))
        good = [room for number, room in enumerate(ROOMS) if number not in bad]
        await until(lambda: {*good} <= live_ones(broker))
        await publish_to(broker, good, 1)
        await until(lambda: all(notes[room].told for room in good))
        await until(lambda: "WRONGTYPE" in caplog.text)
        for number in bad:
            server.ask("DEL", redis_name(ROOMS[number]))
        outcomes = await following
        assert all(isinstance(each, Position) for each in outcomes.values())
        await publish_to(broker, ROOMS, 2)
        for number, room in enumerate(ROOMS):
            brief = [2] if number in bad else [1, 2]
            await until(lambda room=room, brief=brief: notes[room].brief == brief)  # type: ignore[misc]

    run(server, check, PATIENT)


def test_c12_those_that_are_refused_are_told_each_why(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        await broker.publish(HistoryKey("rooms", "before"), LIMITS, item(1))
        server.ask("ACL", "SETUSER", "default", "-xadd")
        asking = [broker.position(room, LIMITS) for room in ROOMS]
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        assert {type(each) for each in outcomes} == {Refused}
        for room, outcome in zip(ROOMS, outcomes, strict=True):
            assert f":{room.key}'" in str(outcome)
            assert "+xadd with ~sserpent:" in str(outcome)
        server.ask("ACL", "SETUSER", "default", "+xadd")
        notes = {room: Notes() for room in ROOMS}
        outcomes = [*(await follow_all(broker, notes)).values()]
        assert all(isinstance(each, Position) for each in outcomes)

    run(server, check, PATIENT)


def test_c12_they_are_followed_when_redis_can_write_again(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        await broker.follow(HistoryKey("rooms", "before"), LIMITS, Notes())
        server.ask("CONFIG", "SET", "min-replicas-to-write", "1")
        notes = {room: Notes() for room in ROOMS}
        following = asyncio.ensure_future(follow_all(broker, notes))
        await until(lambda: server.ask("INFO", "errorstats").get("errorstat_NOREPLICAS"))
        server.ask("CONFIG", "SET", "min-replicas-to-write", "0")
        outcomes = await following
        assert all(isinstance(each, Position) for each in outcomes.values())

    run(server, check, PATIENT)


def test_c12_answers_that_are_lost_are_asked_for_again(server: RedisServer) -> None:
    async def check(broker: RedisBroker, proxy: Proxy) -> None:
        await broker.follow(HistoryKey("rooms", "before"), LIMITS, Notes())
        notes = {room: Notes() for room in ROOMS}
        following = asyncio.ensure_future(follow_all(broker, notes))
        for _ in range(3):
            lost = proxy.lost
            proxy.loses_answers = True
            await until(lambda lost=lost: proxy.lost > lost)  # type: ignore[misc]
            proxy.loses_answers = False
            await asyncio.sleep(0.02)
        outcomes = await following
        assert all(isinstance(each, Position) for each in outcomes.values())
        await publish_to(broker, ROOMS, 1)
        await until(lambda: all(each.brief == [1] for each in notes.values()))

    run_behind_proxy(server, check, PATIENT)


def test_c12_connections_that_are_killed_while_they_are_looked_at(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        is_done = False

        async def kill() -> None:
            while not is_done:
                for kind in ("normal", "pubsub"):
                    await asyncio.to_thread(server.kill_clients, kind)
                    await asyncio.sleep(0.01)

        killing = asyncio.ensure_future(kill())
        notes = {room: Notes() for room in ROOMS}
        following = asyncio.ensure_future(follow_all(broker, notes))
        await asyncio.wait([following], timeout=1)
        is_done = True
        await killing  # a kill that comes later would leave a publish in doubt
        outcomes = await following
        assert broker._session is not None
        await broker._session.ready()
        assert all(isinstance(each, Position) for each in outcomes.values())
        await publish_to(broker, ROOMS, 1)
        await until(lambda: all(each.brief == [1] for each in notes.values()))

    run(server, check, PATIENT)


def test_c12_who_waits_for_a_redis_that_stands_still_is_told(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        await broker.follow(HistoryKey("rooms", "before"), LIMITS, Notes())
        server.pause()
        try:
            outcomes = await follow_all(broker, {room: Notes() for room in ROOMS})
        finally:
            server.go_on()
        assert {type(each) for each in outcomes.values()} == {BrokerUnavailable}
        notes = {room: Notes() for room in ROOMS}
        await until(lambda: broker._session and broker._session.skew is not None)
        outcomes = await follow_all(broker, notes)
        assert all(isinstance(each, Position) for each in outcomes.values())
        await publish_to(broker, ROOMS, 1)
        await until(lambda: all(each.brief == [1] for each in notes.values()))

    run(server, check, QUICK._replace(timeout=4))


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 20, 100])
def test_those_who_leave_meanwhile_leave_nothing(server: RedisServer, turns: int) -> None:
    async def check(broker: RedisBroker) -> None:
        before = HistoryKey("rooms", "before")
        await broker.follow(before, LIMITS, Notes())
        notes = {room: Notes() for room in ROOMS}
        tasks = {
            room: asyncio.ensure_future(broker.follow(room, LIMITS, each))
            for room, each in notes.items()
        }
        for _ in range(turns):
            await asyncio.sleep(0)
        for room in ROOMS[::2]:
            tasks[room].cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        stayed = [room for room in ROOMS if not tasks[room].cancelled()]
        await publish_to(broker, ROOMS, 1)
        await until(lambda: all(notes[room].brief == [1] for room in stayed))
        assert not any(notes[room].told for room in set(ROOMS) - set(stayed))
        for room in stayed:
            broker.unfollow(room, notes[room])
        await until(lambda: len(server.subscriptions()) == 1)
        assert broker._session is not None
        assert [*broker._session._followed] == [before]

    run(server, check, PATIENT)


def test_another_process_begins_the_same_keys_once(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        others = [RedisBroker(server.url, pace=PATIENT) for _ in range(3)]
        try:
            all_notes: list[Any] = [{room: Notes() for room in ROOMS} for _ in range(4)]
            found = await asyncio.gather(*map(follow_all, [broker, *others], all_notes))
            for room in ROOMS:
                assert len({each[room] for each in found}) == 1
            await publish_to(broker, ROOMS, 1)
            for notes in all_notes:
                await until(lambda notes=notes: all(n.brief == [1] for n in notes.values()))  # type: ignore[misc]
        finally:
            for other in others:
                await other.aclose()

    run(server, check, PATIENT)


def test_a_cluster_is_asked_about_each_alone(make_redis: MakeRedis) -> None:
    nodes = Cluster(make_redis)

    async def check(broker: RedisBroker) -> None:
        notes = {room: Notes() for room in ROOMS}
        outcomes = await follow_all(broker, notes)
        assert all(isinstance(each, Position) for each in outcomes.values())
        await publish_to(broker, ROOMS, 1)
        await until(lambda: all(each.brief == [1] for each in notes.values()))
        for node in nodes.nodes:
            node.kill_clients("normal")
            node.kill_clients("pubsub")
        await publish_to(broker, ROOMS, 2)
        await until(lambda: all(each.brief == [1, 2] for each in notes.values()))

    try:
        run(nodes, check, PATIENT)
    finally:
        nodes.close()


def test_each_history_is_read_after_a_cut(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        other = RedisBroker(server.url, pace=PATIENT)
        notes = {room: Notes() for room in ROOMS}
        await follow_all(broker, notes)
        await publish_to(broker, ROOMS, 0)
        await until(lambda: all(each.told for each in notes.values()))
        for number in range(1, 4):
            server.kill_clients("pubsub")
            await publish_to(other, ROOMS, number)
        await until(lambda: all(len(each.told) == 4 for each in notes.values()))
        assert all(each.brief == [*range(4)] for each in notes.values())
        await other.aclose()

    run(server, check, PATIENT)
