"""The delivery rules on real servers, with clients that stop reading, reset, or vanish."""

import random
import re
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from servers import APP, SERVERS, Server, fetch, on, open_stream, read_to_end, until, uvicorn

Serve = Callable[..., Server]


@pytest.fixture(scope="module")
def uvicorn_server() -> Any:
    server = Server(uvicorn(APP, "--log-level", "warning"))
    yield server
    server.close()


def resources(server: Server) -> dict[str, int]:
    return dict(httpx.get(f"{server.url}/resources", timeout=20).json())


def is_back(server: Server, before: dict[str, int]) -> Callable[[], bool]:
    def check() -> bool:
        now = resources(server)
        return all(now[each] <= before[each] + 3 for each in ("tasks", "threads", "files"))

    return check


def reset(connection: socket.socket) -> None:
    """Closes with RST, as a client does that has crashed."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def data_of(raw: bytes) -> list[str]:
    return re.findall(r"^data: (.*)$", raw.decode(), re.MULTILINE)


# D3


def test_d3_memory_is_bounded_for_a_client_that_never_reads(uvicorn_server: Server) -> None:
    before = resources(uvicorn_server)
    opened = uvicorn_server.log.count("opened")
    streams = []
    for _ in range(20):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", uvicorn_server.port))
        connection.sendall(b"GET /never-read HTTP/1.1\r\nHost: localhost\r\n\r\n")
        streams.append(connection)
    until(lambda: uvicorn_server.log.count("opened") == opened + 20)
    time.sleep(0.5)  # the generators never stop: give unbounded growth a chance
    grown = resources(uvicorn_server)["memory"] - before["memory"]
    assert grown < 20 * 1024 * 1024
    for connection in streams:
        connection.close()
    until(is_back(uvicorn_server, before))


# D4


def test_d4_keep_alives_are_no_events(uvicorn_server: Server) -> None:
    connection = open_stream(uvicorn_server, "/pinged")
    received = b""
    while received.count(b": ping\n") < 3:
        received += connection.recv(1000)
    connection.close()
    assert b"\n\n" not in re.sub(rb"[0-9a-f]+\r\n|\r\n", b"", received).partition(b": ping\n")[2]


# D5


def test_d5_headers_of_a_silent_stream_come_after_open_delay(uvicorn_server: Server) -> None:
    with uvicorn_server.connect() as connection:
        connection.sendall(b"GET /silent HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")


# D6


@pytest.mark.parametrize("path", ["/fails?n=5", "/fails-sync?n=5", "/fails?n=1"])
@on("uvicorn", "uvicorn-asyncio-h11", "granian", "hypercorn")
def test_d6_the_connection_is_aborted_after_the_last_event(shared: Server, path: str) -> None:
    response = fetch(shared, path)
    n = int(path[-1])
    assert data_of(response.encode()) == [str(number) for number in range(n)]
    assert not response.endswith("0\r\n\r\n"), "the response was ended as if it were whole"
    until(lambda: "failed on purpose" in shared.log)
    assert shared.log.count("LookupError: failed on purpose") == 1, shared.log
    assert "Group" not in shared.log
    with (
        httpx.Client(base_url=shared.url, timeout=20) as client,
        client.stream("GET", path) as stream,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        stream.read()
    # No test that follows finds it in its log.
    until(lambda: shared.log.count("LookupError: failed on purpose") == 2)


@on("uvicorn")
def test_d6_an_item_that_cannot_be_encoded_is_blamed_on_its_endpoint(shared: Server) -> None:
    assert data_of(fetch(shared, "/unencodable").encode()) == ['"fine"']
    until(lambda: "delivery_app.unencodable" in shared.log)
    assert "Traceback" in shared.log
    assert "_thread.lock" in shared.log


# D7


@pytest.mark.parametrize("leave", [socket.socket.close, reset], ids=["close", "reset"])
@pytest.mark.parametrize("path", ["/idle", "/ticking", "/sync-ticking", "/sync-awaits"])
@on("uvicorn", "granian", "hypercorn", "hypercorn-trio", "daphne")
def test_d7_a_client_that_leaves_is_noticed(
    shared: Server, path: str, leave: Callable[[socket.socket], None]
) -> None:
    leave(open_stream(shared, path))
    until(lambda: "closed" in shared.log and "told" in shared.log)
    assert shared.log.count("closed") == 1
    assert shared.log.count("told") == 1
    assert "Traceback" not in shared.log, shared.log


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio does not say who was cancelled")
@on("uvicorn", "granian", "hypercorn", "hypercorn-trio")
def test_d7_an_on_disconnect_that_is_cancelled_from_within_is_no_cancelled_request(
    shared: Server,
) -> None:
    open_stream(shared, "/cancelling").close()
    until(lambda: "closed" in shared.log and "on_disconnect of" in shared.log)
    assert shared.log.count("Traceback") == 1, shared.log
    assert "thrown into a dependency" not in shared.log, shared.log


@on("uvicorn", "granian", "hypercorn", "hypercorn-trio")
def test_d7_a_generator_that_asks_for_the_disconnect_itself(shared: Server) -> None:
    stream = open_stream(shared, "/asking")
    received = b""
    while received.count(b"data: ") < 50:
        received += stream.recv(4096)
    reset(stream)
    until(lambda: "closed" in shared.log)
    assert "Traceback" not in shared.log, shared.log


def test_d7_a_client_that_vanishes_before_the_first_event(uvicorn_server: Server) -> None:
    before = resources(uvicorn_server)
    for _ in range(20):
        connection = uvicorn_server.connect()
        connection.sendall(b"GET /silent HTTP/1.1\r\nHost: localhost\r\n\r\n")
        reset(connection)
    until(is_back(uvicorn_server, before))


# D9


def unreading(server: Server, path: str) -> socket.socket:
    """A client that asks, and reads nothing."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return connection


