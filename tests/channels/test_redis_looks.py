"""Histories that are followed are compared with Redis, many in one call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from followers import Notes, item
from redis_checks import LIMITS, QUICK, until
from redis_server import RedisServer
from sserpent.channels.history.position import HistoryKey
from sserpent.channels.redis import RedisBroker
from sserpent.channels.redis.looks import interval
from sserpent.channels.redis.names import name_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def following(
    server: RedisServer, prefix: str, count: int, limits: Any = LIMITS
) -> AsyncIterator[tuple[RedisBroker, list[HistoryKey], list[Notes]]]:
    broker = RedisBroker(server.url, prefix=prefix, pace=QUICK._replace(timeout=10.0, compare=0.2))
    broker.open()
    keys = [HistoryKey("rooms", str(number)) for number in range(count)]
    notes = [Notes() for _ in keys]
    await asyncio.gather(
        *[broker.follow(key, limits, each) for key, each in zip(keys, notes, strict=True)]
    )
    try:
        yield broker, keys, notes
    finally:
        await broker.aclose()


def calls(server: RedisServer, command: str) -> int:
    stats = server.ask("INFO", "commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def test_c13_many_keys_are_compared_in_few_calls(redis: RedisServer) -> None:
    async with following(redis, "few", 300):
        looks, scripts = calls(redis, "xrevrange"), calls(redis, "evalsha")
        await until(lambda: calls(redis, "xrevrange") > looks + 1_500)
        looked = calls(redis, "xrevrange") - looks
        assert (calls(redis, "evalsha") - scripts) * 5 < looked


async def test_c13_a_lost_message_is_found_among_many_keys(redis: RedisServer) -> None:
    async with following(redis, "lost", 250) as (broker, keys, notes):
        published = await broker.publish(keys[170], LIMITS, item(1))
        await until(lambda: notes[170].numbers == [1])
        epoch = published.split("-")[0]
        name = name_of("lost", 0, keys[170])
        about = f"{epoch} 1700000000000 40 40 0 "
        redis.ask("XADD", name, "2-77", "about", about, "body", "data: 2\n\n")
        await until(lambda: notes[170].numbers == [1, 2])
        assert not any(each.told for n, each in enumerate(notes) if n != 170)


async def test_c8_a_lost_tail_is_found_by_a_comparison(redis: RedisServer) -> None:
    async with following(redis, "tail", 3) as (broker, keys, notes):
        await broker.publish(keys[1], LIMITS, item(1))
        published = await broker.publish(keys[1], LIMITS, item(2))
        await until(lambda: notes[1].numbers == [1, 2])
        redis.ask("XDEL", name_of("tail", 0, keys[1]), published.split("-", 1)[1])
        await until(lambda: notes[1].brief == [1, 2, "diverged"])


async def test_c7_another_life_of_an_empty_key_is_found_by_a_comparison(
    redis: RedisServer,
) -> None:
    async with following(redis, "life", 3) as (_, keys, notes):
        redis.ask("DEL", name_of("life", 0, keys[1]))
        await until(lambda: notes[1].brief == ["epoch"])


async def test_c13_a_key_of_another_type_hides_no_other(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(redis, "type", 3) as (_, keys, notes):
        name = name_of("type", 0, keys[0])
        redis.ask("DEL", name)
        redis.ask("SET", name, "a text")
        redis.ask("DEL", name_of("type", 0, keys[2]))
        await until(lambda: notes[2].brief == ["epoch"])
        await until(lambda: "WRONGTYPE" in caplog.text)


async def test_c11_keys_that_are_followed_do_not_expire(redis: RedisServer) -> None:
    limits = LIMITS._replace(history_ttl=3)
    async with following(redis, "live", 3, limits) as (broker, keys, notes):
        await broker.publish(keys[0], limits, item(1))
        names = [name_of("live", 0, key) for key in keys]
        left = [redis.ask("PTTL", name) for name in names]
        # Each is seen to again, more than once.
        for _ in range(2):
            await until(lambda: all(redis.ask("PTTL", name) < 2_400 for name in names[:1]))
            await until(lambda: redis.ask("PTTL", names[0]) > 2_400)
        assert all(each > 0 for each in left)
        assert not any("epoch" in each.brief for each in notes)


@pytest.mark.parametrize(
    ("count", "ttl", "seconds"),
    [
        (1, 3_600, 30),
        (2_000, 3_600, 30),
        (4_000, 3_600, 60),
        (12_000, 3_600, 180),
        (1_000_000, 3_600, 180),
        (12_000, 300, 100),
        (1, 6, 2),
    ],
)
def test_c13_keys_are_compared_less_often_the_more_there_are(
    count: int, ttl: float, seconds: float
) -> None:
    assert interval(30, count, ttl) == seconds
