"""Real servers as subprocesses, and how tests wait."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import warm

SUPPORT = Path(__file__).parent
TESTS = SUPPORT.parent


def until(condition: Callable[[], Any], timeout: float = 20.0) -> Any:
    """Waits for a condition to hold and returns its value."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{condition} did not hold within {timeout} s")
        time.sleep(0.01)


_held: dict[int, socket.socket] = {}


def free_port() -> int:
    """Picks a port that nobody else is given until `give_back`, or until this process ends."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    port = int(sock.getsockname()[1])
    if sys.platform == "linux":
        # Tests that run beside this one start servers too. Linux gives a bound port to nobody who
        # asks for any, but to a server that names it, if both have these options and the holder
        # does not listen. Elsewhere these options mean something else.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _held[port] = sock
    else:
        sock.close()
    return port


def give_back(port: int) -> None:
    if port in _held:
        _held.pop(port).close()


class Server:
    """A real server in a process of its own.

    `command` is the program with its arguments; "{port}" in them is replaced. `port` is one from
    `free_port`, where the program is told by other means.

    Attributes:
        is_forked: Whether it is forked from a process that has imported FastAPI, as `warm` says.
    """

    is_forked = sys.platform == "linux"

    def __init__(
        self,
        command: list[str],
        cwd: Path = SUPPORT,
        port: int | None = None,
        **environment: str,
    ) -> None:
        self.port = free_port() if port is None else port
        self.url = f"http://127.0.0.1:{self.port}"
        descriptor, path = tempfile.mkstemp(prefix="sserpent-test-", suffix=".log")
        self.log_path = Path(path)
        self._log = os.fdopen(descriptor, "w+b")
        self._log_begin = 0
        self.command = [part.replace("{port}", str(self.port)) for part in command]
        self.process = self._start(cwd, {**os.environ, "PYTHONUNBUFFERED": "1", **environment})
        try:
            self._wait_until_it_listens()
        except BaseException:
            self.close()
            raise

    def _start(self, cwd: Path, env: dict[str, str]) -> warm.Process | subprocess.Popen[bytes]:
        log = self._log.fileno()
        if self.is_forked and self.command[:2] == [sys.executable, "-m"]:
            return warm.Process(self.command, cwd, env, log)
        return subprocess.Popen(
            self.command, cwd=cwd, env=env, stdout=log, stderr=log, start_new_session=True
        )

    def _wait_until_it_listens(self) -> None:
        def listens() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the server did not start:\n{self.log}")
            try:
                self.connect().close()
            except OSError:
                return False
            return True

        until(listens, timeout=60)

    @property
    def log(self) -> str:
        return self.log_path.read_bytes()[self._log_begin :].decode(errors="replace")

    def begin_log(self) -> None:
        """Forgets what has been logged."""
        self._log_begin = self.log_path.stat().st_size

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()
        self.log_path.unlink(missing_ok=True)
        give_back(self.port)


def uvicorn(app: str, *options: str) -> list[str]:
    """The command that serves `app` ("module:name") on uvicorn."""
    command = [sys.executable, "-m", "uvicorn", app, "--port", "{port}", "--log-level", "info"]
    return [*command, *options]


#: The application that the tests of the delivery share.
APP = "delivery_app:app"


def commands(app: str) -> dict[str, list[str]]:
    """The commands that serve `app` ("module:name") on every server, by name."""
    granian = [sys.executable, "-m", "granian", "--interface", "asgi", "--port", "{port}", app]
    hypercorn = [sys.executable, "-m", "hypercorn", "--bind", "127.0.0.1:{port}", app]
    return {
        "uvicorn": uvicorn(app),
        "uvicorn-asyncio-h11": uvicorn(app, "--loop", "asyncio", "--http", "h11"),
        "uvicorn-workers": uvicorn(app, "--workers", "2"),
        "uvicorn-reload": uvicorn(app, "--reload", "--reload-include", "no-such-file"),
        "gunicorn": [
            *(sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:{port}", app),
            *("-k", "uvicorn_worker.UvicornWorker", "--workers", "2", "--graceful-timeout", "8"),
        ],
        "granian": granian,
        "granian-uvloop": [*granian, "--loop", "uvloop"],
        "hypercorn": hypercorn,
        "hypercorn-uvloop": [*hypercorn, "-k", "uvloop"],
        "hypercorn-trio": [*hypercorn, "-k", "trio"],
        "daphne": [sys.executable, "-m", "daphne", "-p", "{port}", "-b", "127.0.0.1", app],
    }


SERVERS = commands(APP)


def on(*names: str) -> pytest.MarkDecorator:
    """Has a test run on each of these servers, which the fixture `shared` gives it."""
    return pytest.mark.parametrize("kept_server", names, indirect=True)


def open_stream(server: Server, path: str) -> socket.socket:
    """Opens a stream and reads its first event."""
    connection = server.connect()
    # Without "close" hypercorn would wait for a next request on the connection.
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    connection.sendall(request.encode())
    received = b""
    while b"data: " not in received:
        chunk = connection.recv(65536)
        assert chunk, f"the stream ended early: {received!r}\n{server.log}"
        received += chunk
    return connection


def read_to_end(connection: socket.socket) -> bytes:
    received = b""
    while True:
        try:
            chunk = connection.recv(65536)
        except ConnectionResetError:
            return received
        if not chunk:
            return received
        received += chunk


def fetch(server: Server, path: str) -> str:
    with server.connect() as connection:
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        return read_to_end(connection).decode()
