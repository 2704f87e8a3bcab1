"""Channels on real servers, with clients that come back, stall, vanish, and reset."""

from __future__ import annotations

import random
import selectors
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from channel_clients import Seen, seen_in, seen_of
from servers import Server, commands, on, read_to_end, until
from sse_parser import parse

Serve = Callable[..., Server]
APP = "channels_app:app"
SERVERS = commands(APP)
NAMES = ["uvicorn", "uvicorn-asyncio-h11", "granian", "hypercorn", "hypercorn-trio"]


class Stream:
    """A client of one server, by hand: what it was sent, without the chunks of HTTP."""

    def __init__(
        self, server: Server, path: str = "/news", small: bool = False, **headers: str
    ) -> None:
        self.connection = socket.socket()
        self.connection.settimeout(20)
        if small:  # little of what is not read is kept on its way
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        self.connection.connect(("127.0.0.1", server.port))
        # Without "close" hypercorn would wait for a next request on the connection.
        lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.connection.sendall("\r\n".join([*lines, "", ""]).encode())
        self.raw = b""

    def read(self, size: int = 65_536) -> bool:
        """Reads once, and returns whether there was anything."""
        try:
            received = self.connection.recv(size)
        except ConnectionError:
            return False
        self.raw += received
        return bool(received)

    def until(self, condition: Callable[[], Any]) -> None:
        while not condition():
            assert self.read(), f"the stream ended: {self.raw[-300:]!r}"

    @property
    def head(self) -> str:
        return self.raw.partition(b"\r\n\r\n")[0].decode()

    @property
    def body(self) -> bytes:
        """The body, without the chunk that is not whole yet."""
        rest = self.raw.partition(b"\r\n\r\n")[2]
        if "chunked" not in self.head.lower():
            return rest
        body = b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size, 16) if size else 0
            if not length or len(rest) < length + 2:
                break
            body += rest[:length]
            rest = rest[length + 2 :]
        return body

    @property
    def is_complete(self) -> bool:
        return "chunked" not in self.head.lower() or self.raw.endswith(b"0\r\n\r\n")

    @property
    def seen(self) -> list[Seen]:
        return seen_in(self.body)

    def opened(self) -> Stream:
        """Waits for the position, with which the client is subscribed."""
        self.until(lambda: b"\nid: " in self.raw)
        return self

    def reset(self) -> None:
        """Closes with RST, as a client does that has crashed."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


def subscribers(server: Server) -> int:
    return int(httpx.get(f"{server.url}/resources", timeout=20).json()["subscribers"])


def reconnecting(server: Server, seed: int, count: int) -> list[Seen]:
    """What a client sees that leaves at random and comes back with its last ID, until the last."""
    randomly = random.Random(seed)
    seen: list[Seen] = []
    last_id = ""
    while not (seen and seen[-1].type == "message" and seen[-1].data[0] == count - 1):
        stream = Stream(server, "/news?start=earliest", Last_Event_ID=last_id)
        enough = randomly.randrange(200, 60_000)
        last = f"data: [{count - 1},".encode()
        while len(stream.raw) < enough and last not in stream.raw[-66_000:]:
            if not stream.read(randomly.choice([100, 1_000, 65_536])):
                break
        received = parse(stream.body)
        seen += seen_of(received)
        last_id = received.last_event_id or last_id
        stream.connection.close() if randomly.random() < 0.5 else stream.reset()
    return seen


@pytest.mark.parametrize("history", [1_000_000, 20])
@pytest.mark.parametrize("name", ["uvicorn", "granian", "hypercorn"])
def test_clients_that_come_back_get_each_event_once_in_order_or_an_exact_gap(
    serve: Serve, name: str, history: int
) -> None:
    server = serve(SERVERS[name], HISTORY=str(history))
    count = 5_000
    with ThreadPoolExecutor(20) as threads:
        reading = [threads.submit(reconnecting, server, seed, count) for seed in range(20)]
        until(lambda: subscribers(server) > 10)
        httpx.post(f"{server.url}/publish/{count}?pause=0.002", timeout=20).raise_for_status()
        results = [each.result(100) for each in reading]
    for seen in results:
        expected = 0
        for each in seen:
            if each.type == "gap":
                expected += each.data["missed"]
            else:
                assert each.type == "message"
                assert each.data[0] == expected
                expected += 1
        assert expected == count
        if history > count:
            assert len(seen) == count
    until(lambda: not subscribers(server))


def read_until(streams: list[Stream], last: bytes, kept: list[Stream]) -> None:
    """Reads all streams as their data come, until each has the last of it.

    Args:
        kept: The streams of which all is kept; of the others, the end.
    """
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream.connection, selectors.EVENT_READ, stream)
        while selector.get_map():
            ready = selector.select(20)
            assert ready, "nothing comes any more"
            for key, _ in ready:
                stream = key.data
                assert stream.read(262_144), "the stream ended"
                if last in stream.raw[-270_000:]:
                    selector.unregister(stream.connection)
                if stream not in kept:
                    stream.raw = stream.raw[-5_000:]


@pytest.mark.alone
def test_a_thousand_clients_of_whom_some_stall_vanish_and_reset(serve: Serve) -> None:
    server = serve([*SERVERS["uvicorn"], "--log-level", "warning"], HISTORY="500")
    before = httpx.get(f"{server.url}/resources", timeout=20).json()
    streams = [Stream(server, small=700 <= n < 800) for n in range(1_000)]
    for stream in streams:
        stream.opened()
    assert subscribers(server) == 1_000
    good, stalled = streams[:700], streams[700:800]
    vanishing, resetting = streams[800:900], streams[900:]
    httpx.post(f"{server.url}/publish/1000?size=1000&pause=0.02", timeout=20).raise_for_status()
    for stream in vanishing:
        stream.connection.close()
    for stream in resetting:
        stream.reset()
    read_until(good, b"data: [999,", kept=good[::50])
    for stream in good[::50]:
        missed = sum(each.data["missed"] for each in stream.seen if each.type == "gap")
        assert len([each for each in stream.seen if each.type == "message"]) + missed == 1_000
    for stream in good:
        stream.connection.close()
    # Those who do not read are dropped after `send_timeout`, once no buffer takes more.
    httpx.post(f"{server.url}/publish/5000?size=1000&pause=0.01", timeout=20).raise_for_status()
    until(lambda: not subscribers(server), timeout=60)
    for stream in stalled:
        stream.connection.close()
    after = httpx.get(f"{server.url}/resources", timeout=20).json()
    assert after["tasks"] <= before["tasks"] + 3
    assert after["files"] <= before["files"] + 3


@pytest.mark.parametrize("name", NAMES)
def test_c17_a_shutdown_says_farewell_to_all_and_ends_complete(serve: Serve, name: str) -> None:
    server = serve(SERVERS[name])
    streams = [Stream(server).opened() for _ in range(10)]
    httpx.post(f"{server.url}/publish/5", timeout=20).raise_for_status()
    for stream in streams:
        stream.until(lambda stream=stream: len(stream.seen) == 5)
    begin = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    for stream in streams:
        stream.raw += read_to_end(stream.connection)
        *_, comment, retry, rest = stream.body.decode().split("\n")
        assert comment.startswith(":")
        assert 1_000 <= int(retry.removeprefix("retry: ")) <= 5_000
        assert rest == ""
        assert stream.is_complete
        assert [each.data[0] for each in stream.seen] == list(range(5))
        stream.connection.close()
    try:
        server.process.wait(20)
    except subprocess.TimeoutExpired:
        pytest.fail(f"it still runs after {time.monotonic() - begin} s\n{server.log}")
    assert "/sserpent/" not in server.log, server.log


@on(*NAMES)
def test_c18_caps_are_503_or_a_clean_end_for_who_comes_back(shared: Server) -> None:
    path = "/news?owner=a"
    held = [Stream(shared, path).opened() for _ in range(2)]
    refused = httpx.get(f"{shared.url}{path}", timeout=20)
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) > 0
    back = httpx.get(f"{shared.url}{path}", headers={"Last-Event-ID": "a-1-1"}, timeout=20)
    assert back.status_code == 200
    assert back.headers["content-type"].startswith("text/event-stream")
    retry = parse(back.content).retry
    assert retry is not None
    assert 5_000 <= retry <= 15_000
    held[0].reset()

    def is_free() -> bool:
        stream = Stream(shared, path)
        stream.until(lambda: b"\r\n\r\n" in stream.raw)
        stream.connection.close()
        return " 200 " in stream.head.splitlines()[0]

    until(is_free)
    held[1].connection.close()


@on(*NAMES)
def test_a_client_that_leaves_is_noticed_on_an_idle_subscription(shared: Server) -> None:
    streams = [Stream(shared).opened() for _ in range(4)]
    knows = "trio" not in shared.command
    until(lambda: not knows or subscribers(shared) == 4)
    streams[0].connection.close()
    streams[1].reset()
    until(lambda: not knows or subscribers(shared) == 2)
    httpx.post(f"{shared.url}/publish/3", timeout=20).raise_for_status()
    for stream in streams[2:]:
        stream.until(lambda stream=stream: len(stream.seen) == 3)
        stream.connection.close()
