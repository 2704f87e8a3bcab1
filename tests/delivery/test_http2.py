"""The delivery rules over HTTP/2, where a client can read its connection and not open a window for
one of its streams."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import psutil
import pytest

from http2_connection import Http2Connection
from servers import APP, SERVERS, Server, fetch, until, uvicorn

# How a server asks its connections is no part of the core.
pytestmark = pytest.mark.once

COMMANDS = {
    "hypercorn": SERVERS["hypercorn"],
    "hypercorn-trio": SERVERS["hypercorn-trio"],
    "granian": SERVERS["granian"],
    "uvicorn-zttp": uvicorn(APP, "--http", "zttp", "--http2"),
}
Serve = Callable[..., Server]


@pytest.fixture(scope="module", params=COMMANDS)
def kept(request: pytest.FixtureRequest) -> Any:
    server = Server(command(request.param))
    yield server
    server.close()


@pytest.fixture
def server(kept: Server) -> Server:
    """Its log begins with the test."""
    kept.begin_log()
    return kept


def command(name: str) -> list[str]:
    if name == "uvicorn-zttp" and find_spec("zttp") is None:
        pytest.skip("zttp is not installed")
    return COMMANDS[name]


def test_d3_a_client_that_opens_no_window_stops_the_generator(server: Server) -> None:
    before_them = memory(server)
    with Http2Connection(server.port) as connection:
        streams = [connection.get("/flood", reads=False) for _ in range(4)]
        connection.read_until(lambda: all(len(connection.bodies[s]) == 65_535 for s in streams))

        def rests() -> bool:
            before = yielded(server)
            assert before < 20_000_000, "the generators go on"
            # Each answer gives a generator that is not paused many turns.
            return [yielded(server) for _ in range(10)] == [before] * 10

        until(rests)
        assert memory(server) - before_them < 32 * 2**20
        assert "closed" not in server.log
    until(lambda: server.log.count("closed") == 4)


def memory(server: Server) -> int:
    """Of the process that serves, whichever that is."""
    return int(psutil.Process(int(fetch(server, "/pid").split()[-1])).memory_info().rss)


def yielded(server: Server) -> int:
    return int(fetch(server, "/yielded").split()[-1])


def test_d9_a_client_that_opens_no_window_is_dropped(server: Server) -> None:
    """hypercorn and uvicorn reset its stream, and the other one of the connection goes on. granian
    cannot: there the connection is dropped."""
    granian = "granian" in server.command
    with Http2Connection(server.port) as connection:
        other = connection.get("/ticking")
        connection.read_until(lambda: connection.bodies[other].count(b"data: ") > 3)
        stalled = connection.get("/stalled", reads=False)
        if granian:
            with pytest.raises((AssertionError, ConnectionError)):
                connection.read_until(lambda: connection.reset)
        else:
            connection.read_until(lambda: connection.reset)
            assert connection.reset == {stalled}
            seen = len(connection.bodies[other])
            connection.read_until(lambda: len(connection.bodies[other]) > seen + 100)
        assert server.log.count("send_timeout (0.2 s)") == 1, server.log
    until(lambda: server.log.count("told") == server.log.count("closed") == 2)
    assert "Traceback" not in server.log, server.log


def test_d1_all_arrives_once_a_window_is_opened(server: Server) -> None:
    with Http2Connection(server.port) as connection:
        stream = connection.get("/numbers?n=100000&pause=100", reads=False)
        connection.read_until(lambda: len(connection.bodies[stream]) == 65_535)
        connection.begin_to_read(stream)
        connection.read_until(lambda: stream in connection.ended)
    assert connection.bodies[stream] == b"".join(b"data: %d\n\n" % n for n in range(100_000))


def test_d6_a_stream_that_fails_is_reset_after_its_last_event(server: Server) -> None:
    with Http2Connection(server.port) as connection:
        other = connection.get("/ticking")
        stream = connection.get("/fails?n=5")
        connection.read_until(lambda: stream in connection.reset | connection.ended)
        assert connection.reset == {stream}
        assert connection.bodies[stream].count(b"data: ") == 5
        seen = len(connection.bodies[other])
        connection.read_until(lambda: len(connection.bodies[other]) > seen)
    until(lambda: "told" in server.log)


@pytest.mark.parametrize("name", COMMANDS)
def test_d8_a_client_that_opens_no_window_cannot_hold_the_exit(serve: Serve, name: str) -> None:
    server = serve(command(name))
    with (
        Http2Connection(server.port) as alone,
        Http2Connection(server.port) as shared,
    ):
        unread = alone.get("/unread", reads=False)
        alone.read_until(lambda: len(alone.bodies[unread]) == 65_535)
        unread = shared.get("/unread", reads=False)
        other = shared.get("/idle")
        shared.read_until(lambda: shared.bodies[other] and len(shared.bodies[unread]) == 65_535)
        server.process.terminate()
        server.process.wait(10)  # cleanup_timeout is 1 s
    assert server.log.count("closed") == 3, server.log
    assert "/sserpent/" not in server.log, server.log
