"""Connections that break, and what nobody expects of them: each is made again, and said once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable
from typing import Any

import pytest

from event_loops import asyncio_only
from followers import Notes, item
from redis_checks import (
    LIMITS,
    QUICK,
    ROOM,
    MakeRedis,
    numbers_in,
    outcome_of,
    publish,
    run,
    until,
)
from redis_server import Cluster, RedisServer, Sentinel
from sserpent._runtime.loops import end
from sserpent.channels import BrokerUnavailable
from sserpent.channels.history.broker import Refused
from sserpent.channels.history.position import HistoryKey
from sserpent.channels.redis import RedisBroker, session
from sserpent.channels.redis.client import cluster
from sserpent.channels.redis.client.connection import LOST, Server, first_of, send

pytestmark = [pytest.mark.once, pytest.mark.anyio]


@pytest.fixture
def server(make_redis: MakeRedis) -> RedisServer:
    return make_redis()


# Errors of tasks that end together


async def fail(error: Exception) -> None:
    raise error


async def fail_when_cancelled(error: Exception) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        raise error


async def end_them(*tasks: asyncio.Future[Any]) -> None:
    await asyncio.sleep(0)
    await end(*tasks)


@pytest.mark.parametrize("gather", [first_of, end_them])
@pytest.mark.parametrize("second", [fail, fail_when_cancelled])
@asyncio_only
async def test_an_error_of_each_task_is_taken(gather: Any, second: Callable[..., Any]) -> None:
    said: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: said.append(context))
    tasks = [
        loop.create_task(fail(OSError("first"))),
        loop.create_task(second(OSError("second"))),
    ]
    with contextlib.suppress(OSError):
        await gather(*tasks)
    del tasks
    gc.collect()
    await asyncio.sleep(0)
    assert said == []


@asyncio_only
async def test_what_is_not_expected_of_a_connection_is_raised_before_its_end() -> None:
    tasks = [asyncio.ensure_future(fail(each)) for each in (OSError(), KeyError("what"))]
    with pytest.raises(KeyError, match="what"):
        await first_of(*tasks)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_connection_that_is_closed_while_something_is_sent_is_lost(
    server: RedisServer, loop: str
) -> None:
    async def check() -> None:
        connection, _ = await Server(server.url).connect(5)
        connection._writer.transport.abort()
        for _ in range(3):  # in which it is told
            await asyncio.sleep(0)
        with pytest.raises(LOST):
            await send(connection, [("PING",)])

    with contextlib.closing(pytest.importorskip(loop).new_event_loop()) as running:
        running.run_until_complete(check())


# Errors that nobody expects


class Fails:
    """Does what a function does, after it has failed some times."""

    def __init__(self, does: Callable[..., Any], times: int = 2) -> None:
        self._does = does
        self._times = times
        self.calls = 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.calls += 1
        if self.calls <= self._times:
            raise ZeroDivisionError("what nobody expects")
        return self._does(*args, **options)


def once_with_its_traceback(caplog: pytest.LogCaptureFixture) -> bool:
    records = [each for each in caplog.records if "what nobody expects" in each.getMessage()]
    tracebacks = [each for each in caplog.records if each.exc_info]
    return len(records) <= 1 and len(tracebacks) == 1


def test_a_connection_for_commands_is_made_again(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def check(broker: RedisBroker) -> None:
        broker._server.connect = fails = Fails(broker._server.connect, 1)  # type: ignore[method-assign]
        await publish(broker, 1)
        assert fails.calls == 2

    run(server, check, QUICK._replace(timeout=10))
    assert once_with_its_traceback(caplog), caplog.text


def test_a_connection_for_subscriptions_is_made_again(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    class Raises(Notes):
        def receive(self, entry: Any) -> bool:
            full = super().receive(entry)
            if len(self.told) == 1:
                raise ZeroDivisionError("what nobody expects")
            return full

    async def check(broker: RedisBroker) -> None:
        notes = Raises()
        await broker.follow(ROOM, LIMITS, notes)
        await publish(broker, 1)
        await until(lambda: notes.brief == [1])
        await publish(broker, 2)
        await until(lambda: notes.brief == [1, 2])

    run(server, check, QUICK._replace(timeout=10))
    assert once_with_its_traceback(caplog), caplog.text


def test_a_history_is_read_again(
    server: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "read_head", Fails(session.read_head, 1))

    async def check(broker: RedisBroker) -> None:
        await broker.follow(ROOM, LIMITS, Notes())

    run(server, check, QUICK._replace(timeout=10))
    assert once_with_its_traceback(caplog), caplog.text


def test_the_nodes_of_a_cluster_are_looked_for_again(
    make_redis: MakeRedis, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = Cluster(make_redis)
    fails = Fails(cluster._slots)
    monkeypatch.setattr(cluster, "_slots", fails)

    async def check(broker: RedisBroker) -> None:
        await publish(broker, 1)
        await until(lambda: fails.calls > 3)

    try:
        run(nodes, check, QUICK._replace(timeout=10))
    finally:
        nodes.close()
    assert once_with_its_traceback(caplog), caplog.text


def test_a_master_is_looked_for_again(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    sentinel = Sentinel(server)

    async def check(broker: RedisBroker) -> None:
        broker._server.resolve = fails = Fails(broker._server.resolve)  # type: ignore[method-assign]
        broker.open()
        await until(lambda: fails.calls > 3)
        await publish(broker, 1)

    try:
        run(sentinel, check, QUICK._replace(timeout=10))
    finally:
        sentinel.close()
    assert once_with_its_traceback(caplog), caplog.text


def test_a_publish_that_cannot_be_sent_fails_alone(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        lone = ROOM._replace(key="\ud800")
        future = broker.publish_soon(lone, LIMITS, item(1))
        with pytest.raises(UnicodeEncodeError):
            await asyncio.wait_for(asyncio.wrap_future(future), 5)
        await publish(broker, 2)

    run(server, check)


def test_what_is_published_after_a_connection_was_closed_is_not_in_doubt(
    server: RedisServer,
) -> None:
    """No history shows whether it was carried out: it is the first event of each."""

    async def check(broker: RedisBroker) -> None:
        for number in range(20):
            room = HistoryKey("rooms", str(number))
            await publish(broker, number, stream=HistoryKey("rooms", "another"))
            server.kill_clients("normal")
            await publish(broker, number, stream=room)

    run(server, check)


def test_after_an_answer_that_refuses_a_lost_connection_is_made_again_at_once(
    server: RedisServer,
) -> None:
    """As after any answer, however long the pauses were before."""

    async def check(broker: RedisBroker) -> None:
        await publish(broker, 1)
        server.ask("CONFIG", "SET", "min-replicas-to-write", "1")
        assert await outcome_of(broker, 2) is BrokerUnavailable
        server.ask("CONFIG", "SET", "min-replicas-to-write", "0")
        server.ask("CONFIG", "SET", "maxmemory", "1")
        assert await outcome_of(broker, 3) is Refused
        server.ask("CONFIG", "SET", "maxmemory", "0")
        server.kill_clients("normal")
        await publish(broker, 4)  # within the timeout, which is as long as the longest pause
        assert await numbers_in(broker) == [1, 4]

    run(server, check)
