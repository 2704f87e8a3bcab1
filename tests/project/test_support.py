"""Tests of the code that other tests use."""

from __future__ import annotations

import os
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import warm
from scripted_server import STREAM, scripted
from servers import until

pytestmark = pytest.mark.once


@pytest.mark.skipif(sys.platform != "linux", reason="servers are forked on Linux alone")
def test_threads_that_start_processes_together_each_have_their_own(tmp_path: Path) -> None:
    (tmp_path / "say_pid.py").write_text("import os\nprint(os.getpid())\n")

    def start(number: int) -> tuple[int, int]:
        log = tmp_path / str(number)
        with log.open("wb") as opened:
            command = [sys.executable, "-m", "say_pid"]
            process = warm.Process(command, tmp_path, dict(os.environ), opened.fileno())
            process.wait(20)
        return process.pid, int(log.read_text())

    with ThreadPoolExecutor(8) as threads:
        pids = list(threads.map(start, range(24)))
    assert [pid for pid, _ in pids] == [said for _, said in pids]


def test_a_scripted_server_that_is_closed_waits_for_nothing() -> None:
    before = set(threading.enumerate())
    with scripted([STREAM, ...]) as server:
        address = "127.0.0.1", urlsplit(server.url).port or 0
        connection = socket.create_connection(address)
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert connection.recv(1)
    with connection, pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    until(lambda: set(threading.enumerate()) <= before)
