"""Limits of subscribers that are for all processes together, on Redis."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from channel_clients import Client, connected
from event_loops import asyncio_only
from redis_checks import MakeRedis
from redis_server import RedisServer
from sserpent.channels import BrokerUnavailable, Channels
from sserpent.channels.redis import shared_slots

pytestmark = [pytest.mark.once, pytest.mark.anyio]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_slots, "RENEWAL", 0.3)
    monkeypatch.setattr(shared_slots, "LEASE", 1.5)


async def status_of(subscription: Any) -> int:
    client = Client()
    async with client.open(subscription):
        return client.status


async def until_open(channel: Any, **options: Any) -> None:
    with anyio.fail_after(20):
        while await status_of(channel.subscribe(**options)) != 200:
            await anyio.sleep(0.05)


@asyncio_only
async def test_a_limit_is_that_of_all_processes(redis: RedisServer) -> None:
    options: Any = {"prefix": "limits", "shared_limits": True, "max_subscribers_per_owner": 2}
    async with Channels(redis.url, **options) as one, Channels(redis.url, **options) as two:
        here = one.channel("news", max_subscribers=3)
        there = two.channel("news", max_subscribers=3)
        async with (
            connected(here.subscribe(owner="ann")),
            connected(there.subscribe(owner="ann")),
        ):
            for each in (here, there):
                assert await status_of(each.subscribe(owner="ann")) == 503
            async with connected(here.subscribe(owner="bob")):
                for each in (here, there):
                    assert await status_of(each.subscribe()) == 503
                # Who comes back is told when, as in one process.
                assert await status_of(there.subscribe(after="0-0-0")) == 200
            await until_open(there, owner="bob")
        await until_open(here, owner="ann")
    assert not [name for name in redis.names() if "slots" in name and redis.ask("HLEN", name)]


@asyncio_only
async def test_without_shared_limits_each_process_counts_its_own(redis: RedisServer) -> None:
    async with (
        Channels(redis.url, prefix="own", max_subscribers=1) as one,
        Channels(redis.url, prefix="own", max_subscribers=1) as two,
    ):
        async with connected(one.channel("news").subscribe()):
            async with connected(two.channel("news").subscribe()) as client:
                assert client.status == 200


@asyncio_only
async def test_the_places_of_a_process_that_was_killed_are_free_again(
    redis: RedisServer, quick: None
) -> None:
    async def places(channels: Channels) -> int:
        session: Any = channels._broker._session  # type: ignore[attr-defined]
        name = session.name_of(shared_slots._key_of(None))
        await session._send(name, "EVALSHA", shared_slots.SLOTS.sha, 1, name, "x", 0, "", 1_500)
        return int(redis.ask("HLEN", name))

    options: Any = {"prefix": "killed", "shared_limits": True, "max_subscribers": 20}
    async with Channels(redis.url, **options) as living:
        news = living.channel("news")
        async with connected(news.subscribe()):
            session: Any = living._broker._session  # type: ignore[attr-defined]
            # A thousand processes that take what they get, and renew nothing.
            for _ in range(50):
                taken = []
                for _ in range(20):
                    killed = shared_slots.SharedSlots(session._send, session.name_of)
                    taken.append(await killed.take({None: 20}))
                    killed.close()
                assert sum(taken) <= 19
            with anyio.fail_after(20):
                while (await places(living)) > 1:
                    await anyio.sleep(0.1)
            # No place is lost, and none has come twice: one is in use all the time.
            async with AsyncExitStack() as stack:
                for _ in range(19):
                    await stack.enter_async_context(connected(news.subscribe()))
                assert await status_of(news.subscribe()) == 503


@asyncio_only
async def test_in_this_process_limits_are_as_without_it() -> None:
    news = Channels(shared_limits=True, max_subscribers=1).channel("news")
    async with connected(news.subscribe()):
        assert await status_of(news.subscribe()) == 503
    wrong: Any = 1
    with pytest.raises(TypeError, match="'shared_limits' must be True or False, not int"):
        Channels(shared_limits=wrong)


# A Redis that refuses to count

RIGHTS = (
    "~sserpent:* &sserpent:* +evalsha +script|load +xadd +xtrim +xrange +xrevrange +pexpire +time "
    "+publish +subscribe +unsubscribe +ping +info +select"
)


@pytest.mark.parametrize("missing", ["hgetall", "hset", "hdel"])
@asyncio_only
async def test_a_user_who_may_not_count_is_found_when_the_application_starts(
    make_redis: MakeRedis, missing: str
) -> None:
    server = make_redis()
    rights = [f"+{each}" for each in ("hgetall", "hset", "hdel") if each != missing]
    server.ask("ACL", "SETUSER", "app", "reset", "on", ">secret", *RIGHTS.split(), *rights)
    url = server.url.replace("//", "//app:secret@")
    async with Channels(url, shared_limits=True, publish_timeout=2) as channels:
        with pytest.raises(BrokerUnavailable, match=rf"they need \+{missing} with ~sserpent:"):
            await channels.ready()
    async with Channels(url, publish_timeout=2) as channels:
        await channels.ready()
    server.ask("ACL", "SETUSER", "app", f"+{missing}")
    async with Channels(url, shared_limits=True, publish_timeout=2) as channels:
        await channels.ready()
    assert not [name for name in server.names() if "rights" in name]


@asyncio_only
async def test_a_redis_that_refuses_to_count_is_logged_once(
    make_redis: MakeRedis, caplog: pytest.LogCaptureFixture, quick: None
) -> None:
    server = make_redis()

    def refusals() -> list[str]:
        messages = [each.getMessage() for each in caplog.records]
        return [each for each in messages if "cannot be counted" in each]

    async with Channels(server.url, shared_limits=True, max_subscribers=9) as channels:
        news = channels.channel("news")
        await channels.ready()
        async with connected(news.subscribe()):
            server.ask("CONFIG", "SET", "maxmemory", "1")
            for _ in range(3):
                assert await status_of(news.subscribe()) == 200  # and comes back later
            assert len(refusals()) == 1
            assert "maxmemory" in refusals()[0]
            server.ask("CONFIG", "SET", "maxmemory", "0")
            await until_open(news)
            caplog.clear()
            # Renewals are refused too.
            server.ask("CONFIG", "SET", "maxmemory", "1")
            with anyio.fail_after(20):
                while not refusals():
                    await anyio.sleep(0.05)
            await anyio.sleep(1)
            assert len(refusals()) == 1
            server.ask("CONFIG", "SET", "maxmemory", "0")


# Channels that end


@asyncio_only
async def test_channels_that_end_give_their_places_back_at_once(redis: RedisServer) -> None:
    for _ in range(3):
        async with anyio.create_task_group() as tasks:
            channels = Channels(redis.url, prefix="ending", shared_limits=True)
            async with channels:
                news = channels.channel("news", max_subscribers=1)
                client = Client()
                tasks.start_soon(client.run, news.subscribe())
                await client.until(lambda client=client: client.started)
                assert client.status == 200
        assert not [name for name in redis.names() if "slots" in name]


@asyncio_only
async def test_a_stream_that_ends_late_takes_no_place_from_channels_that_were_entered_again(
    redis: RedisServer,
) -> None:
    channels = Channels(redis.url, prefix="again", shared_limits=True)
    news = channels.channel("news", max_subscribers=2)
    async with anyio.create_task_group() as tasks:
        late = Client()
        async with channels:
            tasks.start_soon(late.run, news.subscribe())
            await late.until(lambda: late.started)
            late.stall()
            await news.publish(1)
            await late.until(lambda: late.stalled)
        async with channels, connected(news.subscribe()):
            assert await status_of(news.subscribe()) in (200, 503)
            late.unstall()
            await late.until(lambda: late.complete)
            async with connected(news.subscribe()):
                [name] = [name for name in redis.names() if "again" in name and "slots" in name]
                [count] = [each.split()[0] for each in redis.ask("HVALS", name)]
                assert count == "2"
                assert await status_of(news.subscribe()) == 503


@asyncio_only
async def test_a_redis_that_is_silent_holds_up_the_end_of_channels_with_places_for_no_time_out(
    make_redis: MakeRedis,
) -> None:
    server = make_redis()
    channels = Channels(server.url, shared_limits=True, publish_timeout=60)
    async with channels:
        news = channels.channel("news", max_subscribers=1)
        async with connected(news.subscribe()):
            server.pause()
            with anyio.fail_after(20):
                await channels.aclose()
    server.go_on()
