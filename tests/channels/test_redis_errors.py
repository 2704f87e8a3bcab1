"""Redis refuses: nothing is stored then, and the one who publishes is told why."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from redis.crc import key_slot

from event_loops import asyncio_only
from followers import Notes, item
from proxy import Proxy
from redis_checks import (
    LIMITS,
    QUICK,
    ROOM,
    MakeRedis,
    numbers_in,
    publish,
    run,
    run_behind_proxy,
    until,
)
from redis_server import Cluster, RedisServer
from sserpent.channels import BrokerUnavailable, Channels, PublishUncertain
from sserpent.channels.history.broker import Item
from sserpent.channels.history.position import HistoryKey
from sserpent.channels.history.ring import Retention
from sserpent.channels.redis import Pace, RedisBroker
from sserpent.channels.redis.client.command import Publish
from sserpent.channels.redis.names import name_of
from sserpent.channels.redis.scripts import MARGIN

pytestmark = [pytest.mark.once, pytest.mark.anyio]

RUN = HistoryKey("answers", '["","","one"]')
# Of channels, and of runs.
RIGHTS = (
    "~sserpent:* &sserpent:* +evalsha +script|load +xadd +xtrim +xrange +xrevrange +pexpire +time "
    "+publish +spublish +subscribe +ssubscribe +unsubscribe +sunsubscribe +ping +info +select "
    "+hget +hmget +hset +hsetnx +unlink +copy +asking +cluster|slots"
)


def set_user(server: RedisServer, *rights: str) -> None:
    server.ask("ACL", "SETUSER", "app", "reset", "on", ">secret", *RIGHTS.split(), *rights)


def as_user(server: RedisServer | Cluster) -> str:
    return server.url.replace("//", "//app:secret@")


@contextlib.asynccontextmanager
async def logging_as_user(server: RedisServer | Cluster, pace: Pace = QUICK) -> Any:
    broker = RedisBroker(as_user(server), pace=pace)
    try:
        yield broker
    finally:
        await broker.aclose()


def stored(server: RedisServer) -> list[str]:
    return [name for name in server.names() if not name.endswith(":0:")]


@pytest.fixture
def server(make_redis: MakeRedis) -> RedisServer:
    return make_redis()


# Rights


@pytest.mark.parametrize(
    ("without", "named"),
    [
        (["resetchannels"], "+publish with &sserpent:*"),
        (["-publish"], "+publish with &sserpent:*"),
        (["-pexpire"], "+pexpire with ~sserpent:*"),
        (["-xtrim"], "+xtrim with ~sserpent:*"),
        (["-xadd"], "+xadd with ~sserpent:*"),
        (["-xrevrange"], "+xrevrange with ~sserpent:*"),
        (["resetkeys", "~other:*"], "+xadd with ~sserpent:*"),
        (["-evalsha"], "'evalsha' command"),
        (["-script"], "'script|load' command"),
        (["-xtrim", "-pexpire", "resetchannels"], "+publish with &sserpent:*, +xtrim with"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
@asyncio_only
async def test_a_right_that_is_missing_is_named_and_nothing_is_stored(
    server: RedisServer, without: list[str], named: str, caplog: pytest.LogCaptureFixture
) -> None:
    set_user(server, *without)
    async with logging_as_user(server, Pace(timeout=30)) as broker:
        for number in range(3):
            with pytest.raises(BrokerUnavailable) as raised:
                await asyncio.wait_for(broker.publish(ROOM, LIMITS, item(number)), 20)
            assert named in str(raised.value)
            assert str(server.port) in str(raised.value)
            assert "secret" not in str(raised.value)
        assert stored(server) == []
        set_user(server)
        await publish(broker, 4)
        assert await numbers_in(broker) == [4]
    said = [each for each in caplog.messages if named in each]
    assert len(said) == 1, caplog.messages
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("without", "named"),
    [
        ("-subscribe", r"refuses a subscription: .*'subscribe'"),
        ("-xadd", r"\+xadd with ~sserpent:"),
        ("-evalsha", "'evalsha' command"),
        ("-xrange", r"\+xrange with ~sserpent:"),
    ],
)
@pytest.mark.parametrize("call", ["ready", "listen", "snapshot"])
@asyncio_only
async def test_whoever_waits_for_what_is_published_is_told_which_right_is_missing(
    server: RedisServer, without: str, named: str, call: str
) -> None:
    set_user(server, without)

    async def state() -> str:
        return "state"

    async with Channels(as_user(server), publish_timeout=2) as channels:
        listener = channels.channel("news").listen(snapshot=state if call == "snapshot" else None)
        wait = channels.ready if call == "ready" else listener.__aenter__
        with pytest.raises(BrokerUnavailable, match=named) as raised:
            await wait()
        assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("without", "named"),
    [
        ("-hmget", r"\+hmget.* with ~sserpent:\*"),
        ("-hset", r"\+hset.* with ~sserpent:\*"),
        ("-unlink", r"\+unlink.* with ~sserpent:\*"),
        ("-get", r"\+get.* with ~sserpent:\*"),
        ("-set", r"\+set.* with ~sserpent:\*"),
    ],
)
@asyncio_only
async def test_a_right_that_a_run_needs_is_named_and_its_owner_is_not(
    server: RedisServer, without: str, named: str
) -> None:
    set_user(server, "+get", "+set", "+del", without)

    async def answer() -> AsyncIterator[int]:
        yield 1

    async with Channels(as_user(server), publish_timeout=2) as channels:
        runs = channels.runs("answers")
        with pytest.raises(BrokerUnavailable, match=named) as raised:
            await runs.start(answer(), owner="zoe@example.com", key="chat")
        assert "answers" in str(raised.value)
        assert "zoe" not in str(raised.value)


@asyncio_only
async def test_runs_need_no_more_rights_than_the_page_names(server: RedisServer) -> None:
    page = (Path(__file__).parents[2] / "docs/channels-redis.md").read_text(encoding="utf-8")
    (rights,) = re.findall(r"```text\n(~sserpent:[^`]+)```", page)
    (of_runs, of_keys) = re.findall(r"For \[runs\].*?`(.+?)`, and with `key=` `(.+?)`", page)[0]
    given = [*rights.split(), *of_runs.split(), *of_keys.split()]
    assert "+hget" not in given
    server.ask("ACL", "SETUSER", "app", "reset", "on", ">secret", *given)

    async def answer() -> AsyncIterator[int]:
        yield 1

    async with Channels(as_user(server)) as channels:
        runs = channels.runs("answers")
        for _ in range(2):
            run = await runs.start(answer(), owner="ada", key="chat", if_active="stop")
            await runs.stop(run.id, owner="ada")
            await run.wait()
    denied = [each["object"] for each in server.ask("ACL", "LOG")]
    assert [each for each in denied if not each.startswith("client|")] == []


@asyncio_only
async def test_a_full_redis_is_not_taken_for_a_right_that_is_missing(server: RedisServer) -> None:
    page = (Path(__file__).parents[2] / "docs/channels-redis.md").read_text(encoding="utf-8")
    (rights,) = re.findall(r"```text\n(~sserpent:[^`]+)```", page)
    server.ask("ACL", "SETUSER", "app", "reset", "on", ">secret", *rights.split())
    server.ask("CONFIG", "SET", "maxmemory", "1")
    async with logging_as_user(server) as broker:
        with pytest.raises(BrokerUnavailable, match="maxmemory"):
            await broker.position(ROOM, LIMITS)


@asyncio_only
async def test_a_url_of_one_server_for_a_cluster_is_said(make_redis: MakeRedis) -> None:
    cluster = Cluster(make_redis)
    broker = RedisBroker(cluster.nodes[0].url, pace=QUICK)
    rooms = [HistoryKey("rooms", str(number)) for number in range(20)]
    elsewhere = next(
        room
        for room in rooms
        if cluster.node_of(key_slot(name_of("sserpent", 0, room))) is not cluster.nodes[0]
    )
    try:
        with pytest.raises(BrokerUnavailable, match=r"begins with redis\+cluster://"):
            await broker.publish(elsewhere, LIMITS, item(1))
    finally:
        await broker.aclose()
        cluster.close()


@pytest.mark.parametrize("command", ["PUBLISH", "PEXPIRE", "XTRIM"])
def test_a_command_that_has_another_name_is_named_and_nothing_is_stored(
    make_redis: MakeRedis, command: str
) -> None:
    server = make_redis(rename_command=f'{command} ""')

    async def check(broker: RedisBroker) -> None:
        with pytest.raises(BrokerUnavailable, match=rf"\+{command.lower()}.*Unknown Redis command"):
            await broker.publish(ROOM, LIMITS, item(1))
        assert stored(server) == []

    run(server, check, QUICK._replace(timeout=30))


@pytest.mark.parametrize(
    "without", ["resetchannels", "-publish", "-pexpire", "-xtrim", "-xrange", "-xadd"]
)
@asyncio_only
async def test_a_right_that_is_taken_away_in_between(server: RedisServer, without: str) -> None:
    """What is refused is not stored, and what is stored is not refused."""

    def number_of_newest() -> int:
        (key,) = stored(server)
        ((_, fields),) = server.ask("XREVRANGE", key, "+", "-", "COUNT", 1)
        return int(fields["body"].removeprefix("data: "))

    set_user(server)
    limits = LIMITS._replace(history_bytes=1_000)
    async with logging_as_user(server, QUICK._replace(timeout=30)) as broker:
        for number in range(40):
            if number == 20:
                set_user(server, without)
            try:
                await broker.publish(ROOM, limits, item(number))
            except BrokerUnavailable:
                assert number_of_newest() != number
            else:
                assert number_of_newest() == number
        with pytest.raises(BrokerUnavailable):  # one that needs them all
            await broker.publish(ROOM, limits, item(1_000))
        set_user(server)
        await broker.publish(ROOM, limits, item(2_000))
        assert number_of_newest() == 2_000


@asyncio_only
async def test_a_node_of_a_cluster_refuses_its_user(make_redis: MakeRedis) -> None:
    cluster = Cluster(make_redis)
    try:
        for node in cluster.nodes:
            set_user(node, "resetchannels")
        streams = [HistoryKey("rooms", str(number)) for number in range(6)]
        async with logging_as_user(cluster, QUICK._replace(timeout=10)) as broker:
            for stream in streams:
                with pytest.raises(BrokerUnavailable, match=r"\+spublish with &sserpent:\*"):
                    await broker.publish(stream, LIMITS, item(1))
            assert [stored(node) for node in cluster.nodes] == [[], [], []]
            for node in cluster.nodes:
                set_user(node)
            for stream in streams:
                await broker.publish(stream, LIMITS, item(2))
    finally:
        cluster.close()


# What Redis refuses for a while


def make_it_full(server: RedisServer) -> None:
    server.ask("CONFIG", "SET", "maxmemory", "1")


def make_it_fail_to_save(server: RedisServer) -> None:
    server.ask("CONFIG", "SET", "save", "3600 1")
    (server._folder / "dump-here").mkdir()
    server.ask("CONFIG", "SET", "dbfilename", "dump-here")
    server.ask("BGSAVE")


def make_it_want_replicas(server: RedisServer) -> None:
    server.ask("CONFIG", "SET", "min-replicas-to-write", "1")


def make_it_a_replica(server: RedisServer) -> None:
    server.ask("REPLICAOF", "127.0.0.1", "1")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (make_it_full, "maxmemory"),
        (make_it_fail_to_save, "MISCONF|RDB snapshots"),
        (make_it_want_replicas, "(?i)replicas"),
        (make_it_a_replica, "(?i)read.?only"),
    ],
)
def test_what_is_refused_is_not_stored(
    make_redis: MakeRedis, change: Callable[[RedisServer], None], reason: str
) -> None:
    server = make_redis(enable_protected_configs="yes")

    async def check(broker: RedisBroker) -> None:
        await publish(broker, 1)
        change(server)
        if change is make_it_fail_to_save:
            await until(
                lambda: server.ask("INFO", "persistence")["rdb_last_bgsave_status"] == "err"
            )
        with pytest.raises(BrokerUnavailable, match=reason):
            await broker.publish(ROOM, LIMITS, item(2))
        (key,) = stored(server)
        assert server.ask("XLEN", key) == 1

    run(server, check)


# Runs


async def start(broker: RedisBroker, run: HistoryKey = RUN) -> str | None:
    return await broker.runs.start(run, 60, lambda reason: None)


@pytest.mark.parametrize("without", ["resetchannels", "-publish", "-pexpire", "-hset", "-unlink"])
@asyncio_only
async def test_a_run_that_is_refused_leaves_its_id(server: RedisServer, without: str) -> None:
    set_user(server)
    async with logging_as_user(server) as broker:
        await publish(broker, 1)  # so that the connection is there
        set_user(server, without)
        with pytest.raises(BrokerUnavailable):
            await start(broker)
        assert not [name for name in stored(server) if "answers" in name]
        set_user(server)
        assert await start(broker) is not None


@pytest.mark.parametrize("seconds", [1.3, 2.5])
def test_a_run_that_is_not_started_in_time_leaves_its_id(
    server: RedisServer, seconds: float
) -> None:
    async def check(broker: RedisBroker) -> None:
        await publish(broker, 1)
        server.pause()
        starting = asyncio.create_task(start(broker))
        with pytest.raises(BrokerUnavailable):
            await starting
        await asyncio.sleep(seconds - QUICK.timeout)
        server.go_on()
        fence = None
        with contextlib.suppress(BrokerUnavailable):
            fence = await start(broker)
        assert fence is not None or await start(broker) is not None

    run(server, check)


def test_a_run_whose_start_is_cancelled_leaves_its_id(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        await publish(broker, 1)
        server.pause()
        starting = asyncio.create_task(start(broker))
        await asyncio.sleep(0.05)
        starting.cancel()
        await asyncio.wait([starting])
        server.go_on()
        assert await start(broker) is not None

    run(server, check)


def test_a_run_whose_start_was_lost_with_its_answer_leaves_its_id(server: RedisServer) -> None:
    async def check(broker: RedisBroker, proxy: Proxy) -> None:
        await publish(broker, 1)
        proxy.loses_answers = True
        with pytest.raises(BrokerUnavailable):
            await start(broker)
        assert [name for name in server.names() if name.endswith(":run")]
        proxy.loses_answers = False
        await until(lambda: not [name for name in server.names() if name.endswith(":run")])
        assert await start(broker) is not None

    run_behind_proxy(server, check)


@asyncio_only
async def test_an_end_that_is_refused_in_the_middle_is_an_end_the_next_time(
    server: RedisServer,
) -> None:
    last = Item(b"event: run-end\ndata: {}\n\n")
    set_user(server)
    async with logging_as_user(server) as broker:
        fence = await start(broker)
        await broker.runs.append(RUN, fence, [item(1)])
        set_user(server, "-hset")
        with pytest.raises(BrokerUnavailable):
            await broker.runs.end(RUN, fence, last)
        set_user(server)
        for _ in range(2):
            assert await broker.runs.end(RUN, fence, last)
            status = await broker.runs.status(RUN)
            assert status is not None
            assert status.end_body == last.body
            assert status.head.offset == 2


@asyncio_only
async def test_a_stop_that_is_refused_is_not_recorded(server: RedisServer) -> None:
    set_user(server)
    async with logging_as_user(server) as broker:
        fence = await start(broker)
        set_user(server, "-publish")
        with pytest.raises(BrokerUnavailable):
            await broker.runs.stop(RUN, "request")
        set_user(server)
        assert await broker.runs.renew(RUN, fence) is None
        assert await broker.runs.stop(RUN, "request")
        assert await broker.runs.renew(RUN, fence) == "request"


# What is known is not uncertain


def publish_again(
    broker: RedisBroker, number: int, seconds: float, limits: Retention = LIMITS
) -> asyncio.Future[bytes]:
    """Publishes as after an answer that was lost, so many seconds ago."""
    session = broker._home()
    sent: list[Publish] = []
    send, session.servers.send = session.servers.send, sent.append  # type: ignore[method-assign]
    future = session.publish(ROOM, limits, item(number))
    session.servers.send = send  # type: ignore[method-assign]
    sent[0].unsure_since = session.loop.time() - seconds
    send(sent[0])
    return future


def test_c3_a_history_that_has_its_first_event_shows_what_was_published(
    server: RedisServer,
) -> None:
    async def check(broker: RedisBroker) -> None:
        for number in range(250):
            await publish(broker, number)
        await publish_again(broker, 1_000, 600)
        assert await numbers_in(broker) == [*range(250), 1_000]

    run(server, check)


def test_c3_a_history_without_its_first_event_does_not(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        limits = LIMITS._replace(history=0)
        for number in range(2):
            await broker.publish(ROOM, limits, item(number))
        with pytest.raises(PublishUncertain, match="does not reach back"):
            await publish_again(broker, 1_000, 600)
        assert await numbers_in(broker) == [1]

    run(server, check)


def test_c3_a_history_that_may_have_expired_in_between_does_not(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        limits = LIMITS._replace(history_ttl=60)
        await broker.publish(ROOM, limits, item(0))
        with pytest.raises(PublishUncertain, match="does not reach back"):
            await publish_again(broker, 1_000, 60, limits)
        await publish_again(broker, 1_001, 50, limits)
        assert await numbers_in(broker) == [0, 1_001]

    run(server, check)


def test_c3_an_entry_that_a_follower_has_added_meanwhile_does_not(server: RedisServer) -> None:
    """Redis may have lost its data before: then it says nothing of what was stored by then."""

    async def check(broker: RedisBroker) -> None:
        await broker.follow(ROOM, LIMITS, Notes())
        with pytest.raises(PublishUncertain, match="does not reach back"):
            await publish_again(broker, 1_000, 600)
        await asyncio.sleep(2 * MARGIN / 1_000)
        await publish_again(broker, 1_001, 0)
        assert await numbers_in(broker) == [1_001]

    run(server, check)


def test_c3_what_is_refused_after_it_was_looked_for_is_not_uncertain(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        await publish(broker, 0)
        server.ask("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(BrokerUnavailable, match="used memory > 'maxmemory'"):
            await publish_again(broker, 1, 600)
        server.ask("CONFIG", "SET", "maxmemory", "0")
        server.ask("CONFIG", "SET", "min-replicas-to-write", "1")
        with pytest.raises(BrokerUnavailable, match=r"(?i)replicas"):
            await publish_again(broker, 2, 600)
        server.ask("CONFIG", "SET", "min-replicas-to-write", "0")
        assert await numbers_in(broker) == [0]

    run(server, check)


def test_c3_what_is_refused_before_it_was_looked_for_is_uncertain(server: RedisServer) -> None:
    async def check(broker: RedisBroker) -> None:
        await publish(broker, 0)
        server.ask("ACL", "SETUSER", "default", "-xrevrange")
        with pytest.raises(PublishUncertain):
            await publish_again(broker, 1, 600)
        server.ask("ACL", "SETUSER", "default", "+xrevrange")

    run(server, check)


@asyncio_only
async def test_subscribers_are_not_counted_if_their_answers_cannot_be_heard(
    server: RedisServer,
) -> None:
    set_user(server, "-subscribe")
    async with logging_as_user(server) as broker:
        with pytest.raises(BrokerUnavailable, match="refuses a subscription"):
            await broker.count_subscribers(ROOM)


@asyncio_only
async def test_who_waits_is_told_what_is_wrong_now(server: RedisServer) -> None:
    """Redis was away, and is back with a password."""
    async with logging_as_user(server) as broker:
        server.kill()
        with pytest.raises(BrokerUnavailable, match="Connect call failed"):
            await broker.follow(ROOM, LIMITS, Notes())
        server._options["requirepass"] = "another"
        server.start()
        error = ""
        with anyio.fail_after(30):
            while not re.search("(?i)password|authentication", error):
                with pytest.raises(BrokerUnavailable) as raised:
                    await broker.follow(ROOM, LIMITS, Notes())
                error = str(raised.value)
