"""500 clients reconnect at once to a history that has begun anew, over a real server: `python -m
benches.channels.snapshot_herd`.

With `snapshot=` each gets the state in its stream. Without, each gets a `reset` and asks for the
state in a request of its own. What is compared is the server's processor time.

The goal is a quarter. That is less than FastAPI takes to come to an endpoint: a route that returns
one prepared event and waits takes 0.33, bare ASGI 0.12. The snapshot is framed once, and uvloop
joins headers and first body into one write, so that what is left is the request.
"""

from __future__ import annotations

import json
import socket
import statistics
import urllib.request
from contextlib import closing
from time import monotonic

from benches.harness.servers import Server, uvicorn

CLIENTS = 500
ROUNDS = 7
APP = "benches.channels.snapshot_herd_app:app"
LATE = "Last-Event-ID: 0123456789abcdef-7-7\r\n"


def request(path: str, headers: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode()


def read_until(sock: socket.socket, end: bytes) -> None:
    received = b""
    while end not in received[-200:]:
        chunk = sock.recv(1 << 18)
        assert chunk, received[:300]
        received += chunk


def herd(server: Server, path: str) -> tuple[float, float]:
    """Returns the processor time of the server for each client, and how long they have waited for
    their first event, both in milliseconds."""
    socks = [server.connect() for _ in range(CLIENTS)]
    cpu, began = server.cpu_seconds(), monotonic()
    for sock in socks:
        sock.sendall(request(f"/{path}", LATE))
    for sock in socks:
        read_until(sock, b"\n\n")
    waited = monotonic() - began
    if path == "reset":
        fetches = [server.connect() for _ in range(CLIENTS)]
        for sock in fetches:
            sock.sendall(request("/state", "Connection: close\r\n"))
        for sock in fetches:
            read_until(sock, b'"}')
            sock.close()
    used = server.cpu_seconds() - cpu
    for sock in socks:
        sock.close()
    return used / CLIENTS * 1e3, waited * 1e3


def calls_of(server: Server) -> int:
    with urllib.request.urlopen(f"{server.url}/calls") as response:
        return int(json.load(response))


def main() -> None:
    with closing(Server(uvicorn(APP))) as server:
        herd(server, "snapshot")
        herd(server, "reset")
        ratios, calls = [], []
        for _ in range(ROUNDS):
            before = calls_of(server)
            snapshot, waited = herd(server, "snapshot")
            calls.append(calls_of(server) - before)
            reset, _ = herd(server, "reset")
            ratios.append(snapshot / reset)
            print(
                f"snapshot {snapshot:.3f} ms, reset and GET {reset:.3f} ms of processor time for"
                f" each: {ratios[-1]:.2f}; {calls[-1]} calls, all in {waited:.0f} ms"
            )
        print(f"median ratio {statistics.median(ratios):.2f}, most calls {max(calls)}")


if __name__ == "__main__":
    main()
