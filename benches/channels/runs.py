"""Compares a token of a run that one client follows with one of the same generator streamed: the
processor time of the server, and of Redis."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import redis

from benches.delivery.in_process import NullSend
from benches.harness.callgrind import Counted
from benches.harness.servers import Server, read_events, request, uvicorn
from benches.harness.timing import Table, Turn, in_turns
from redis_server import RedisServer

APP = "benches.channels.runs_app:app"
STREAMS, TOKENS, PAUSE = 40, 100, 0.02
TIME = "runs, a token"
IN_REDIS = "runs, a token in Redis"
CASE = f"{1 / PAUSE:.0f} tokens a second, {STREAMS} streams"
A_TOKEN = "a token of a run, in process"


def run(quick: bool) -> Iterable[Table]:
    if quick:
        return
    time = Table(TIME, "µs of the server's processor time per token")
    in_redis = Table(IN_REDIS, "µs of Redis's processor time per token")
    with ExitStack() as stack:
        contenders, environment, broker = ["generator", "memory"], {}, None
        if shutil.which("redis-server") is not None:
            broker = stack.enter_context(closing(RedisServer()))
            contenders.append("redis")
            environment["REDIS_URL"] = broker.url
        server = stack.enter_context(closing(Server(uvicorn(APP), **environment)))
        turns: dict[tuple[str, str], Turn] = {
            (CASE, name): partial(streamed, server, broker, in_redis, name) for name in contenders
        }
        in_turns([time], turns, rounds=3)
    yield time
    if broker is not None:
        yield in_redis


def streamed(
    server: Server, broker: RedisServer | None, in_redis: Table, name: str
) -> tuple[float]:
    """Follows all streams to their last token."""
    with ExitStack() as stack:
        before, redis_before = server.cpu_seconds(), used_by(broker)
        socks = [stack.enter_context(server.connect()) for _ in range(STREAMS)]
        for sock in socks:
            sock.sendall(request(f"/{name}?count={TOKENS}&pause={PAUSE}"))
        # A run says its end in an event.
        read_events(socks, TOKENS if name == "generator" else TOKENS + 1)
        spent = server.cpu_seconds() - before
        if name == "redis":
            in_redis.add(CASE, name, (used_by(broker) - redis_before) / (STREAMS * TOKENS) * 1e6)
    return (spent / (STREAMS * TOKENS) * 1e6,)


def used_by(broker: RedisServer | None) -> float:
    """The processor time that Redis has used so far, in seconds."""
    if broker is None:
        return 0.0
    with redis.Redis(port=broker.port) as client:
        told: Any = client.info("cpu")
    return float(told["used_cpu_user"]) + float(told["used_cpu_sys"])


async def follow(name: str, count: int) -> None:
    """One stream of so many tokens, without a server."""
    from .runs_app import app

    await NullSend(f"/{name}", b"count=%d" % count).run(app)


def counted() -> Iterator[Counted]:
    for name in ("memory", "generator"):
        yield Counted(A_TOKEN, name, 500, partial(follow, name), process="runs")
