"""Somebody else writes to what channels have in Redis: nobody is stuck, and nothing is silent."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from asgi import Connection
from event_loops import asyncio_only
from followers import Notes
from redis_checks import LIMITS, ROOM, MakeRedis, publish, run, until
from redis_server import RedisServer
from sserpent import ServerSentEvent
from sserpent.channels import BrokerUnavailable, Channels
from sserpent.channels.history.ring import Entry
from sserpent.channels.redis import RedisBroker
from sserpent.channels.redis.names import name_of

# A broker is given frames that are made already.
pytestmark = [pytest.mark.once, pytest.mark.anyio]

KEY = name_of("sserpent", 0, ROOM).decode()


@pytest.fixture
def server(make_redis: MakeRedis) -> RedisServer:
    return make_redis()


def about(epoch: str) -> str:
    return f"{epoch} {int(time.time() * 1000)} 50 50 0 "


def epoch_of(notes: Notes) -> str:
    return next(each.position.epoch for each in notes.told if isinstance(each, Entry))


def asked(server: RedisServer) -> int:
    """How many commands a server has carried out."""
    return int(server.ask("INFO", "stats")["total_commands_processed"])


GARBAGE = [
    b"",
    b"garbage",
    b"1 2 3 4",
    b"\xff\xfe\x00",
    b"30 1-1 0 abc",
    b"9 x-y 0 a 1 2 3 0 data: 1\n\n",
    b"13 3-4 0 ab\n 1 2 3 0  data: 1\n\n",
    b"x" * 100_000,
    b"count ",
    b"count 1",
    b"count x y",
    b"ephemeral x",
    b"several 1 2 3",
]


@pytest.mark.parametrize("message", GARBAGE, ids=lambda message: repr(message[:10]))
def test_a_message_that_is_not_of_a_channel(server: RedisServer, message: bytes) -> None:
    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        await publish(broker, 1)
        subscribed = server.clients("pubsub")
        for _ in range(3):
            assert server.ask("PUBLISH", KEY, message) == 1
        await publish(broker, 2)
        await until(lambda: len(notes.told) == 2)
        assert notes.brief == [1, 2]
        assert server.clients("pubsub") == subscribed

    run(server, check)


@pytest.mark.parametrize("message", [b"", b"1", b"1 2", b"a b 3", b"1 b c", b"1 2 3 4"])
def test_an_answer_that_is_not_of_a_process_that_counts(
    server: RedisServer, message: bytes
) -> None:
    async def check(broker: RedisBroker) -> None:
        await broker.follow(ROOM, LIMITS, Notes())
        assert await broker.count_subscribers(ROOM) == 0
        (inbox,) = [name for name in server.subscriptions() if "inbox:" in name]
        subscribed = server.clients("pubsub")
        assert server.ask("PUBLISH", inbox, message) == 1
        assert await broker.count_subscribers(ROOM) == 0
        assert server.clients("pubsub") == subscribed

    run(server, check)


def test_a_message_from_a_future_that_never_comes(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        await publish(broker, 1)
        await until(lambda: notes.brief == [1])
        its = about(epoch_of(notes))
        server.ask("PUBLISH", KEY, f"{len(its)} 1000-5 7 {its}data: 1000\n\n")
        await publish(broker, 2)
        await until(lambda: len(notes.told) == 2)
        assert notes.brief == [1, 2]

    run(server, check)


@asynccontextmanager
async def listening(server: RedisServer, **arguments: Any) -> AsyncIterator[Any]:
    channels = Channels(server.url)
    async with (
        channels,
        channels.channel("rooms", keyed=True).listen(key="lobby", **arguments) as events,
    ):
        yield events


async def first_of(server: RedisServer, after: str, count: int) -> list[tuple[str | None, Any]]:
    """What somebody is told first who comes back."""
    async with listening(server, after=after) as events:
        return [_brief(await anext(events)) for _ in range(count)]


def _brief(event: ServerSentEvent) -> tuple[str | None, Any]:
    data: Any = event.data
    return event.event, data.get("missed", data.get("reason")) if event.event else data


@pytest.mark.parametrize(
    "fields",
    [("foo", "bar"), ("about", "garbage", "body", "data: 3\n\n"), ("about", "VALID")],
    ids=["other-fields", "garbage", "no-body"],
)
def test_an_entry_among_others_that_is_not_an_event_is_a_gap(
    server: RedisServer, fields: tuple[str, ...]
) -> None:
    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        ids = await publish(broker, 1, 2)
        await until(lambda: notes.brief == [1, 2])
        its = about(epoch_of(notes))
        given = [its if field == "VALID" else field for field in fields]
        server.ask("XADD", KEY, "3-77", *given)
        server.ask("XADD", KEY, "4-88", "about", its, "body", "data: 4\n\n")
        await until(lambda: len(notes.told) == 3)
        await publish(broker, 5)
        await until(lambda: len(notes.told) == 4)
        assert notes.brief == [1, 2, 4, 5]
        assert notes.offsets == [1, 2, 4, 5]
        assert await first_of(server, ids[1], 3) == [("gap", 1), (None, 4), (None, 5)]
        assert await first_of(server, ids[0], 3) == [("gap", 2), (None, 4), (None, 5)]

    run(server, check)


def test_an_offset_that_jumps_is_a_gap(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        ids = await publish(broker, 1, 2)
        await until(lambda: notes.brief == [1, 2])
        its = about(epoch_of(notes))
        server.ask("XADD", KEY, "1000-5", "about", its, "body", "data: 1000\n\n")
        await publish(broker, 1_001)
        await until(lambda: len(notes.told) == 4)
        assert notes.offsets == [1, 2, 1_000, 1_001]
        assert await first_of(server, ids[1], 3) == [("gap", 997), (None, 1_000), (None, 1_001)]

    run(server, check)


def test_an_entry_of_another_epoch_is_a_reset(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        await publish(broker, 1, 2)
        await until(lambda: notes.brief == [1, 2])
        before = asked(server)
        server.ask("XADD", KEY, "3-77", "about", about("abc123"), "body", "data: 3\n\n")
        await until(lambda: len(notes.told) > 2)
        await publish(broker, 4)
        await until(lambda: notes.brief[-1] == 4)
        assert {each for each in notes.brief if isinstance(each, str)} <= {"epoch", "diverged"}
        # It does not look again and again for what is not there.
        assert asked(server) - before < 100

    run(server, check)


def add_garbage(server: RedisServer) -> None:
    server.ask("XADD", KEY, "900-1", "foo", "bar")


def add_no_number(server: RedisServer) -> None:
    server.ask("XADD", KEY, "900-1", "about", f"abc {'9' * 5_000} 1 1 0 ", "body", "data: 1\n\n")


def make_it_a_string(server: RedisServer) -> None:
    server.ask("SET", KEY, "garbage")


@pytest.mark.parametrize("damage", [add_garbage, add_no_number, make_it_a_string])
def test_a_history_that_somebody_has_damaged_is_said_and_mended(
    server: RedisServer,
    damage: Callable[[RedisServer], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        await publish(broker, 1)
        await until(lambda: notes.brief == [1])
        damage(server)
        if damage is not add_no_number:  # of which Redis makes what it can
            with pytest.raises(BrokerUnavailable, match=r"refuses .*:5:lobby"):
                await publish(broker, 2)
        await until(lambda: caplog.messages)
        began = asked(server)
        await until(lambda: asked(server) > began + 10)  # it looks now and then
        assert len(caplog.messages) == 1
        assert "channel 'rooms'" in caplog.messages[0]
        server.ask("DEL", KEY)
        await publish(broker, 3)
        await until(lambda: notes.brief[-1] == 3)
        assert notes.brief == [1, "epoch", 3]

    with caplog.at_level(logging.WARNING, "sserpent"):
        run(server, check)


@asyncio_only
async def test_a_damaged_history_makes_nobody_wait_for_ever(server: RedisServer) -> None:
    """Whoever comes then is told to come back, as when Redis is away."""
    add_garbage(server)
    channels = Channels(server.url, publish_timeout=0.5)
    rooms = channels.channel("rooms", keyed=True)
    connection = Connection()
    async with channels:
        await connection.run(rooms.subscribe(key="lobby"))
    assert connection.status == 200
    assert b"\nretry: " in connection.body


def test_the_scripts_are_flushed(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        for number in range(5):
            server.ask("SCRIPT", "FLUSH")
            await publish(broker, number)
        await until(lambda: len(notes.told) == 5)
        assert notes.brief == list(range(5))

    run(server, check)


def test_a_right_is_taken_away_and_given_back(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        await publish(broker, 1)
        server.ask("ACL", "SETUSER", "default", "-xrevrange")
        with pytest.raises(BrokerUnavailable, match=r"refuses .*:5:lobby"):
            await publish(broker, 2)
        await until(lambda: caplog.messages)
        server.ask("ACL", "SETUSER", "default", "+xrevrange")
        await publish(broker, 3)
        await until(lambda: len(notes.told) == 2)
        assert notes.brief == [1, 3]
        assert len(caplog.messages) == 1

    with caplog.at_level(logging.WARNING, "sserpent"):
        run(server, check)


@pytest.mark.parametrize("seconds", [-3_600, 3_600])
def test_the_clock_of_the_server_jumps(server: RedisServer, seconds: float) -> None:
    """What is known of that clock is then wrong by so much."""

    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        await publish(broker, 1)
        assert broker._session is not None
        commands = broker._session.servers._commands  # type: ignore[attr-defined]
        commands.skew += seconds
        await publish(broker, 2)
        await until(lambda: len(notes.told) == 2)
        assert notes.brief == [1, 2]

    run(server, check)
