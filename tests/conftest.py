"""What the tests share: both backends as a fixture, and real servers as a fixture."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import event_loops
import sserpent
from redis_server import RedisServer
from servers import SUPPORT, Server, commands
from sserpent._shutdown import streams


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-native",
        action="store_true",
        help="run without the compiled core; otherwise its absence is an error",
    )


def pytest_configure(config: pytest.Config) -> None:
    pure = os.environ.get("SSERPENT_PURE") == "1" or config.getoption("--no-native")
    if sserpent.BACKEND != "rust" and not pure:
        raise pytest.UsageError("the compiled core is missing: run `make build`, or --no-native")


def pytest_report_header() -> str:
    return f"sserpent backend: {sserpent.BACKEND}"


#: What takes longest to be there. The tests that need it begin a run, so that no worker waits for
#: them at its end.
SLOW = {"dist", "started_browser"}
#: What tests with these see does not depend on the core that this process has: they name theirs, or
#: look at the scripts of the examples' pages.
ONCE = {"core", "live_page"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if uses(item, ONCE):
            item.add_marker("once")
    items.sort(key=lambda item: not uses(item, SLOW))


def uses(item: pytest.Item, fixtures: set[str]) -> bool:
    return isinstance(item, pytest.Function) and not fixtures.isdisjoint(item.fixturenames)


@pytest.fixture(scope="session", params=["rs", "py"])
def core(request: pytest.FixtureRequest) -> ModuleType:
    """Each backend in turn."""
    if request.param == "py":
        from sserpent._core import pure

        return pure
    if request.config.getoption("--no-native"):
        pytest.skip("--no-native")
    from sserpent._core import compiled

    return compiled


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """The event loop of a test that is marked `anyio`."""
    return event_loops.backend(request.param, request)


@pytest.fixture(autouse=True)
def no_stream_is_left() -> Iterator[None]:
    """Fails the test after which a stream is still registered, which would be told of shutdowns and
    keep the signal handlers; a later test must not be blamed for it."""
    yield
    left = [each for each in streams._busy if each.is_alive()]
    streams._busy = ()
    assert not left, [each.open for loop in left for each in loop._by_address.values()]


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts servers that end with the test."""
    servers: list[Server] = []

    def start(command: list[str], cwd: Path = SUPPORT, **environment: str) -> Server:
        servers.append(Server(command, cwd, **environment))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def kept_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(commands(request.module.APP)[request.param])
    yield server
    server.close()


@pytest.fixture
def shared(kept_server: Server) -> Server:
    """A server of the module's `APP` that its other tests use too, so none of them ends it. Its log
    begins with the test. `servers.on` says which."""
    kept_server.begin_log()
    return kept_server


@pytest.fixture(scope="module")
def kept_redis() -> Iterator[RedisServer]:
    """A Redis server that the tests of a module share, so none of them ends it."""
    redis = RedisServer()
    yield redis
    redis.close()