def established(server: Server) -> set[int]:
    """The ports of the clients whose connections are still open at the server's end."""
    return {
        each.raddr.port
        for each in psutil.net_connections("tcp")
        if each.laddr and each.laddr.port == server.port
        if each.raddr and each.status == psutil.CONN_ESTABLISHED
    }


@pytest.mark.parametrize(
    "name",
    [
        *("uvicorn", "uvicorn-asyncio-h11", "gunicorn", "granian", "granian-uvloop"),
        *("hypercorn", "hypercorn-trio"),
    ],
)
def test_d9_a_client_that_does_not_read_is_dropped(serve: Serve, name: str) -> None:
    server = serve(SERVERS[name])
    clients = [unreading(server, "/stalled") for _ in range(5)]
    until(lambda: server.log.count("closed") == server.log.count("told") == 5)
    assert server.log.count("send_timeout (0.2 s)") == 5
    # The worker goes on, and their connections are really gone.
    assert data_of(fetch(server, "/numbers?n=3").encode()) == ["0", "1", "2"]
    ports = {client.getsockname()[1] for client in clients}
    until(lambda: not ports & established(server))
    assert "Traceback" not in server.log, server.log
    server.process.terminate()
    assert server.process.wait(10) is not None
    for client in clients:
        client.close()


@pytest.mark.skipif(sys.platform != "linux", reason="no other system says what is not read")
@pytest.mark.parametrize("name", ["uvicorn", "uvicorn-asyncio-h11", "hypercorn", "hypercorn-trio"])
def test_d9_a_client_that_reads_slowly_is_not_dropped_before_it_stops(
    serve: Serve, name: str
) -> None:
    """A `send` goes on when a third of the system's buffer is free, which takes this client longer
    than `send_timeout`."""
    server = serve(SERVERS[name])
    with unreading(server, "/much") as client:
        client.settimeout(20)
        end = time.monotonic() + 6
        while time.monotonic() < end:
            assert client.recv(30_000)
            time.sleep(0.1)
        assert "send_timeout" not in server.log
        until(lambda: "send_timeout (1.0 s)" in server.log and "closed" in server.log)
    assert "Traceback" not in server.log


