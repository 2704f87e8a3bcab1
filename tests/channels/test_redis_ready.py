"""A Redis that is away when the application starts: the log says so once, and so does `ready`."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from event_loops import asyncio_only
from redis_checks import MakeRedis, in_thread, until
from redis_server import Cluster, RedisServer, Sentinel
from sserpent.channels import BrokerUnavailable, Channels

pytestmark = [pytest.mark.once, pytest.mark.anyio]


@pytest.fixture
def server(make_redis: MakeRedis) -> RedisServer:
    return make_redis()


def nobody(server: RedisServer) -> str:
    server.kill()
    return f"redis://:secret@127.0.0.1:{server.port}/0"


def nobody_with_tls(server: RedisServer) -> str:
    return f"rediss://:secret@127.0.0.1:{server.port}/0"


def silent(server: RedisServer) -> str:
    server.pause()
    return server.url


def another_password(server: RedisServer) -> str:
    server.ask("CONFIG", "SET", "requirepass", "another")
    return f"redis://:secret@127.0.0.1:{server.port}/0"


def no_rights(server: RedisServer) -> str:
    server.ask("ACL", "SETUSER", "app", "on", ">secret", "~sserpent:*", "&*", "+@all", "-xtrim")
    return f"redis://app:secret@127.0.0.1:{server.port}/0"


def no_host(server: RedisServer) -> str:
    return "redis://:secret@nowhere.invalid:6379/0"


def no_socket(server: RedisServer) -> str:
    return "unix://:secret@/nowhere/redis.sock"


def no_sentinel(server: RedisServer) -> str:
    server.kill()
    return f"redis+sentinel://:secret@127.0.0.1:{server.port}/main/0"


def no_cluster(server: RedisServer) -> str:
    server.kill()
    return f"redis+cluster://:secret@127.0.0.1:{server.port}"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (nobody, r"127\.0\.0\.1:\d+ is away: Error 111 connecting"),
        (nobody_with_tls, r"127\.0\.0\.1:\d+ is away: "),
        (silent, r"127\.0\.0\.1:\d+ is away: it does not answer"),
        (another_password, r"127\.0\.0\.1:\d+ is away: .*(?i:password|authentication)"),
        (no_rights, r"127\.0\.0\.1:\d+ cannot be used by channels: they need \+xtrim with ~sser"),
        (no_host, r"nowhere\.invalid:6379 is away: Error -\d connecting"),
        (no_socket, r"/nowhere/redis\.sock is away: "),
        (no_sentinel, r"'main' is away: no Sentinel says .*127\.0\.0\.1:\d+: Error 111"),
        (no_cluster, r"127\.0\.0\.1:\d+ is away: Error 111"),
    ],
)
@asyncio_only
async def test_a_redis_that_is_away_at_the_start_is_said_once(
    server: RedisServer,
    fault: Callable[[RedisServer], str],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    channels = Channels(fault(server), publish_timeout=1)
    began = time.monotonic()
    async with channels:
        assert time.monotonic() - began < 1  # it starts all the same
        await until(lambda: caplog.messages)
        for _ in range(2):
            with pytest.raises(BrokerUnavailable) as raised:
                await channels.ready()
            assert "secret" not in str(raised.value)
        with pytest.raises(BrokerUnavailable):
            await channels.channel("rooms").publish(1)
    if server._stopped:
        server.go_on()
    warnings = [each.getMessage() for each in caplog.records if each.name == "sserpent"]
    assert len(warnings) == 1, warnings
    assert re.search(reason, warnings[0]), warnings
    assert warnings[0].startswith("Redis")
    assert "secret" not in caplog.text


@asyncio_only
async def test_a_redis_that_comes_later_is_ready(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.kill()
    async with Channels(server.url, publish_timeout=30) as channels:
        await until(lambda: caplog.messages)
        ready = asyncio.create_task(channels.ready())
        await in_thread(server.start)
        await asyncio.wait_for(ready, 20)
        await channels.channel("rooms").publish(1)
        await until(lambda: len(caplog.messages) == 2)
    assert [message.rpartition(" is ")[2][:4] for message in caplog.messages] == ["away", "back"]


@asyncio_only
async def test_redis_is_ready_where_it_is(make_redis: MakeRedis) -> None:
    servers: list[Any] = [make_redis()]
    servers += [Sentinel(servers[0]), Cluster(make_redis)]
    try:
        for each in servers:
            async with Channels(each.url, publish_timeout=30) as channels:
                await channels.ready()
            with pytest.raises(RuntimeError, match="closed"):
                await channels.ready()
    finally:
        for each in servers[1:]:
            each.close()


async def is_ready(channels: Channels) -> bool:
    try:
        await channels.ready()
    except BrokerUnavailable:
        return False
    return True


@asyncio_only
async def test_redis_is_not_ready_if_nothing_is_heard(server: RedisServer) -> None:
    server.ask("ACL", "SETUSER", "default", "-subscribe")
    async with Channels(server.url, publish_timeout=1) as channels:
        await channels.channel("rooms").publish(1)
        assert not await is_ready(channels)
        began = time.monotonic()
        server.ask("ACL", "SETUSER", "default", "+subscribe")
        while not await is_ready(channels):
            assert time.monotonic() - began < 30


@asyncio_only
async def test_an_application_ends_at_once_though_redis_is_away(server: RedisServer) -> None:
    server.kill()
    began = time.monotonic()
    async with Channels(server.url, publish_timeout=60):
        await asyncio.sleep(0.1)
    assert time.monotonic() - began < 20


async def test_channels_of_one_process_are_ready_at_once() -> None:
    channels = Channels()
    await channels.ready()
    async with channels:
        await channels.ready()
