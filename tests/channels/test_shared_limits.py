"""Limits of subscribers that are for all processes together, on Redis."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from channel_clients import Client, connected
from redis_server import RedisServer
from sserpent.channels import Channels
from sserpent.channels.redis import shared_slots

pytestmark = pytest.mark.once


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


def test_a_limit_is_that_of_all_processes(redis: RedisServer) -> None:
    async def main() -> None:
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

    anyio.run(main)


def test_without_shared_limits_each_process_counts_its_own(redis: RedisServer) -> None:
    async def main() -> None:
        async with (
            Channels(redis.url, prefix="own", max_subscribers=1) as one,
            Channels(redis.url, prefix="own", max_subscribers=1) as two,
        ):
            async with connected(one.channel("news").subscribe()):
                async with connected(two.channel("news").subscribe()) as client:
                    assert client.status == 200

    anyio.run(main)


def test_the_places_of_a_process_that_was_killed_are_free_again(
    redis: RedisServer, quick: None
) -> None:
    async def main() -> None:
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

    async def places(channels: Channels) -> int:
        session: Any = channels._broker._session  # type: ignore[attr-defined]
        name = session.name_of(shared_slots._key_of(None))
        await session._send(name, "EVALSHA", shared_slots.SLOTS.sha, 1, name, "x", 0, "", 1_500)
        return int(redis.ask("HLEN", name))

    anyio.run(main)


def test_in_this_process_limits_are_as_without_it() -> None:
    async def main() -> None:
        news = Channels(shared_limits=True, max_subscribers=1).channel("news")
        async with connected(news.subscribe()):
            assert await status_of(news.subscribe()) == 503

    anyio.run(main)
    wrong: Any = 1
    with pytest.raises(TypeError, match="'shared_limits' must be True or False, not int"):
        Channels(shared_limits=wrong)
