"""A server on a real socket that answers each connection by a script, byte by byte if need be."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
#: The head of a stream that ends with its connection.
STREAM = HEAD + b"Connection: close\r\n\r\n"
#: The head of a chunked one: without its last chunk it is cut.
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


def answer(status: int, *headers: str, body: bytes = b"") -> list[bytes]:
    """A whole response, and the end of its connection: another request needs another."""
    lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(body)}", "Connection: close"]
    return ["\r\n".join([*lines, *headers, "", ""]).encode() + body]


def nothing_to_come() -> list[bytes]:
    return [b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"]


class ScriptedServer:
    """A script is a list of bytes to send, of events to wait for, and `...`, which waits until the
    client has left. A connection beyond the last script is closed at once.

    Attributes:
        requests: The heads and bodies that came, in order.
        left: Is set when the client has left a script that waits for that.
    """

    def __init__(self, scripts: Sequence[Sequence[Any]]) -> None:
        self._scripts = list(scripts)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/stream"
        self.requests: list[bytes] = []
        self.left = threading.Event()
        self._open: list[socket.socket] = []
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._listening:
            while True:
                connection, _ = self._listening.accept()
                if self._closed.is_set():
                    connection.close()
                    return
                self._begin(connection)

    def _begin(self, connection: socket.socket) -> None:
        self._open.append(connection)
        script = self._scripts.pop(0) if self._scripts else ()
        threading.Thread(target=self._play, args=(connection, script), daemon=True).start()

    def _play(self, connection: socket.socket, script: Sequence[Any]) -> None:
        with connection:
            try:
                self.requests.append(_read_request(connection))
                for step in script:
                    if step is ...:
                        if not connection.recv(1):
                            self.left.set()
                    elif isinstance(step, threading.Event):
                        assert step.wait(20)
                    else:
                        connection.sendall(step)
            except OSError:
                self.left.set()

    def header(self, number: int, name: str) -> bytes | None:
        """The value of a header of the request with a number, as it came."""
        head = self.requests[number].partition(b"\r\n\r\n")[0]
        for line in head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b": ")
            if key.lower() == name.lower().encode():
                return value
        return None

    def close(self) -> None:
        # Each thread closes its own socket. Another could close it at the moment in which the
        # thread begins to wait: it would wait on the number that the next socket is given then,
        # and take its connection or its bytes.
        self._closed.set()
        socket.create_connection(self._listening.getsockname()).close()
        self._thread.join(20)
        for connection in self._open:
            with suppress(OSError):  # it is closed, or the client has left
                connection.shutdown(socket.SHUT_RDWR)


def _read_request(connection: socket.socket) -> bytes:
    request = b""
    while b"\r\n\r\n" not in request:
        request += _received(connection)
    head, _, body = request.partition(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    while len(body) < length:
        body += _received(connection)
    return head + b"\r\n\r\n" + body


def _received(connection: socket.socket) -> bytes:
    received = connection.recv(65536)
    if not received:
        raise ConnectionError("the client has left")
    return received


@contextmanager
def scripted(*scripts: Sequence[Any]) -> Iterator[ScriptedServer]:
    server = ScriptedServer(scripts)
    try:
        yield server
    finally:
        server.close()
