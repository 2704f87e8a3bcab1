"""A run that has ended keeps its events in few entries, and is read as before."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from channel_clients import connected
from redis_checks import MakeRedis, until
from redis_server import Cluster, RedisServer
from sserpent.channels import Channels
from sserpent.channels.history.broker import Item
from sserpent.channels.history.memory import UNLIMITED
from sserpent.channels.history.position import HistoryKey
from sserpent.channels.history.ring import Entry
from sserpent.channels.redis import RedisBroker
from sserpent.channels.redis.names import name_of

pytestmark = pytest.mark.anyio
END = Item(b'event: run-end\ndata: {"run":"a","end":"done","reason":null}\n\n')
_numbers = itertools.count()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Run:
    """A run in Redis, of which a test is the producer."""

    def __init__(self, server: RedisServer | Cluster) -> None:
        self.server = server
        self.broker = RedisBroker(server.url)
        self.broker.open()
        self.key = HistoryKey("answers", f"run{next(_numbers)}")
        self.name = name_of("sserpent", 0, self.key).decode()
        self.fence = ""

    async def append(self, *batches: Sequence[Item]) -> None:
        if not self.fence:
            fence = await self.broker.runs.start(self.key, 60, lambda reason: None)
            assert fence is not None
            self.fence = fence
        for batch in batches:
            await self.broker.runs.append(self.key, self.fence, batch)

    async def end(self) -> None:
        assert await self.broker.runs.end(self.key, self.fence, END)

    async def compacted(self) -> None:
        """Waits until nothing is written anew any more."""
        session = self.broker._session
        assert session is not None
        await until(lambda: not session._afterwards)

    async def read(self, first: int = 1, before: int = 10**9) -> list[tuple[Any, ...]]:
        floor, entries = await self.broker.read(self.key, UNLIMITED, first, before)
        return [(floor.offset,), *map(fields, entries)]

    async def aclose(self) -> None:
        await self.broker.runs.release(self.key, self.fence)
        await self.broker.aclose()


def fields(entry: Entry) -> tuple[Any, ...]:
    return entry.position, entry.frame, entry.raw, entry.conflate


@pytest.fixture
async def run_in_redis(redis: RedisServer) -> AsyncIterator[Run]:
    run = Run(redis)
    yield run
    await run.aclose()


def items(*sizes: int) -> list[Item]:
    return [Item(b"data: %b\n\n" % (b"x" * size), size % 3 == 0) for size in sizes]


async def test_x2_each_stretch_is_read_as_before(run_in_redis: Run) -> None:
    run = run_in_redis
    await run.append(items(3), items(*range(700)), items(40_000, 1, 2), items(0), items(0))
    await run.append(*[items(n) for n in range(600)])
    stretches = [
        (first, before)
        for first in (1, 2, 400, 512, 513, 701, 702, 705, 1_304, 1_305)
        for before in (1, 2, 3, 300, 513, 514, 703, 704, 1_000, 1_305, 1_306)
    ]
    before = [await run.read(*stretch) for stretch in stretches]
    going_on = await run.read()
    assert len(going_on) == 1 + 1_306
    await run.end()
    await run.compacted()
    assert run.server.ask("XLEN", run.name) < 60
    assert [await run.read(*stretch) for stretch in stretches] == before
    assert (await run.read())[:-1] == going_on
    # As it is read where a follower has missed something.
    session = run.broker._session
    assert session is not None
    page = await session.page(run.name.encode(), 600, 50)
    assert [entry.offset for entry, _, _ in page] == list(range(600, 650))


async def test_a_run_that_has_ended_takes_few_bytes_for_each_event(run_in_redis: Run) -> None:
    run = run_in_redis
    await run.append(*[items(9) for _ in range(500)])
    await run.end()
    await run.compacted()
    used = run.server.ask("MEMORY", "USAGE", run.name, "SAMPLES", 0)
    assert used < 500 * (17 + 40)
    assert not [name for name in run.server.names() if name.endswith(":new")]
    assert 50_000 < run.server.ask("PTTL", run.name) <= 60_000


async def test_a_short_run_takes_no_page_of_its_own(run_in_redis: Run) -> None:
    run = run_in_redis
    await run.append(items(9))
    await run.end()
    await run.compacted()
    assert run.server.ask("MEMORY", "USAGE", run.name, "SAMPLES", 0) < 1_500


async def test_x2_it_may_be_written_anew_again_and_in_part(run_in_redis: Run) -> None:
    run = run_in_redis
    await run.append(items(*range(900)))
    await run.append(*[items(n) for n in range(900)])
    await run.end()
    await run.compacted()
    expected = await run.read()
    session = run.broker._session
    assert session is not None
    script = session._run_scripts["compact"].sha
    keys = 3, run.name, f"{run.name}:run", f"{run.name}:new"
    # As by somebody who dies meanwhile.
    assert run.server.ask("EVALSHA", script, *keys) == 1
    assert run.server.ask("PTTL", keys[-1]) > 0
    assert await run.read() == expected
    session.compact(run.key)
    await run.compacted()
    assert await run.read() == expected
    assert not run.server.ask("EXISTS", keys[-1])


async def test_what_another_life_has_left_is_not_part_of_it(run_in_redis: Run) -> None:
    run = run_in_redis
    about = "0123456789abcdef 1700000000000 0 40 0 "
    run.server.ask("XADD", f"{run.name}:new", "1-5", "about", about, "body", "data: old\n\n")
    await run.append(items(*range(10)))
    expected = await run.read()
    await run.end()
    await run.compacted()
    assert (await run.read())[:-1] == expected


async def test_what_somebody_else_has_written_stays_as_it_is(run_in_redis: Run) -> None:
    run = run_in_redis
    await run.append(items(1), items(2))
    offset, _, tag = run.server.ask("XREVRANGE", run.name, "+", "-")[0][0].partition("-")
    run.server.ask("XADD", run.name, f"{offset}-{int(tag) + 1}", "about", "x", "body", "y")
    run.server.ask("XDEL", run.name, f"{offset}-{tag}")
    run.server.ask("XADD", run.name, "7-7", "about", "0123456789abcdef 1 0 40 0 ", "body", "z")
    assert await run.broker.runs.end(run.key, None, END) is False  # its lease lives
    ended = False
    while not ended:  # its producer may renew the lease once, when it is subscribed
        run.server.ask("HSET", f"{run.name}:run", "lease", 0)
        ended = await run.broker.runs.end(run.key, None, END)
    await run.compacted()
    assert run.server.ask("XLEN", run.name) == 4
    assert not run.server.ask("EXISTS", f"{run.name}:new")


async def test_x2_a_history_that_was_evicted_does_not_come_back(run_in_redis: Run) -> None:
    run = run_in_redis
    await run.append(items(*range(10)))
    await run.end()
    await run.compacted()
    run.server.ask("DEL", run.name)
    session = run.broker._session
    assert session is not None
    session.compact(run.key)
    await run.compacted()
    assert not run.server.ask("EXISTS", run.name)
    record = await run.broker.runs.status(run.key)
    assert record is not None
    assert record.is_evicted


async def test_x1_a_batch_is_appended_again_where_a_part_is_there(run_in_redis: Run) -> None:
    run = run_in_redis
    await run.append(items(1))
    produced = run.broker.runs._produced[run.fence]
    known = produced.offset, produced.tag
    await run.append(items(2, 3, 4))
    # Its answer was lost: the same events come again, with more.
    tags = [entry[0].tag for entry in (await run.read())[2:]]
    produced.offset, produced.tag = known
    produced._tags = tags
    await run.append(items(2, 3, 4, 5, 6))
    expected = [item.body for item in items(1, 2, 3, 4, 5, 6)]
    read = await run.read()
    assert [frame.split(b"\n", 1)[1] for _, frame, *_ in read[1:]] == expected
    assert [entry[0].offset for entry in read[1:]] == list(range(1, 7))


@pytest.mark.parametrize("joined", [1, 7])
async def test_x2_a_client_comes_back_in_the_middle_elsewhere(
    redis: RedisServer, joined: int
) -> None:
    async def count() -> AsyncIterator[int]:
        for number in range(20):
            yield number
            if number % joined == 0:
                await asyncio.sleep(0.01)

    prefix = f"compaction{next(_numbers)}"
    async with Channels(redis.url, prefix=prefix) as here:
        run = await here.runs("answers").start(count())
        async with connected(run.follow()) as client:
            await client.until(lambda: client.seen and client.seen[-1].type == "run-end")
        name = next(n for n in redis.names() if n.startswith(f"{prefix}:") and n.endswith("]"))
        await until(lambda: redis.ask("XLEN", name) == 2)
    async with Channels(redis.url, prefix=prefix) as there:
        runs = there.runs("answers")
        for number, after in [(7, client.seen[6].id), (13, 12), (0, None)]:
            async with connected(await runs.follow(run.id, after=after)) as other:
                await other.until(lambda o=other: o.seen and o.seen[-1].type == "run-end")
            assert other.seen == client.seen[number:]
        assert (await runs.status(run.id)).events == 20
        assert (await runs.follow(run.id, after=client.last_id)).status_code == 204


async def test_a_user_who_may_not_copy_keeps_the_run_as_it_was(
    make_redis: MakeRedis, caplog: pytest.LogCaptureFixture
) -> None:
    server = make_redis()
    server.ask("ACL", "SETUSER", "default", "-copy")
    run = Run(server)
    await run.append(*[items(n) for n in range(5)])
    expected = await run.read()
    await run.end()
    await run.compacted()
    assert (await run.read())[:-1] == expected
    assert "+copy" in caplog.text
    left = [name for name in server.names() if name.endswith(":new")]
    assert all(server.ask("PTTL", name) > 0 for name in left)
    await run.aclose()


async def test_in_a_cluster_too(make_redis: MakeRedis) -> None:
    cluster = Cluster(make_redis)
    try:
        run = Run(cluster)
        await run.append(*[items(n) for n in range(300)], items(1, 2, 3))
        expected = await run.read()
        await run.end()
        await run.compacted()
        assert (await run.read())[:-1] == expected
        await run.aclose()
    finally:
        cluster.close()


async def test_a_run_of_large_events_stays_as_it_is(run_in_redis: Run) -> None:
    run = run_in_redis
    await run.append(*[items(12_000 + n) for n in range(20)])
    entries = run.server.ask("XLEN", run.name)
    expected = await run.read()
    await run.end()
    await run.compacted()
    assert run.server.ask("XLEN", run.name) == entries + 1
    assert (await run.read())[:-1] == expected
    assert not [name for name in run.server.names() if name.endswith(":new")]
