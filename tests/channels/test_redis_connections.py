"""Connections that break, and what nobody expects of them: each is made again, and said once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deployments import make_certificate
from event_loops import asyncio_only
from followers import Notes, item
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
    tls_options,
    until,
)
from redis_server import Cluster, RedisServer, Sentinel
from servers import free_port
from sserpent._runtime.loops import end
from sserpent.channels import BrokerUnavailable, Channels
from sserpent.channels.history.broker import Item, Refused
from sserpent.channels.history.position import HistoryKey
from sserpent.channels.redis import RedisBroker, session
from sserpent.channels.redis.client import cluster, connection
from sserpent.channels.redis.client.connection import LOST, Server, first_of, send
from sserpent.channels.redis.history import RedisHistory

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


def histories_of(broker: RedisBroker) -> list[HistoryKey]:
    """Those of its session that are in memory."""
    gc.collect()
    found = [each for each in gc.get_objects() if isinstance(each, RedisHistory)]
    return [each.key for each in found if each._source is broker._session]


def test_c12_who_asks_while_redis_is_away_leaves_nothing_behind(server: RedisServer) -> None:
    """However long it is away, and however many clients try again."""

    async def check(broker: RedisBroker) -> None:
        await broker.follow(ROOM, LIMITS, Notes())
        server.kill()
        rooms = [HistoryKey("rooms", str(number)) for number in range(300)]
        asked = [broker.follow(room, LIMITS, Notes()) for room in rooms]
        errors = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(error) for error in errors} == {BrokerUnavailable}
        del errors
        await until(lambda: histories_of(broker) == [ROOM], timeout=60)

    run(server, check, QUICK._replace(timeout=0.5))


def test_c12_a_connection_takes_few_turns_of_a_slow_network(server: RedisServer) -> None:
    async def check(broker: RedisBroker, proxy: Proxy) -> None:
        proxy.delay = 0.2  # and a connection may take ten times as long
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        await publish(broker, 1)
        await until(lambda: notes.brief == [1])

    run_behind_proxy(server, check, QUICK._replace(timeout=4))


def clients_of(server: RedisServer) -> list[str]:
    return server.clients("normal") + server.clients("pubsub")


def test_an_answer_that_nobody_asked_for_ends_the_connection_alone(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def check(broker: RedisBroker, proxy: Proxy) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        await publish(broker, 1)
        connections = clients_of(server)
        proxy.say(b"+what nobody has asked\r\n")
        await until(lambda: not {*clients_of(server)} & {*connections})
        await publish(broker, 2)
        await until(lambda: notes.brief == [1, 2])

    run_behind_proxy(server, check)
    assert not [each for each in caplog.records if each.exc_info], caplog.text


def test_a_server_that_has_moved_while_a_connection_is_made_is_left(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        connect, made = broker._server.connect, asyncio.Event()
        calls = 0

        async def connect_slowly(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls <= 2:  # one for commands, and one for subscriptions
                await made.wait()
            return await connect(*args)

        broker._server.connect = connect_slowly  # type: ignore[method-assign]
        published = asyncio.create_task(broker.publish(ROOM, LIMITS, item(1)))
        following = asyncio.create_task(broker.follow(ROOM, LIMITS, Notes()))
        await until(lambda: calls == 2)
        assert broker._session is not None
        broker._session.servers.renew(broker._session._followed[ROOM])
        made.set()
        await asyncio.gather(published, following)
        assert calls == 4

    run(server, check, QUICK._replace(timeout=10))


@pytest.mark.parametrize("name", ["_parser", "_reader", "_writer"])
def test_without_a_private_name_of_redis_py_everything_works(
    server: RedisServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(owner: Any, asked: str, *default: Any) -> Any:
        return default[0] if asked == name else getattr(owner, asked, *default)

    monkeypatch.setattr(connection, "getattr", without, raising=False)

    async def check(broker: RedisBroker) -> None:
        notes = Notes()
        await broker.follow(ROOM, LIMITS, notes)
        await asyncio.gather(*[publish(broker, number) for number in range(200)])
        await until(lambda: len(notes.told) == 200)
        assert notes.brief == await numbers_in(broker)

    run(server, check)


@pytest.mark.parametrize("scheme", ["rediss", "unix"])
@asyncio_only
async def test_tls_and_unix_sockets(scheme: str, make_redis: MakeRedis, tmp_path: Path) -> None:
    if scheme == "unix":
        make_redis(unixsocket=f"{tmp_path}/redis.sock")
        url = f"unix://{tmp_path}/redis.sock?db=3"
    else:
        make_certificate(tmp_path)
        port = free_port()
        make_redis(tls_port=str(port), **tls_options(tmp_path))
        url = f"rediss://localhost:{port}/3?ssl_ca_certs={tmp_path}/site.crt"
    channels = [Channels(url), Channels(url)]
    async with channels[0], channels[1]:
        here, there = (each.channel("rooms") for each in channels)
        async with here.listen() as events:
            await there.publish_many(range(1_000))
            for number in range(1_000):
                assert (await anext(events)).data == number


def test_a_connection_that_is_slow_and_answers_is_kept(server: RedisServer) -> None:
    """Many ask for long histories at once, and the last answer comes late."""

    async def check(broker: RedisBroker, proxy: Proxy) -> None:
        rooms = [HistoryKey("rooms", str(number)) for number in range(20)]
        for room in rooms:
            for _ in range(4):
                await broker.publish(room, LIMITS, Item(b"data: %b\n\n" % (b" " * 60_000)))
        (connection,) = server.clients("normal")
        proxy.delay = 0.03  # for each 64 KiB
        reading = [broker.read(room, LIMITS, *ALL) for room in rooms]
        await asyncio.gather(*reading, return_exceptions=True)
        assert server.clients("normal") == [connection]

    run_behind_proxy(server, check, QUICK._replace(timeout=4))
