"""What the tests of channels share: each broker, and each event loop, in turn."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from functools import partial
from itertools import count

import anyio
import pytest

from channel_clients import MakeChannels, Run
from channel_places import Place
from redis_checks import MakeRedis
from redis_server import RedisServer
from sserpent.channels import Channels


@pytest.fixture(scope="module", autouse=True)
def closed_background() -> Iterator[None]:
    """Closes what tests have published without an event loop. It would look for its Redis as long
    as the process lives, and take memory while another test counts its own."""
    yield
    background = sys.modules.get("sserpent.channels.redis.background")
    current = background and background._current
    if current is not None:
        asyncio.run_coroutine_threadsafe(current._close(), current.loop).result(30)


@pytest.fixture(params=["memory"])
def make_channels(request: pytest.FixtureRequest) -> MakeChannels:
    """Makes channels, to be entered."""
    return Channels


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test on an event loop."""
    return partial(anyio.run, backend=request.param)


@pytest.fixture
def make_redis() -> Iterator[MakeRedis]:
    servers: list[RedisServer] = []

    def make(**options: str) -> RedisServer:
        servers.append(RedisServer(**options))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


_numbers = count()


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    """A Redis that tests share: each has a prefix of its own."""
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "memory":
        return Place(Channels, None)
    server: RedisServer = request.getfixturevalue("redis")
    prefix = f"place{next(_numbers)}"
    return Place(lambda: Channels(server.url, prefix=prefix), server)


places = pytest.mark.parametrize(
    ("place", "anyio_backend"),
    [("memory", "asyncio"), ("memory", "trio"), ("redis", "asyncio")],
    indirect=True,
)


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test that takes a place in each, on the event loops that it has."""
    if "place" in metafunc.fixturenames:
        metafunc.definition.add_marker(places)
