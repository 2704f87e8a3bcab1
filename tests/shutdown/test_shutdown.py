"""D8: open streams do not keep a server from ending, whichever server and however it is told."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from servers import (
    APP,
    SERVERS,
    SUPPORT,
    Server,
    fetch,
    free_port,
    open_stream,
    read_to_end,
    until,
    uvicorn,
)

# What ends streams is no part of the core.
pytestmark = pytest.mark.once


def ends(server: Server, within: float) -> float:
    """Waits for the server's process to end and returns how long it took."""
    begin = time.monotonic()
    try:
        server.process.wait(within)
    except subprocess.TimeoutExpired:
        pytest.fail(f"the server still runs after {within} s\n{server.log}")
    return time.monotonic() - begin


Serve = Callable[..., Server]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
@pytest.mark.parametrize("name", SERVERS)
def test_a_server_with_open_streams_ends(serve: Serve, name: str, number: signal.Signals) -> None:
    if name == "gunicorn" and number is signal.SIGINT:
        pytest.skip("gunicorn sends its workers SIGQUIT then, of which uvicorn's takes no notice")
    server = serve(SERVERS[name])
    streams = [open_stream(server, path) for path in ("/idle", "/ticking", "/idle")]
    server.process.send_signal(number)
    ends(server, within=10)
    for stream in streams:
        read_to_end(stream)
        stream.close()
    # Daphne ends its process without waiting for its applications.
    if name != "daphne":
        assert server.log.count("closed") == 3, server.log
        # Nor does any traceback go through this package (hypercorn logs some of its own).
        assert "/sserpent/" not in server.log, server.log


@pytest.mark.parametrize("name", ["uvicorn", "granian", "hypercorn", "hypercorn-trio"])
def test_a_sync_generator_does_not_hold_the_server(serve: Serve, name: str) -> None:
    server = serve(SERVERS[name])
    stream = open_stream(server, "/sync-ticking")
    server.process.send_signal(signal.SIGTERM)
    ends(server, within=10)
    assert server.log.count("closed") == 1, server.log
    stream.close()


@pytest.mark.parametrize("name", ["uvicorn", "granian", "hypercorn", "hypercorn-trio"])
def test_a_generator_says_goodbye_within_the_grace(serve: Serve, name: str) -> None:
    server = serve(SERVERS[name])
    streams = [open_stream(server, path) for path in ("/goodbye", "/sync-goodbye")]
    server.process.send_signal(signal.SIGTERM)
    for stream in streams:
        farewell = read_to_end(stream)
        assert b"event: goodbye\ndata: true\n\n" in farewell
        assert farewell.endswith(b"0\r\n\r\n"), "the end of the body is missing"
        stream.close()
    ends(server, within=10)


def test_an_application_with_signal_handlers_of_its_own_stays_in_charge(serve: Serve) -> None:
    server = serve(uvicorn(APP), OWN_SIGNALS="1")
    stream = open_stream(server, "/ticking")
    taken = fetch(server, "/take-signals")
    # Its own handlers were put on top while the stream was open.
    server.process.send_signal(signal.SIGINT)
    until(lambda: "own handler 2" in server.log)
    # It does not let SIGINT through, so the stream goes on.
    assert stream.recv(100)
    assert "closed" not in server.log
    server.process.send_signal(signal.SIGTERM)
    ends(server, within=10)
    assert server.log.count("own handler 15") == 1
    assert server.log.count("closed") == 1
    assert taken
    stream.close()


def test_handlers_set_before_the_first_stream_are_left_in_place(serve: Serve) -> None:
    server = serve(uvicorn(APP), OWN_SIGNALS="1")
    assert "handle_exit" in fetch(server, "/take-signals")
    stream = open_stream(server, "/ticking")
    server.process.send_signal(signal.SIGTERM)
    ends(server, within=10)
    assert server.log.count("own handler 15") == 1
    assert server.log.count("closed") == 1
    stream.close()


def test_the_servers_handlers_are_back_after_the_last_stream(serve: Serve) -> None:
    server = serve(uvicorn(APP), OWN_SIGNALS="1")
    stream = open_stream(server, "/idle")
    stream.close()
    until(lambda: "closed" in server.log)
    assert "Server.handle_exit" in fetch(server, "/take-signals")


class Embedded:
    """Two uvicorn servers in one process, stopped by their `should_exit`."""

    def __init__(self, how: str) -> None:
        self.ports = [free_port(), free_port()]
        command = [sys.executable, "delivery_app.py", how, *map(str, self.ports)]
        self.process = subprocess.Popen(
            command,
            cwd=SUPPORT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            for port in self.ports:
                until(lambda port=port: self._listens(port), timeout=60)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _listens(self, port: int) -> bool:
        assert self.process.poll() is None, "the process has ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            return False
        return True

    def open_stream(self, which: int, path: str) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.ports[which]), timeout=20)
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        received = b""
        while b"data: " not in received:
            received += connection.recv(65536)
        return connection

    def stop(self, which: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{which}\n")
        self.process.stdin.flush()

    def wait_for(self, text: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if text in line:
                return
        pytest.fail(f"the process ended without {text!r}")


@pytest.mark.parametrize("how", ["threads", "loop"])
def test_one_of_two_servers_in_a_process_ends_alone(how: str) -> None:
    servers = Embedded(how)
    try:
        first = servers.open_stream(0, "/idle")
        second = servers.open_stream(1, "/ticking")
        servers.stop(0)
        servers.wait_for("server 0 ended")
        read_to_end(first)
        # The other's stream goes on.
        for _ in range(5):
            assert b"data: " in second.recv(4096)
        servers.stop(1)
        servers.wait_for("server 1 ended")
        first.close()
        second.close()
    finally:
        servers.close()


def test_the_event_exists_wherever_there_is_an_event_loop() -> None:
    import asyncio

    import sserpent

    async def look() -> bool:
        return sserpent.shutdown_event().is_set()

    assert asyncio.run(look()) is False


def test_a_handler_that_nobody_set_is_left_alone() -> None:
    """In a process without a server a signal still does what it did."""
    program = """
import asyncio, os, signal, sys
sys.path.insert(0, {tests!r})
from asgi import Connection
from sserpent import EventSourceResponse
async def content():
    yield 1
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(10)
asyncio.run(Connection().run(EventSourceResponse(content())))
"""
    ended: Any = subprocess.run(
        [sys.executable, "-c", program.format(tests=str(SUPPORT))], timeout=30, check=False
    )
    assert ended.returncode == -signal.SIGTERM