@pytest.mark.parametrize(
    "name",
    ["uvicorn", "uvicorn-asyncio-h11", "uvicorn-workers", "gunicorn", "hypercorn", "granian"],
)
def test_d8_a_client_that_does_not_read_cannot_hold_the_exit(serve: Serve, name: str) -> None:
    server = serve(SERVERS[name])
    # granian's `send` takes all of a last event: what is still unread then is its own.
    paths = ["/unread", "/unread", "/unread-end", "/unread-end"][: 2 if name == "granian" else 4]
    clients = [unreading(server, path) for path in paths]
    until(lambda: server.log.count("begun") == len(paths))
    server.process.terminate()
    server.process.wait(10)  # cleanup_timeout is 1 s
    assert server.log.count("closed") == len(paths), server.log
    assert "/sserpent/" not in server.log, server.log
    for client in clients:
        client.close()


@pytest.mark.parametrize("name", ["uvicorn", "granian"])
def test_d8_a_whole_stream_that_nobody_reads_cannot_hold_the_exit(serve: Serve, name: str) -> None:
    """What was sent is the server's by then: it takes all of an event."""
    server = serve(SERVERS[name])
    client = unreading(server, "/unread-goodbye")
    until(lambda: "begun" in server.log)
    server.process.terminate()
    until(lambda: "closed" in server.log)
    server.process.wait(10)  # cleanup_timeout is 1 s
    client.close()


def test_d8_a_server_with_a_bound_of_its_own_keeps_it(serve: Serve) -> None:
    """hypercorn cancels its requests after 3 s, while `cleanup_timeout` is 30 s. All at once: each
    takes its 3 s."""
    interrupted, told_twice, on_trio = servers = [
        serve(SERVERS[kind]) for kind in ("hypercorn", "hypercorn", "hypercorn-trio")
    ]
    clients = [unreading(server, "/never-read") for server in servers]
    for server in servers:
        until(lambda server=server: "opened" in server.log)
    time.sleep(0.5)  # until their sends wait
    interrupted.process.send_signal(signal.SIGINT)
    on_trio.process.terminate()
    told_twice.process.terminate()
    until(lambda: "closed" in told_twice.log)
    told_twice.process.terminate()
    for server in servers:
        server.process.wait(25)  # less than `cleanup_timeout`, on a busy machine too
        assert server.log.count("closed") == 1, server.log
    for client in clients:
        client.close()


@pytest.mark.parametrize("path", ["/unread", "/timed-unread"])
def test_d8_granian_ends_again_and_again(serve: Serve, path: str) -> None:
    """Where a `send` waited when its connection went, one worker of three stayed for good."""
    servers = [serve(SERVERS["granian"]) for _ in range(5)]
    clients = [unreading(server, path) for server in servers]
    for server in servers:
        until(lambda server=server: "begun" in server.log)
    for server in servers:
        server.process.terminate()
    for server in servers:
        server.process.wait(15)
        assert server.log.count("closed") == 1, server.log
    for client in clients:
        client.close()


def test_d9_the_memory_of_clients_that_do_not_read_goes_back(serve: Serve) -> None:
    server = serve(uvicorn(APP))
    fetch(server, "/numbers?n=3")
    before = resources(server)
    clients = [unreading(server, "/stalled") for _ in range(20)]
    until(lambda: server.log.count("told") == 20)
    until(is_back(server, before))
    assert resources(server)["memory"] < before["memory"] + 10 * 1024 * 1024
    for client in clients:
        client.close()


# D6, D8: a stream that is cut must not look complete


@pytest.mark.parametrize("name", ["uvicorn", "uvicorn-asyncio-h11", "granian", "hypercorn"])
def test_d8_a_stream_that_is_cut_by_a_shutdown_does_not_look_complete(
    serve: Serve, name: str
) -> None:
    server = serve(SERVERS[name])
    streams = [open_stream(server, path) for path in ("/idle", "/ticking", "/idle")]
    server.process.terminate()
    for stream in streams:
        assert not read_to_end(stream).endswith(b"0\r\n\r\n")
        stream.close()
    server.process.wait(10)
    # Not a line for each stream.
    assert "without completing" not in server.log, server.log
    assert "Traceback" not in server.log or name == "hypercorn", server.log
    assert "/sserpent/" not in server.log, server.log


