"""Where runs are kept and driven, as fixtures: in memory on each event loop, and on Redis.

A test module imports what it needs of them, and `setting`.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import anyio
import pytest

import event_loops
from channel_clients import MakeChannels, Run
from redis_server import RedisServer
from sserpent.channels import Channels

_numbers = itertools.count()


@pytest.fixture(params=["memory-asyncio", "memory-trio", "redis-asyncio"])
def setting(request: pytest.FixtureRequest) -> list[str]:
    """A broker, and an event loop that it runs on."""
    return str(request.param).split("-")


# For a test whose clock jumps: that of Redis does not. `test_redis_runs` has real processes for the
# same rules.
in_memory = pytest.mark.parametrize("setting", ["memory-asyncio", "memory-trio"], indirect=True)
in_memory_on_asyncio = pytest.mark.parametrize("setting", ["memory-asyncio"], indirect=True)


@pytest.fixture
def anyio_backend(setting: list[str], request: pytest.FixtureRequest) -> Any:
    """The event loop of a test that is marked `anyio`."""
    return event_loops.backend(setting[1], request)


@pytest.fixture
def run(setting: list[str]) -> Run:
    """Runs a test on an event loop."""
    return partial(anyio.run, backend=setting[1])


@pytest.fixture
def make_channels(setting: list[str], request: pytest.FixtureRequest) -> MakeChannels:
    """Makes channels, to be entered."""
    if setting[0] == "memory":
        return Channels
    server: RedisServer = request.getfixturevalue("kept_redis")
    return partial(Channels, server.url, prefix=f"test-runs-{next(_numbers)}")
