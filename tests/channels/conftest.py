"""What the tests of channels share: each broker, and each event loop, in turn."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import anyio
import pytest

from channel_clients import MakeChannels, Run
from redis_checks import MakeRedis
from redis_server import RedisServer
from sserpent.channels import Channels
from virtual_time import run_on_asyncio, run_on_trio


@pytest.fixture(params=["memory"])
def make_channels(request: pytest.FixtureRequest) -> MakeChannels:
    """Makes channels, to be entered."""
    return Channels


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test on an event loop."""
    return partial(anyio.run, backend=request.param)


@pytest.fixture(params=[run_on_asyncio, run_on_trio], ids=["asyncio", "trio"])
def run_in_time(request: pytest.FixtureRequest) -> Run:
    """Runs a test on an event loop whose clock jumps."""
    run: Run = request.param
    return run


@pytest.fixture
def make_redis() -> Iterator[MakeRedis]:
    servers: list[RedisServer] = []

    def make(**options: str) -> RedisServer:
        servers.append(RedisServer(**options))
        return servers[-1]

    yield make
    for server in servers:
        server.close()
