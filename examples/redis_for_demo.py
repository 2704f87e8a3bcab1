"""The Redis of the demo: the one that REDIS_URL names, or one of its own, if that is installed."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from os import environ


@contextmanager
def redis_url() -> Iterator[str | None]:
    """Returns the URL of a Redis server for as long as a `with` block lasts, None if there is none.

    Raises:
        RuntimeError: the server of its own does not start.
    """
    if find_spec("redis") is None or find_spec("hiredis") is None:
        yield None
    elif url := environ.get("REDIS_URL"):
        yield url
    elif shutil.which("redis-server") is None:
        yield None
    else:
        with _own_redis() as url:
            yield url


@contextmanager
def _own_redis() -> Iterator[str]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        try:
            _wait_until_it_listens(process, port)
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 20
    while not _listens(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("redis-server did not start")
        time.sleep(0.05)


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