@pytest.mark.parametrize("name", ["uvicorn", "granian", "hypercorn", "hypercorn-trio"])
def test_d8_a_request_accepted_before_the_signal_is_a_whole_200(serve: Serve, name: str) -> None:
    server = serve(SERVERS[name])
    holding = open_stream(server, "/hold")
    late = server.connect()
    late.sendall(b"GET /late HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    until(lambda: "accepted" in server.log)
    server.process.terminate()
    received = read_to_end(late)
    assert received.startswith(b"HTTP/1.1 200"), received
    # granian knows by then that there is nothing more to come.
    assert received.endswith(b"0\r\n\r\n") or b"content-length: 0" in received
    assert b"data" not in received
    server.process.wait(10)
    assert "/sserpent/" not in server.log, server.log
    holding.close()
    late.close()


def test_d8_a_client_notices_the_cut(serve: Serve) -> None:
    server = serve(uvicorn(APP))
    with httpx.Client(timeout=20) as client, client.stream("GET", f"{server.url}/idle") as response:
        parts = response.iter_raw()
        assert b"first" in next(parts)
        server.process.terminate()
        with pytest.raises(httpx.RemoteProtocolError):
            list(parts)


# D10


def test_d10_idle_sync_streams_do_not_starve_sync_routes(uvicorn_server: Server) -> None:
    streams = [open_stream(uvicorn_server, "/sync-idle?seconds=3600") for _ in range(60)]
    assert "answered" in fetch(uvicorn_server, "/sync-route")
    for stream in streams:
        stream.close()


# Many streams


@pytest.mark.alone
@pytest.mark.timeout(300)
def test_a_thousand_streams_of_which_half_vanish(serve: Serve) -> None:
    """The other half gets every event in order, and everything is given back."""
    server = serve(uvicorn(APP, "--log-level", "warning"))
    # Once through, so that what is allocated once is there.
    assert run_streams(server, 1_000) == []
    until(is_back(server, {"tasks": 5, "threads": 45, "files": 60, "memory": 0}))
    before = resources(server)
    assert run_streams(server, 1_000) == []
    until(is_back(server, before))
    assert resources(server)["memory"] < before["memory"] * 1.2 + 10 * 1024 * 1024


def run_streams(server: Server, count: int) -> list[str]:
    chance = random.Random(count)
    lock = threading.Lock()
    failures = []

    def run(number: int) -> None:
        vanishes = number % 2 == 0
        connection = server.connect()
        connection.sendall(
            b"GET /numbers?n=300&pause=7 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        if vanishes:
            with lock:
                amount = chance.randrange(2_000)
            received = b""
            while len(received) < amount:
                chunk = connection.recv(512)
                if not chunk:
                    break
                received += chunk
            reset(connection)
            return
        received = read_to_end(connection)
        connection.close()
        expected = [str(i) for i in range(300)]
        if data_of(received) != expected or not received.endswith(b"0\r\n\r\n"):
            with lock:
                failures.append(f"{number}: {data_of(received)[-3:]}")

    with ThreadPoolExecutor(100) as pool:
        list(pool.map(run, range(count)))
    return failures


def test_the_engine_is_the_one_that_was_asked_for(uvicorn_server: Server) -> None:
    # Guards the tests above: sserpent's keep-alive and its compact JSON, not FastAPI's.
    assert "sserpent" in sys.modules
    # A client that knows chunks: on a busy machine the events are not in one.
    assert "data: 0\n\ndata: 1\n\n" in httpx.get(f"{uvicorn_server.url}/numbers?n=2").text


@on("uvicorn")
def test_d7_a_pipelined_client_that_leaves_is_no_failure(shared: Server) -> None:
    """uvicorn tells only the newest of a connection's requests that it is gone, and a transport of
    uvloop's raises RuntimeError when the other writes to it."""
    client = shared.connect()
    client.sendall(b"GET /ticking HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2)
    until(lambda: "opened" in shared.log)
    client.close()
    until(lambda: "told" in shared.log and "closed" in shared.log)
    assert "Traceback" not in shared.log
