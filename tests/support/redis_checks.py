"""A broker on a real Redis server, and what is published to it while that fails."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio

from followers import item, number_of
from proxy import Proxy
from redis_server import Cluster, RedisServer
from sserpent.channels import BrokerError, BrokerUnavailable, PublishUncertain
from sserpent.channels.history.position import HistoryKey
from sserpent.channels.history.ring import Retention
from sserpent.channels.redis import Pace, RedisBroker

LIMITS = Retention(history=10_000, history_ttl=3_600, history_bytes=2**24)
ROOM = HistoryKey("rooms", "lobby")
QUICK = Pace(timeout=1.0, probe=0.2, compare=0.3)
ALL = 1, 10**9
MakeRedis = Callable[..., RedisServer]


async def until(condition: Callable[[], Any], timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        await anyio.sleep(0.005)


async def publish(broker: RedisBroker, *numbers: int, stream: HistoryKey = ROOM) -> list[str]:
    return [await broker.publish(stream, LIMITS, item(number)) for number in numbers]


async def publish_until_it_works(broker: RedisBroker, number: int) -> str:
    while (published := await outcome_of(broker, number)) in (BrokerUnavailable, PublishUncertain):
        await asyncio.sleep(0.05)
    return str(published)


# What a publish was refused with, or the event's id.
Outcome = str | type[BrokerError]
Outcomes = dict[int, Outcome]


async def outcome_of(broker: RedisBroker, number: int) -> Outcome:
    """Publishes, and returns the event's id, or what it was refused with."""
    try:
        return await broker.publish(ROOM, LIMITS, item(number))
    except BrokerError as error:
        return type(error)


async def publish_all(broker: RedisBroker, outcomes: Outcomes, numbers: range) -> None:
    for number in numbers:
        outcomes[number] = await outcome_of(broker, number)


async def numbers_in(broker: RedisBroker) -> list[int]:
    return [number_of(entry) for entry in (await broker.read(ROOM, LIMITS, *ALL))[1]]


def run(
    server: RedisServer | Cluster,
    check: Callable[[RedisBroker], Awaitable[None]],
    pace: Pace = QUICK,
) -> None:
    """Runs a test with a broker on a server."""

    errors: list[dict[str, Any]] = []

    async def check_it() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, error: errors.append(error))
        broker = RedisBroker(server.url, pace=pace)
        try:
            await asyncio.wait_for(check(broker), 90)
        finally:
            await broker.aclose()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left
        gc.collect()  # a task that has failed says so then

    asyncio.run(check_it())
    assert not errors, errors


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.to_thread(function, *args)


def run_behind_proxy(
    server: RedisServer,
    check: Callable[[RedisBroker, Proxy], Awaitable[None]],
    pace: Pace = QUICK,
) -> None:
    """Runs a check on a broker whose connections go through a proxy."""

    async def check_it() -> None:
        async with Proxy(server.port) as proxy:
            broker = RedisBroker(f"redis://127.0.0.1:{proxy.port}", pace=pace)
            try:
                await check(broker, proxy)
            finally:
                await broker.aclose()

    asyncio.run(check_it())


def tls_options(folder: Path) -> dict[str, str]:
    """Returns options of a server that has the certificate of a folder."""
    return {
        "tls_cert_file": f"{folder}/site.crt",
        "tls_key_file": f"{folder}/site.key",
        "tls_ca_cert_file": f"{folder}/site.crt",
        "tls_auth_clients": "no",
    }
